package capture_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

func TestSkipSets(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		for why, tc := range map[string]struct {
			rules    capture.Rules
			port     uint16
			captured bool
		}{
			"destination address": {capture.Rules{SkipOutbound: []netip.Prefix{netip.MustParsePrefix("10.244.0.4/32"), netip.MustParsePrefix("fd00:244::/124")}}, appPort, false},
			"another address":     {capture.Rules{SkipOutbound: []netip.Prefix{netip.MustParsePrefix("10.244.0.8/30"), netip.MustParsePrefix("fd00:244::8/125")}}, appPort, true},
			"destination port":    {capture.Rules{SkipOutboundPorts: []capture.PortRange{{First: 8000, Last: 8080}}}, appPort, false},
			"another port":        {capture.Rules{SkipOutboundPorts: []capture.PortRange{{First: 8000, Last: 8079}}}, appPort, true},
		} {
			t.Run(why, func(t *testing.T) {
				w := newWorld(t)
				a := w.enrol(w.a, tc.rules)
				w.app(w.c, fam.port(w.c, tc.port))
				w.mustCall(why, w.a, fam.port(w.c, tc.port), fam.of(w.a))
				if got := len(a.saw(capture.PortOutbound)) == 1; got != tc.captured {
					t.Errorf("captured: %v, want %v", got, tc.captured)
				}
			})
		}
		t.Run("inbound port", func(t *testing.T) {
			w := newWorld(t)
			b := w.enrol(w.b, capture.Rules{SkipInboundPorts: []capture.PortRange{capture.Port(9100)}})
			w.app(w.b, fam.port(w.b, 9100))
			w.app(w.b, fam.port(w.b, appPort))
			w.mustCall("an exempt port", w.c, fam.port(w.b, 9100), fam.of(w.c))
			b.wantNone("an exempt port")
			w.mustCall("another port", w.c, fam.port(w.b, appPort), fam.of(w.c))
			b.wantOne("another port", capture.PortInbound, fam.of(w.c), fam.port(w.b, appPort))
		})
	})
}

func TestIngressPod(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{Ingress: true})
		w.app(w.b, fam.port(w.b, appPort))
		w.mustCall("clients reach a gateway directly", w.c, fam.port(w.b, appPort), fam.of(w.c))
		b.wantNone("clients of a gateway")
		w.app(w.c, fam.port(w.c, appPort))
		w.mustCall("what a gateway connects to is captured", w.b, fam.port(w.c, appPort), fam.of(w.b))
		if n := len(b.saw(capture.PortOutbound)); n != 1 {
			t.Errorf("%d connections arrived at 15001, want 1", n)
		}
		w.mustNotCall("15006 still refuses what was not redirected", w.c, fam.port(w.b, capture.PortInbound))
	})
}

func TestProbes(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		probe := []netip.Addr{netip.MustParseAddr("169.254.7.127"), netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")}[fam]
		w.must(w.node.AddAddr("br0", netip.PrefixFrom(probe, probe.BitLen())))
		kubelet := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(probe, 0))}
		b := w.enrol(w.b, capture.Rules{ProbePorts: []capture.PortRange{capture.Port(9091)}})
		w.app(w.b, fam.port(w.b, 9091))
		w.app(w.b, fam.port(w.b, appPort))

		if c, err := w.call(w.node, kubelet, fam.port(w.b, 9091)); err != nil || c.seen != probe {
			t.Errorf("a probe of a probe port: %v", err)
		}
		b.wantNone("a probe of a probe port")
		if _, err := w.call(w.node, kubelet, fam.port(w.b, appPort)); err != nil {
			t.Errorf("the probe address at another port: %v", err)
		}
		b.wantOne("the probe address at another port goes through policy", capture.PortInbound, probe, fam.port(w.b, appPort))
		b.forget()
		w.mustCall("another address at a probe port", w.c, fam.port(w.b, 9091), fam.of(w.c))
		b.wantOne("another address at a probe port goes through policy", capture.PortInbound, fam.of(w.c), fam.port(w.b, 9091))
	})
}

