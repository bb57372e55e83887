// Package h1 speaks HTTP/1.1 (RFC 9112) on a connection, from either end.
//
// [Server] serves one client's connection with an [http.Handler]; [ClientConn]
// carries one request at a time to a backend. Both read with the same strict
// parser: a message that two implementations could take for different ones is
// refused, never repaired, so that nobody can smuggle a request past the edge.
//
// # Threads
//
// One goroutine serves a connection: it reads, parses, calls the handler and
// writes. A RoundTrip runs on its caller's goroutine; a request body of unknown
// length, or of more than 64 KiB, is carried by one more, which is waited for.
// An idle TCP connection, at either end, holds no buffer.
//
// # What differs from net/http
//
// Header names are made canonical, as there. Not done: sniffing of Content-Type,
// decompression, cookies, proxies of the environment. A context of a request ends
// within half a second of the client's going away, not at once (see watch.go).
//
// # Limitations
//
// Linux only. No transfer coding besides chunked. Chunk extensions are read
// past. Header fields whose names contain an underscore are kept, as Envoy does
// by default: a backend that takes "_" and "-" for the same must be told apart by
// its own configuration.
package h1
