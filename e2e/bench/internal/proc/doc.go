// Package proc runs the processes of a bench and measures what they and the machine consume.
//
// Workers are processes of ours that take orders over their standard input; Programs are anybody's. All are started by a Nursery,
// in which they share a network namespace and processors, and none outlives it.
package proc
