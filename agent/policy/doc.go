// Package policy decides whether a connection may reach a workload.
//
// The model is istio.security.Authorization: L4 ALLOW and DENY policies over
// the verified identity of the source, its address, and the destination's
// address and port.
//
// # Limitations
//
// Only what a layer 4 proxy sees can be matched: no request attributes, no
// custom or audit actions. A source network name is not part of a match.
package policy
