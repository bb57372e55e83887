package capture_test

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/adit-mesh/adit/e2e/lab"
)

// attachment gives the pods of a world, which have their links, addresses and routes.
type attachment func(*world)

// everyAttachment runs a test with each kind of CNI plugin, over both families.
func everyAttachment(t *testing.T, f func(t *testing.T, w *world, fam v)) {
	for name, attach := range map[string]attachment{"bridge": bridged, "bridge with br_netfilter": bridgedFiltered, "ptp": pointToPoint, "proxy-arp": linkLocalGateway} {
		t.Run(name, func(t *testing.T) {
			bothFamilies(t, func(t *testing.T, fam v) { f(t, newWorldOf(t, attach), fam) })
		})
	}
}

func bridged(w *world) {
	w.t.Helper()
	if err := w.bridgeNetfilter("0"); !errors.Is(err, fs.ErrNotExist) {
		w.must(err)
	}
	w.must(w.node.Bridge("br0"))
	w.must(w.node.AddAddr("br0", netip.MustParsePrefix("10.244.0.1/24")))
	w.must(w.node.AddAddr("br0", netip.MustParsePrefix("fd00:244::1/64")))
	for _, pod := range []*lab.Namespace{w.a, w.b, w.c} {
		w.must(w.node.Attach("br0", pod.Name()))
		w.must(pod.AddAddr("eth0", netip.PrefixFrom(v4.of(pod), 24)))
		w.must(pod.AddAddr("eth0", netip.PrefixFrom(v6.of(pod), 64)))
		w.must(pod.DefaultRoute(v4.of(w.node)))
		w.must(pod.DefaultRoute(v6.of(w.node)))
	}
}

// bridgedFiltered is bridged on a node that shows bridged frames to the chains of IP, as kube-proxy has long
// wanted it.
func bridgedFiltered(w *world) {
	w.t.Helper()
	bridged(w)
	err := w.bridgeNetfilter("1")
	if errors.Is(err, fs.ErrNotExist) {
		w.t.Skip("br_netfilter is not loaded")
	}
	w.must(err)
}

func (w *world) bridgeNetfilter(value string) error {
	return errors.Join(
		w.node.Sysctl("net/bridge/bridge-nf-call-iptables", value),
		w.node.Sysctl("net/bridge/bridge-nf-call-ip6tables", value))
}

// pointToPoint is as CNI's ptp: a pod has nothing on-link but its gateway, the node's end of its veth.
func pointToPoint(w *world) {
	w.t.Helper()
	for _, pod := range []*lab.Namespace{w.a, w.b, w.c} {
		for _, fam := range []v{v4, v6} {
			own, gateway := netip.PrefixFrom(fam.of(pod), fam.of(pod).BitLen()), netip.PrefixFrom(fam.of(w.node), fam.of(w.node).BitLen())
			w.must(w.node.AddAddr(pod.Name(), gateway))
			w.must(w.node.AddRoute(own, netip.Addr{}, pod.Name()))
			w.must(pod.AddAddr("eth0", own))
			w.onLink(pod, gateway.Addr())
			w.must(pod.DefaultRoute(gateway.Addr()))
		}
	}
}

// onLink lets a pod use an address as its gateway: only a route of scope link does.
func (w *world) onLink(pod *lab.Namespace, gateway netip.Addr) {
	w.t.Helper()
	eth0, err := pod.Netlink().LinkByName("eth0")
	w.must(err)
	dst := &net.IPNet{IP: gateway.AsSlice(), Mask: net.CIDRMask(gateway.BitLen(), gateway.BitLen())}
	w.must(pod.Netlink().RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: dst}))
}

// linkLocalGateway is as Calico does it: the gateway is a link-local address for which the node answers.
func linkLocalGateway(w *world) {
	w.t.Helper()
	w.must(w.node.DefaultRoute(v4.of(w.ext))) // a node answers for what it has a route to
	w.must(w.node.AddAddr("lo", netip.PrefixFrom(v4.of(w.node), 32)))
	w.must(w.node.AddAddr("lo", netip.PrefixFrom(v6.of(w.node), 128)))
	for _, pod := range []*lab.Namespace{w.a, w.b, w.c} {
		w.must(w.node.Sysctl("net/ipv4/conf/"+pod.Name()+"/proxy_arp", "1"))
		w.must(w.node.Sysctl("net/ipv4/neigh/"+pod.Name()+"/proxy_delay", "0"))
		w.must(w.node.AddAddr(pod.Name(), netip.MustParsePrefix("fe80::1/64")))
		for fam, gateway := range map[v]netip.Addr{v4: netip.MustParseAddr("169.254.1.1"), v6: netip.MustParseAddr("fe80::1")} {
			own := netip.PrefixFrom(fam.of(pod), fam.of(pod).BitLen())
			w.must(w.node.AddRoute(own, netip.Addr{}, pod.Name()))
			w.must(pod.AddAddr("eth0", own))
			if fam == v4 {
				w.onLink(pod, gateway)
			}
			all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			if fam == v6 {
				all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			w.must(pod.AddRoute(all, gateway, "eth0"))
		}
	}
}