// masquerade makes the node hide those that come from beyond it.
func (w *world) masquerade() {
	w.t.Helper()
	w.must(w.node.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		t := conn.AddTable(&nftables.Table{Name: "masq", Family: nftables.TableFamilyINet})
		c := conn.AddChain(&nftables.Chain{Name: "post", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("br0"), make([]byte, 13)...)},
			&expr.Masq{},
		}})
		return conn.Flush()
	}))
}

// Behind masquerade a client has the node's address, as kubelet has; it is still a client.
func TestForwardedClients(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{ProbePorts: []capture.PortRange{capture.Port(appPort)}})
		w.app(w.b, fam.port(w.b, appPort))
		w.mustCall("from beyond the node", w.ext, fam.port(w.b, appPort), fam.of(w.ext))
		b.wantOne("from beyond the node", capture.PortInbound, fam.of(w.ext), fam.port(w.b, appPort))
		b.forget()
		w.masquerade()
		w.mustCall("masqueraded", w.ext, fam.port(w.b, appPort), fam.of(w.node))
		b.wantOne("masqueraded", capture.PortInbound, fam.of(w.node), fam.port(w.b, appPort))
	})
}

// guest puts a machine behind pod b, reached through link tap0.
func (w *world) guest(fam v) (vm *lab.Namespace, addr netip.Addr) {
	w.t.Helper()
	vm, err := w.lab.Namespace("vm")
	w.must(err)
	w.must(w.lab.Veth(w.b, "tap0", vm, "eth0"))
	nets := [][2]string{{"10.99.0.1/24", "10.99.0.2/24"}, {"fd00:99::1/64", "fd00:99::2/64"}}[fam]
	gw, own := netip.MustParsePrefix(nets[0]), netip.MustParsePrefix(nets[1])
	w.must(w.b.AddAddr("tap0", gw))
	w.must(vm.AddAddr("eth0", own))
	w.must(vm.DefaultRoute(gw.Addr()))
	w.must(w.c.AddRoute(own.Masked(), fam.of(w.b), ""))
	w.must(w.b.Sysctl("net.ipv4.ip_forward", "1"))
	w.must(w.b.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	return vm, own.Addr()
}

func TestNestedGuest(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		t.Run("unannounced", func(t *testing.T) {
			w := newWorld(t)
			vm, addr := w.guest(fam)
			b := w.enrol(w.b, capture.Rules{})
			w.app(vm, netip.AddrPortFrom(addr, appPort))
			w.app(w.c, fam.port(w.c, appPort))
			w.mustCall("to the guest", w.c, netip.AddrPortFrom(addr, appPort), fam.of(w.c))
			w.mustCall("from the guest", vm, fam.port(w.c, appPort), addr)
			b.wantNone("what passes through a pod is not the pod's")
		})
		t.Run("virtual interface", func(t *testing.T) {
			w := newWorld(t)
			vm, addr := w.guest(fam)
			b := w.enrol(w.b, capture.Rules{VirtualInterfaces: []string{"tap0"}})
			for _, port := range []uint16{appPort, capture.PortHBONE} {
				w.app(w.c, fam.port(w.c, port))
				w.mustCall("from the guest, by way of the agent", vm, fam.port(w.c, port), fam.of(w.b))
				b.wantOne("what a guest connects to", capture.PortOutbound, addr, fam.port(w.c, port))
				b.forget()
			}
			from := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, capture.PortHBONE))}
			if _, err := w.call(vm, from, fam.port(w.c, appPort)); err != nil {
				t.Errorf("a guest on source port 15008: %v", err)
			}
			b.wantOne("a guest on source port 15008", capture.PortOutbound, addr, fam.port(w.c, appPort))
		})
	})
}
