// Package bench measures a pair of agents' data path against built-in rivals, process by process and round by round.
//
// A load client, the two halves of the path and a load server are processes of their own on the loopback:
//
//	load client → agent A → tunnel → agent B → load server
//	127.0.0.1     127.0.0.2          127.0.0.3   127.0.0.4
//
// The paths are
//
//	direct    client and server, nothing between them
//	splice    two plain TCP proxies that join their sockets by splice(2)
//	copy      two plain TCP proxies that copy through 64 KiB buffers in user space
//	tls       a raw TLS 1.3 tunnel pair: one crypto/tls connection per stream, 64 KiB copies (the yardstick)
//	nethttp2  CONNECT streams on one tunnel of golang.org/x/net/http2's Transport and Server, tuned
//	adit      CONNECT streams of package hbone: ours in every ratio, and like the rivals the bare data path
//	agent     the same within two agents' whole proxies: decisions, policy and metrics for each connection
//
// The same-node and pass-through cases have one agent, with its whole proxy, against one plain proxy.
//
// Every case runs on every path in every round (direct and agent, which are for orientation, in the first), so that what disturbs the machine disturbs all of them.
// A ratio compares ours with one rival within one round, is inverted where less is better, and is reported as the median over rounds: larger is always better.
//
// Bytes are verified: before a path is first measured, 8 MiB go up and 8 MiB come back after a half-close, and every byte is compared.
// While measuring, the receiver compares 64 bytes at the start of each read with what belongs at that offset and both ends compare totals at the end; whole comparison there would take a tenth of the CPU being measured.
//
// # Idle processors
//
// A lone ping-pong on an idle machine measures how the kernel wakes a sleeping processor, about the same for every path and larger than all of them.
// So the latency cases keep every processor awake with a process of SCHED_IDLE threads, which any runnable thread displaces at once.
//
// # Limitations
//
// The loopback has neither loss nor round-trip time, checksums nothing and moves 64 KiB segments; what crosses a wire is slower for every path.
// All processes share the machine's processors, so a path's cost on either side slows the whole chain.
// RSS does not contain the kernel's socket buffers.
// The nethttp2 rival cannot pass on a half-close that the server makes first: a net/http handler ends its response only by returning, which cuts the request's body. No measured case needs it.
package bench
