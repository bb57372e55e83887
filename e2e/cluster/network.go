package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// The addresses of every cluster. Clusters do not meet: each has its own
// namespaces, and nothing of them is reachable from the host but the API server.
//
//	control plane  172.30.0.10  fd00:172:30::10     br0 joins the nodes
//	node i         172.30.0.1i  fd00:172:30::1i
//	pods of node i 10.244.i.0/24  fd00:10:244:i::/64
//	services       10.96.0.0/16   fd00:10:96::/112
//	load balancers 172.30.1.0/24  fd00:172:30:1::/64  routed to the first node
var (
	serviceCIDRs  = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}
	podCIDRs      = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
	balancerCIDRs = []netip.Prefix{netip.MustParsePrefix("172.30.1.0/24"), netip.MustParsePrefix("fd00:172:30:1::/64")}
	controlAddrs  = []netip.Addr{netip.MustParseAddr("172.30.0.10"), netip.MustParseAddr("fd00:172:30::10")}
	apiServiceIP  = netip.MustParseAddr("10.96.0.1")
	dnsServiceIP  = netip.MustParseAddr("10.96.0.10")
)

const (
	controlPlane = "cp"
	apiPort      = 6443
	maxNodes     = 9
)

func nodeName(i int) string { return fmt.Sprintf("n%d", i) }

func nodeAddrs(i int) []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", 10+i)),
		netip.MustParseAddr(fmt.Sprintf("fd00:172:30::%d", 10+i)),
	}
}

func nodePodCIDRs(i int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i)),
	}
}

// onLink gives an address the length of the network that the machines share.
func onLink(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, 24)
	}
	return netip.PrefixFrom(a, 64)
}

// refuseUnknown makes a node answer that an address of a load balancer is
// unreachable as long as kube-proxy rewrites nothing that arrives for it. On its
// way back to where it came from, the first packet would enter the connection
// table without a rewriting, and with it all that the client sends again. Each is
// told, however many ask: who is not waits for a second until it asks again.
func refuseUnknown(n *lab.Namespace, balancers netip.Prefix) error {
	limit := "net.ipv4.icmp_ratelimit"
	if balancers.Addr().Is6() {
		limit = "net.ipv6.icmp.ratelimit"
	}
	if err := n.Sysctl(limit, "0"); err != nil {
		return err
	}
	r := netlink.NewRule()
	r.IifName, r.Priority, r.Type = "eth0", 100, unix.RTN_UNREACHABLE
	r.Dst = &net.IPNet{IP: balancers.Addr().AsSlice(), Mask: net.CIDRMask(balancers.Bits(), balancers.Addr().BitLen())}
	if balancers.Addr().Is6() {
		r.Family = unix.AF_INET6
	}
	if err := n.Netlink().RuleAdd(r); err != nil {
		return fmt.Errorf("cluster: %s: unassigned addresses of %s: %w", n.Name(), balancers, err)
	}
	return nil
}

// build makes the network between the machines: cp is a switch and a router to
// nowhere, the nodes route to each other's pods.
func buildNetwork(l *lab.Lab, cp *lab.Namespace, nodes []*lab.Namespace) error {
	for _, n := range append([]*lab.Namespace{cp}, nodes...) {
		if err := n.Sysctl("net.ipv4.ip_forward", "1"); err != nil {
			return err
		}
		if err := n.Sysctl("net.ipv6.conf.all.forwarding", "1"); err != nil {
			return err
		}
	}
	// The switch's own firewall hooks see nothing; cp has no rules.
	for _, key := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if err := cp.Sysctl(key, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	var ports []string
	for i, n := range nodes {
		port := nodeName(i + 1)
		if err := l.Veth(cp, port, n, "eth0"); err != nil {
			return err
		}
		ports = append(ports, port)
	}
	if err := cp.Bridge("br0", ports...); err != nil {
		return err
	}
	for _, a := range controlAddrs {
		if err := cp.AddAddr("br0", onLink(a)); err != nil {
			return err
		}
	}
	for i, n := range nodes {
		for _, a := range nodeAddrs(i + 1) {
			if err := n.AddAddr("eth0", onLink(a)); err != nil {
				return err
			}
		}
	}
	if err := l.Settle(); err != nil {
		return err
	}
	for i, n := range nodes {
		for _, a := range controlAddrs {
			if err := n.DefaultRoute(a); err != nil {
				return err
			}
		}
		for j, other := range append([]*lab.Namespace{cp}, nodes...) {
			if j == i+1 {
				continue
			}
			for family, cidr := range nodePodCIDRs(i + 1) {
				if err := other.AddRoute(cidr, nodeAddrs(i + 1)[family], ""); err != nil {
					return err
				}
			}
		}
	}
	for family, cidr := range balancerCIDRs {
		if err := cp.AddRoute(cidr, nodeAddrs(1)[family], ""); err != nil {
			return err
		}
		for _, n := range nodes {
			if err := refuseUnknown(n, cidr); err != nil {
				return err
			}
		}
	}
	// The API server wants a default route. What leaves the cluster ends on a switch without ports.
	if err := cp.Bridge("wan0"); err != nil {
		return err
	}
	if err := cp.AddAddr("wan0", netip.MustParsePrefix("192.0.2.1/24")); err != nil {
		return err
	}
	return cp.DefaultRoute(netip.MustParseAddr("192.0.2.254"))
}
