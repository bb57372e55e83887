// Package ingress is the edge: it terminates TLS and QUIC, and hands each request
// to the rule of a route that it matches.
//
// A [Server] serves one immutable [Config], and swaps it for the next without
// touching a socket that stays or a connection that lives. What a connection needs
// is looked up when it needs it: the TLS decision at its ClientHello, listener and
// rule at each request.
//
//	TCP ── PROXY header ──┬─ TCP listener ───────────────────────────▶ backend (splice)
//	                      ├─ in the clear ── h1, h2c ──┐
//	                      └─ ClientHello ── decide ──┬─┼─ h1, h2 ─┐
//	                                   │             │            ├─▶ requests ─▶ rule ─▶ Proxy
//	UDP ── QUIC Initial ── ClientHello ┘             └──── h3 ────┘
//	                                   └─ TLS listener ── through, or ended ──▶ backend
//	UDP listener ── session per client ─────────────────────────────▶ backend
//
// # One decision
//
// TCP and QUIC ask the same function what a server name (SNI) gets: the most
// specific listener of the port for it, that listener's first certificate that fits
// it, or else its first one, and what that listener demands of clients. A client
// without a server name gets the listener for all hosts; if there is none, or no
// listener for its name, or the listener has no usable certificate, its handshake
// fails with unrecognized_name. On a port that passes TLS through, where nobody
// here speaks for the name, the connection is closed without an alert. Sessions
// resume under the listener that they began with, and no other.
//
// All versions of HTTP share one handler. The most specific listener for the Host
// serves a request, and no other does. Over TLS it has to be the one that the
// server name stood for, or the answer is 421; and so it is when the listener has
// come to ask for certificates that the connection was not asked for. A host of no
// listener is answered with 404.
//
// # Bounds
//
// [Limits] has them, with their defaults. Addresses of QUIC clients are verified by
// Retry from some number of handshakes on; before, an address gets no more than
// three times what came from it (RFC 9000 section 8). Connections above the limit
// are closed unread.
//
// # Limitations
//
// Linux only. Early data (0-RTT) exists over QUIC alone, off unless a port turns it
// on, and not on ports of which any listener verifies clients. PROXY headers are
// read on TCP alone: clients over QUIC are whom the socket says. UDP sessions end
// with their port. QPACK has no dynamic table, as quic-go has none.
package ingress
