// Package ingress is the edge: it terminates TLS and QUIC, and hands each request
// to the rule of a route that it matches.
//
// A Server serves one immutable Config, and swaps it for the next without touching
// a socket that stays or a connection that lives.
package ingress
