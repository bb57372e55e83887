// Package tools pins what builds and checks adit in a module of its own, so
// that none of it enters the product's dependency graph.
package tools
