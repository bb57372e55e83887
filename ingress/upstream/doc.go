// Package upstream carries requests and connections to the endpoints of backends.
//
// What is known of an endpoint (its connections, how busy and how well it is) is
// shared by every cluster that names it with the same TLS, and outlives changes of
// all of them.
//
//	Set ──── Cluster (by Key) ──── Host, Host, …      swapped whole by Apply
//	                                │
//	                              peer               one per address and TLS
//	                                ├── health        backoff after failed connects
//	                                ├── HTTP/1.1      a stack of idle connections
//	                                └── HTTP/2        connections with free streams
//
// # Limitations
//
// Health is learnt from failed connects alone: an endpoint that accepts connections
// and answers nothing but errors is not left out. DNS names are resolved when they
// are dialled, and the answer is kept for a fixed time, for the resolver does not
// tell its TTL. HTTP/2 connections are pinged when they are opened and when a
// request on them times out, and not in between: gRPC servers take frequent pings
// for abuse. A peer that vanishes is noticed by then, or by TCP. HBONE carries no
// datagrams: those of DialPacket reach an enrolled endpoint in the clear. Extended
// CONNECT (RFC 8441) is not spoken to backends; WebSocket goes over HTTP/1.1.
package upstream
