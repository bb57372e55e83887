package capture

import (
	"fmt"
	"net/netip"
)

// Rules is what of a pod's traffic is captured. The zero value captures all TCP both ways and exempts nothing.
type Rules struct {
	DNS               bool           // send the pod's DNS, UDP and TCP, to port 15053: something must listen there
	Ingress           bool           // capture nothing inbound: the app is itself a gateway that clients reach directly
	ProbeSources      []netip.Addr   // where kubelet's probes come from; nil means Istio's two probe addresses
	ProbePorts        []PortRange    // ports that probes may reach without policy; nil means none
	SkipOutbound      []netip.Prefix // destinations that are not captured, such as a node-local DNS cache
	SkipOutboundPorts []PortRange    // destination ports that are not captured
	SkipInboundPorts  []PortRange    // ports of the pod that are reached without policy
	VirtualInterfaces []string       // links to guests behind the pod, whose "inbound" is really outbound
}

// PortRange is the ports from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Port is a range of one port.
func Port(p uint16) PortRange { return PortRange{p, p} }

// The addresses that Istio's host rules give to kubelet's probes.
var (
	probeSource4 = netip.MustParseAddr("169.254.7.127")
	probeSource6 = netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
)

// Validate reports the first value that no rule can be made of.
func (r Rules) Validate() error {
	for _, list := range []struct {
		field  string
		ranges []PortRange
	}{{"ProbePorts", r.ProbePorts}, {"SkipOutboundPorts", r.SkipOutboundPorts}, {"SkipInboundPorts", r.SkipInboundPorts}} {
		for _, p := range list.ranges {
			if p.Last < p.First {
				return fmt.Errorf("capture rules: %s: range %d-%d ends before it begins", list.field, p.First, p.Last)
			}
		}
	}
	for _, p := range r.SkipOutbound {
		if !p.IsValid() {
			return fmt.Errorf("capture rules: SkipOutbound: an entry is not an address prefix")
		}
	}
	for _, a := range r.ProbeSources {
		if !a.IsValid() || a.Zone() != "" {
			return fmt.Errorf("capture rules: ProbeSources: %q is not a plain address", a)
		}
	}
	for _, name := range r.VirtualInterfaces {
		if name == "" || len(name) > 15 {
			return fmt.Errorf("capture rules: VirtualInterfaces: %q is not a link name of 1 to 15 bytes", name)
		}
	}
	return nil
}

// stage is what a pod's table does.
type stage int

const (
	capturing stage = iota
	draining        // nothing new is captured; what was captured goes on
)

// ruleset is the table for a pod. The Rn are referred to from other comments and from the tests.
func ruleset(r Rules, s stage) table {
	t := table{tableID: podTable, Sets: ruleSets(r)}
	t.Chains = append(t.Chains, untracked(r)...)
	t.Chains = append(t.Chains,
		chain{Name: "pre_invalid", Type: filter, Hook: prerouting, Priority: -150, Rules: []rule{
			// R8: an out-of-window segment is not un-NATed; the stack would answer it with a reset.
			{iif(not, lo), l4proto(tcp), ctState(ctInvalid), count(), drop()},
		}},
		// A mark changed in a chain of type route makes the kernel look up the route again.
		chain{Name: "out_route", Type: route, Hook: output, Priority: -150, Rules: []rule{
			// R9: mode A. Remember the agent's connections to the app under a client's address.
			{oif(is, lo), mark(MarkAgent), ctState(ctNew), fib("saddr", not, rtnLocal), setCtMark(MarkAppLeg)},
			// R10: the app's replies to them go back over lo; the client's address would route them to the wire.
			{ctDirection(dirReply), ctMark(MarkAppLeg), setMark(MarkAppLeg)},
		}},
	)
	t.Chains = append(t.Chains, natInbound(r, s), natOutbound(r, s))
	t.Chains = append(t.Chains, guard(r, s)...)
	return t
}

func ruleSets(r Rules) []set {
	sources := r.ProbeSources
	if sources == nil {
		sources = []netip.Addr{probeSource4, probeSource6}
	}
	var probe, skip []netip.Prefix
	for _, a := range sources {
		a = a.Unmap()
		probe = append(probe, netip.PrefixFrom(a, a.BitLen()))
	}
	for _, p := range r.SkipOutbound {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		skip = append(skip, p.Masked())
	}
	return []set{
		addrSet("probe4", 4, probe),
		addrSet("probe6", 16, probe),
		portsSet("probe_port", r.ProbePorts),
		addrSet("out_skip4", 4, skip),
		addrSet("out_skip6", 16, skip),
		portsSet("out_skip_port", r.SkipOutboundPorts),
		portsSet("in_skip_port", r.SkipInboundPorts),
		portsSet("own_port", []PortRange{Port(PortOutbound), Port(PortInbound), Port(PortDNS)}),
		linkSet("virt_if", r.VirtualInterfaces),
	}
}

