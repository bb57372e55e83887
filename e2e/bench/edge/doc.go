// Package edge measures adit ingress beside Caddy, nginx and HAProxy, one after the other in every round.
//
// Each is a process of its own with one route to one backend:
//
//	load client → proxy → backend
//	processor 1   0       1
//
// The proxy has a processor for itself, and one worker; load client and backend share the other, alike for all. The backend answers from
// one thread with bytes made beforehand. Where a client of HTTP/1.1 over TLS or HTTP/2 is needed it is h2load, without TLS wrk, for HTTP/3 one of
// ours on quic-go's streams. Small requests are measured while idle-priority threads keep the processors awake.
//
// A ratio compares ours with one rival within one round, is inverted where less is better, and is reported as the median over rounds: larger is
// always better.
//
// # Limitations
//
// The loopback has neither loss nor round-trip time, and moves segments of 64 KiB. Where the client is slower than the proxy, which is so for
// HTTP/3 and for many handshakes, the rate is the client's; the processor time for each request is then the better measure.
// wrk and h2load wait for an answer before they ask again, so that a stall shows in one request of a connection only.
package edge
