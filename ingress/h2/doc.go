// Package h2 serves HTTP/2 (RFC 9113) on connections that others accept, to an
// [http.Handler].
//
// One goroutine reads a connection and never waits for a stream; each request has
// a goroutine for its handler; and whoever has something to write when nobody
// writes, writes: its own frames and those that others leave meanwhile, so that
// answers that are ready together share a TLS record and a system call.
//
//	client --> reader --+--> handler's goroutine: Request.Body <-- buffer, at most the stream's window
//	                    |         |
//	                    |         ResponseWriter: header and first bytes are kept, and sent together
//	                    |         |
//	                    |   HEADERS in order, DATA of the streams in turn, as windows allow
//	                    |         |
//	                    +--> control frames --> one write per batch --> client
//
// What a connection holds is bounded: each stream by its windows and one buffer for
// its answer, frames that a client does not read by a limit at which the client is
// not read either, and all of them by timeouts. The timeouts and what a client may
// ask for that carries nothing are fields of [Server] and constants beside the code
// that counts.
//
// Requests are checked as strictly as RFC 9113 section 8 demands, with what a proxy
// in front of HTTP/1.1 needs besides: a message that HTTP/1.1 would frame or route
// in another way is malformed.
//
// # Limitations
//
// There is no server push (clients have dropped it), no Upgrade: h2c (RFC 9113
// dropped it), and priorities (RFC 9218) go by urgency alone.
package h2