// untracked takes out of conntrack what must not be matched with captured flows, and the tunnels' hot path.
// Every rule that keys on something a remote peer chooses, such as its port, also asks for a socket of ours.
func untracked(r Rules) []chain {
	pre := chain{Name: "raw_pre", Type: filter, Hook: prerouting, Priority: -300}
	out := chain{Name: "raw_out", Type: filter, Hook: output, Priority: -300}
	notGuest := func(ru rule) rule {
		if len(r.VirtualInterfaces) == 0 {
			return ru
		}
		// An untracked packet is never redirected: a guest could leave uncaptured by way of such a port.
		return append(rule{iifname(not, "virt_if")}, ru...)
	}
	pre.Rules = []rule{
		// R1: tunnels in.
		notGuest(rule{iif(not, lo), dport(tcp, PortHBONE), notrack()}),
		// R2: replies to our own tunnels. Without the socket match any client could bind source port 15008
		// and reach the app untracked, that is, uncaptured.
		{iif(not, lo), sport(tcp, is, PortHBONE), socketMark(MarkAgent), notrack()},
	}
	if r.DNS {
		// R3: answers to the DNS proxy's own queries; pairs with R7.
		pre.Rules = append(pre.Rules, notGuest(rule{iif(not, lo), sport(udp, is, 53), notrack()}))
	}
	out.Rules = []rule{
		// R4: mode B. Both directions between agent and app carry the mark.
		{mark(MarkAppLeg), oif(is, lo), notrack()},
		// R5: pairs with R1; accepted sockets inherit the listener's mark.
		{mark(MarkAgent), oif(not, lo), sport(tcp, is, PortHBONE), notrack()},
		// R6: pairs with R2. Replies of our redirected ports stay tracked even toward a client on port 15008.
		{mark(MarkAgent), oif(not, lo), dport(tcp, PortHBONE), sportNotIn("own_port"), notrack()},
	}
	if r.DNS {
		// R7: the DNS proxy's query may use the port that the app used, and must not meet its NAT entry.
		out.Rules = append(out.Rules, rule{mark(MarkAgent), oif(not, lo), dport(udp, 53), notrack()})
	}
	return []chain{pre, out}
}

// natInbound comes before other people's NAT (-100): the first chain that binds a connection wins.
func natInbound(r Rules, s stage) chain {
	c := chain{Name: "nat_pre", Type: nat, Hook: prerouting, Priority: -105}
	if s == draining {
		return c // the empty chain keeps NAT, and so every captured connection, alive
	}
	c.Rules = []rule{
		// R11: loops inside the pod are not ingress. No mark is trusted here.
		{iif(is, lo), accept()},
		// R12
		{l4proto(notTCP), accept()},
		// R13: a connection that was there before enrolment is never hijacked midway.
		{notSyn(), count(), accept()},
	}
	virtual := rule{iifname(is, "virt_if"), l4proto(tcp), count(), redirect(PortOutbound)} // R15
	if r.Ingress {
		c.Rules = append(c.Rules, virtual)
		return c
	}
	c.Rules = append(c.Rules,
		// R14: kubelet's probes.
		rule{saddr("probe4"), dportIn("probe_port"), count(), accept()},
		rule{saddr("probe6"), dportIn("probe_port"), count(), accept()},
		virtual,
		// R16: what is routed through the pod is not the pod's.
		rule{fib("daddr", not, rtnLocal), count(), accept()},
		// R17: HBONE listens on the port itself.
		rule{dport(tcp, PortHBONE), count(), accept()},
		// R18
		rule{dportIn("in_skip_port"), count(), accept()},
		// R19: everything else goes through policy.
		rule{l4proto(tcp), count(), redirect(PortInbound)},
	)
	return c
}

func natOutbound(r Rules, s stage) chain {
	c := chain{Name: "nat_out", Type: nat, Hook: output, Priority: -105}
	if s == draining {
		return c
	}
	c.Rules = []rule{
		// R20: the agent's own sockets.
		{mark(MarkAgent), count(), accept()},
		// R21: 127/8, ::1 and the pod's own addresses.
		{oif(is, lo), accept()},
	}
	if r.DNS {
		c.Rules = append(c.Rules, rule{dport(udp, 53), count(), redirect(PortDNS)}) // R22
	}
	c.Rules = append(c.Rules,
		rule{l4proto(notTCP), accept()},   // R23
		rule{notSyn(), count(), accept()}, // R24: as R13
		// R25: the operator's exemptions.
		rule{daddr("out_skip4"), count(), accept()},
		rule{daddr("out_skip6"), count(), accept()},
		rule{dportIn("out_skip_port"), count(), accept()},
	)
	if r.DNS {
		c.Rules = append(c.Rules, rule{dport(tcp, 53), count(), redirect(PortDNS)}) // R26
	}
	c.Rules = append(c.Rules, rule{l4proto(tcp), count(), redirect(PortOutbound)}) // R27
	return c
}

// guard is the second lock: it holds whatever conntrack and the rules above make of a packet.
func guard(r Rules, s stage) []chain {
	g := chain{Name: "in_guard", Type: filter, Hook: input, Priority: 0}
	var out []chain
	if s == capturing && !r.Ingress {
		// R28: every connection from the wire must be on the list.
		g.Rules = append(g.Rules, rule{iif(not, lo), syn(), jump("in_syn")})
		out = append(out, chain{Name: "in_syn", Rules: []rule{
			{dport(tcp, PortHBONE), accept()},
			{ctStatusDNAT(is), accept()},
			{saddr("probe4"), dportIn("probe_port"), accept()},
			{saddr("probe6"), dportIn("probe_port"), accept()},
			{dportIn("in_skip_port"), accept()},
			// A count here is an attack or a bug.
			{count(), rejectTCP()},
		}})
	}
	// R29: an app that calls our ports directly would make us dial ourselves.
	g.Rules = append(g.Rules, rule{iif(is, lo), dportIn("own_port"), ctDirection(dirOriginal), ctStatusDNAT(not), count(), rejectTCP()})
	if r.DNS {
		// R30: the DNS proxy serves the pod, not the world.
		g.Rules = append(g.Rules, rule{iif(not, lo), dport(udp, PortDNS), count(), drop()})
	}
	// A chain must exist before a rule jumps to it.
	return append(out, g)
}
