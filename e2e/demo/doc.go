// Package demo builds two nodes in network namespaces, runs an agent on each,
// and shows what a mesh promises with evidence taken from the wire, the logs
// and the metrics.
//
// # Limitations
//
// It needs root, Linux, and a kernel with nftables. It runs once per machine
// at a time. The evidence is what this run saw: it proves presence, and
// absence only for the traffic of this run.
package demo
