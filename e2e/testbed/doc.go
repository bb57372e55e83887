// Package testbed is a mesh small enough to hold in one's head: two nodes with
// an agent process each, four pods, one service, and what an operator would
// look at.
package testbed
