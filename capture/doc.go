// Package capture brings the TCP connections of a pod to an agent outside it: nftables rules, routes and
// listeners inside the pod's network namespace, and the sockets that go back out of it.
//
// A captured connection arrives at one of three listeners, with the original destination as LocalAddr:
//
//	app ── connect(10.0.0.9:80) ──> nat_out ──redirect──> 127.0.0.1:15001  Pod.Outbound
//	wire ── SYN 10.1.0.2:8080 ────> nat_pre ──redirect──> [::]:15006       Pod.Inbound
//	wire ── SYN 10.1.0.2:15008 ───────────────────────────> [::]:15008     Pod.HBONE
//
// and the agent answers with sockets of the same namespace: Pod.Dial onto the wire, Pod.DialApp over lo to
// the app with the client's address as source.
//
// Order is what keeps connections alive: Enrol opens listeners, then routes, then rules; Drain swaps the
// rules for a table that captures nothing new; Remove deletes. A pod whose agent is gone keeps its rules and
// so refuses connections rather than sending them in plaintext. Inbound capture trusts no mark, port or
// address that a remote peer chooses.
//
// # Limitations
//
//   - Linux, nftables with inet NAT (5.2). Before 6.9 a table cannot be owned: root in the pod can then change
//     it, and capture is as good as the reconciler is quick.
//   - UDP is not captured, except DNS where Rules.DNS is set.
//   - An app with NET_RAW can forge the agent's mark and leave uncaptured; with NET_ADMIN it can add rules
//     that run before ours. Neither weakens what servers enforce on their inbound side.
//   - IPv6 link-local clients are refused: their address cannot be a source without a scope.
//   - lo must be up and must be interface 1, as it is in every namespace that was not assembled by hand.
package capture
