// Package capture brings the TCP connections of a pod to an agent outside it: nftables rules, routes and
// listeners inside the pod's network namespace, and the sockets that go back out of it. For kubelet's probes,
// which are to reach captured pods without policy, it has rules in the node's namespace too: see Host.
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
// # Privileges
//
// An agent needs CAP_NET_ADMIN for rules, routes and marks, CAP_SYS_ADMIN to enter namespaces, and
// CAP_SYS_PTRACE where it opens them as /proc/PID/ns/net. In a container it also needs the host's /proc/sys/net
// mounted writable, or else captured connections cost two entries of conntrack rather than one.
//
// # Limitations
//
//   - Linux, nftables with inet NAT (5.2). Before 6.9 a table cannot be owned: root in the pod can then change
//     it, and capture is as good as the reconciler is quick.
//   - UDP is not captured, except DNS where Rules.DNS is set.
//   - An app with NET_RAW can forge the agent's mark and leave uncaptured; with NET_ADMIN it can add rules
//     that run before ours. Neither weakens what servers enforce on their inbound side.
//   - IPv6 link-local clients are refused: their address cannot be a source without a scope.
//   - Probe ports are open to every process that has kubelet's user and the node's network, not to kubelet
//     alone: see Host.
//   - Host works where the node's packets to its pods pass netfilter: eBPF host routing (Cilium's, Calico's
//     before 3.29) and CNI plugins that leave those packets untracked go around it, and probes then go through
//     policy. A NetworkPolicy that is enforced in the pod's namespace must admit the probe addresses.
//   - Where pods share a link that the node's packets do not pass (macvlan, ipvlan, SR-IOV), nothing keeps one
//     with NET_RAW from forging the probe addresses toward another's probe ports.
//   - A pod must answer the probe addresses by the link that the probe came by; its default route does, unless
//     that leads over a second network.
//   - lo must be up and must be interface 1, as it is in every namespace that was not assembled by hand.
package capture
