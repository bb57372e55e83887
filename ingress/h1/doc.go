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
// writes. A RoundTrip runs on its caller's goroutine; a request body that is not
// there yet, or is longer than 64 KiB, is carried by one more, which ends with the
// exchange, or with the Read of the body that it waits in then.
// An idle TCP connection, at either end, holds no buffer.
//
// # Cost
//
// Beside the kernel's, a request of six fields costs the server 9 allocations of
// 3.1 KiB together (head, map and values of its header, exchange, header of the
// answer; the map has room for what a proxy adds), and the client 7 of 1 KiB, two of
// them for a context that is not a Server's (BenchmarkServer, BenchmarkClient). An idle connection takes 4 KiB of stack and
// less than 5 KiB of heap, where net/http's server takes 8 and 11.
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
