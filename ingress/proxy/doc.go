// Package proxy carries out the rule that a request matched.
//
// Filters follow HTTPRoute's and GRPCRoute's documents, in this order: what cannot
// be resolved (500), CORS preflights, redirects, header changes, rewrites; first
// those of the rule, then those of the chosen backend. A CORS filter owns the
// Access-Control headers of the answer, also of errors: what the backend says of it
// is removed. Header changes cannot touch what frames a message, nor Host.
//
// # Answers of its own
//
// A rule without backends, a reference that is wrong and a filter that cannot be
// resolved are 500, backends without endpoints 503 (UH), connections that cannot be
// had 503 (UF), ones that end or are reset before the answer 503 (UC, UR), what is
// no HTTP 502 (UPE), and timeouts 504 (UT); the letters are Envoy's response flags,
// which the record has. A client that leaves before its answer is recorded as 499
// (DC). Clients of gRPC get a grpc-status instead: UNAVAILABLE, DEADLINE_EXCEEDED,
// or UNIMPLEMENTED where there is no route. Clients are told the kind of failure,
// the record also addresses and causes.
//
// # Timeouts
//
// RequestTimeout covers the whole exchange, attempts and waits between them
// included; BackendTimeout covers each attempt, to the last byte of the answer
// (GEP-1742). If a rule says nothing of either, a backend has DefaultTimeout to
// begin its answer, counted from when the request was sent wholly; an answer that
// has begun is not cut by that. gRPC has no default: its clients send deadlines,
// and a server may be silent for long before the first message of a stream.
// X-Envoy-Expected-Rq-Timeout-Ms tells the backend the time of an attempt.
//
// An answer that has begun and cannot be completed is torn: the stream is reset, or
// the connection closed, so that nobody takes a part for the whole.
//
// # Attempts
//
// A rule's retries apply to the statuses that it lists, and to failures: to those
// before anything was sent or acted upon always, to others only for idempotent
// methods. Bodies are kept for that up to 64 KiB as they pass; what is longer is
// sent once. Without a retry filter, an endpoint that refuses the connection is
// replaced by another, twice at most. Retries go to the same backend, and avoid the
// endpoints that were tried.
//
// # Mirrors
//
// Mirrors get the request as the backend gets it, from a goroutine of their own
// whose number is bounded. A body is copied to them while it is forwarded; a mirror
// that falls 256 KiB behind is given up, and so is the copy of a request whose body
// did not come to its end. Answers of mirrors are dropped.
//
// # Sessions
//
// The token of a persistent session (GEP-1619) names cluster and endpoint, and when
// the session began. It is not signed: a forged one can do no more than choose among
// the endpoints that the rule leads to. A session keeps its backend even if the
// weight of that has become zero; if the endpoint is gone, it begins anew.
//
// # What is believed
//
// A peer that Client.Trust does not name is the client, and what it claims to be
// is removed: X-Forwarded-*, Forwarded, X-Real-Ip, X-Request-Id, X-Envoy-* and
// X-Original-*, also when spelt with underscores. Traces that a client began (W3C
// Trace Context, B3) are carried on by anybody, unchanged: the proxy reports no
// spans, so it puts none of its own in between.
//
// # Upgrades
//
// An HTTP/1.1 Upgrade to whatever the backend answers 101 to becomes a tunnel, in
// which half-closes and resets stay what they are; h2c and TLS are never passed on.
// Extended CONNECT (RFC 8441, RFC 9220) is for "websocket": the backend gets a
// WebSocket handshake over HTTP/1.1, of which the answer is checked.
//
// # Limitations
//
// Other protocols than websocket over extended CONNECT are refused with 501, plain
// CONNECT with 405. Trailers of a request that were not announced are lost. An
// answer that is silent is not cut as long as its connection lives, except in
// tunnels. Load is not shed by this package.
package proxy
