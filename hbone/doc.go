// Package hbone carries TCP connections in HTTP/2 CONNECT streams over mutual
// TLS: the wire of Istio ambient (HBONE), from either end.
//
// A tunnel is one TLS 1.3 connection that speaks HTTP/2 (RFC 9113); a [Stream]
// is one CONNECT request on it (RFC 9113 section 8.5) and stands for one TCP
// connection. [Pool] opens tunnels and streams, more than one tunnel to a peer
// while load asks for it, [Server] accepts them, and [Splice] joins a stream to
// a TCP socket with half-close and reset kept as they are. The package knows
// nothing of pods, identities or policy: the TLS configuration says who may
// talk, and the handler says what happens.
//
// It stands on [golang.org/x/net/http2.Framer] and hpack rather than on
// net/http because an http.Handler cannot half-close a request, and because
// frames built in place and written together cost a third less.
//
// # Flow of data
//
//	local socket --read--> buffer with room for the frame header --> writer queue --> TLS --> peer
//	peer --> TLS --> read buffer --non-blocking write--> local socket
//	                       \-- what the socket does not take is queued; a goroutine
//	                           drains it and only then returns the stream's credit
//
// One goroutine reads a tunnel and never blocks on a stream. Writing is done by
// whoever has something to write when the tunnel is idle (see writer.go). An
// idle spliced connection costs one goroutine, parked in the poller, and holds
// no buffer.
//
// # Flow control
//
// Connection credit is returned on receipt, so that no slow stream can take it
// from the others; stream credit is returned as the destination takes the
// bytes, so that a slow reader is bounded by its own stream window. Windows
// start at [InitialStreamWindow] and grow while the destination keeps up, within
// a budget that the process shares.
//
// # Limitations
//
// Only CONNECT with :authority is served: RFC 8441 extended CONNECT, server
// push, trailers and priorities are not. Go's crypto/tls writes one record of
// at most 16 KiB at a time; the tunnel merges records into larger writes.
package hbone
