// Package conformance runs the official suite of Gateway API (sigs.k8s.io/gateway-api/conformance) against adit's
// manifests on a real cluster of two nodes.
//
// It is a module of its own: what the suite and its backends need is not in adit's dependency graph. The backends
// are the suite's own, built from their modules: echo-basic, and CoreDNS with the plugins that the suite uses.
package conformance
