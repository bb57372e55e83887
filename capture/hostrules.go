package capture

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// The tables of the node. The second is for nodes whose pods are on a bridge: frames between two of its ports
// pass none of the hooks of family inet, unless br_netfilter is there and switched on.
var (
	hostTable   = tableID{unix.NFPROTO_INET, "adit_host"}
	bridgeTable = tableID{unix.NFPROTO_BRIDGE, "adit_host"}
)

// hostRuleset is the table of the node. The Hn are referred to from other comments and from the tests.
func hostRuleset(kubeletUID uint32, pods map[string]Probed) table {
	probed4, probed6 := probedSets(pods)
	return table{tableID: hostTable, Sets: []set{probed4, probed6}, Chains: []chain{
		// Just before everybody's masquerade at 100: the first chain that binds a connection wins.
		{Name: "post", Type: nat, Hook: postrouting, Priority: 99, Rules: []rule{
			// H1: a socket of this node, and of kubelet's user, is behind the packet; forwarded and masqueraded
			// ones have none. Kubelet probes the pod's own address, so what came by a Service is not a probe.
			{daddrPortIn("probed4"), syn(), skuid(kubeletUID), ctStatusDNAT(not), count(), snat(probeSource4)},
			{daddrPortIn("probed6"), syn(), skuid(kubeletUID), ctStatusDNAT(not), count(), snat(probeSource6)},
		}},
		// H2: nobody else may use the probe addresses, on any wire. Before conntrack, which would remember it.
		{Name: "spoofed", Type: filter, Hook: prerouting, Priority: -300, Rules: []rule{
			{saddrIs(probeSource4), count(), drop()},
			{saddrIs(probeSource6), count(), drop()},
		}},
		// H3: nor on this node, where net.ipv4.ip_nonlocal_bind would let any user. H1 comes later.
		{Name: "spoofed_here", Type: filter, Hook: output, Priority: -300, Rules: []rule{
			{saddrIs(probeSource4), count(), drop()},
			{saddrIs(probeSource6), count(), drop()},
		}},
	}}
}

// bridgeRuleset is H2 for frames that are bridged.
func bridgeRuleset() table {
	return table{tableID: bridgeTable, Chains: []chain{
		{Name: "spoofed", Type: filter, Hook: prerouting, Priority: -300, Rules: []rule{
			{etherSaddrIs(probeSource4), count(), drop()},
			{etherSaddrIs(probeSource6), count(), drop()},
		}},
	}}
}

// probedSets are the pairs of address and port of all pods, by family.
func probedSets(pods map[string]Probed) (v4, v6 set) {
	pairs := make(map[netip.AddrPort]struct{})
	for _, p := range pods {
		for _, addr := range p.Addrs {
			for _, port := range p.Ports {
				pairs[netip.AddrPortFrom(addr.Unmap(), port)] = struct{}{}
			}
		}
	}
	sorted := make([]netip.AddrPort, 0, len(pairs))
	for pair := range pairs {
		sorted = append(sorted, pair)
	}
	slices.SortFunc(sorted, func(a, b netip.AddrPort) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
	})
	v4 = set{name: "probed4", kind: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)}
	v6 = set{name: "probed6", kind: nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService)}
	for _, pair := range sorted {
		if pair.Addr().Is4() {
			v4.addPair(pair)
		} else {
			v6.addPair(pair)
		}
	}
	return v4, v6
}

// addPair adds an address and a port; each part of a key fills whole registers of 4 bytes.
func (s *set) addPair(pair netip.AddrPort) {
	key := append(pair.Addr().AsSlice(), big16(pair.Port())...)
	s.elements = append(s.elements, element{key: append(key, 0, 0)})
	s.texts = append(s.texts, pair.Addr().String()+" . "+portText(pair.Port()))
}
