package capture_test

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

// forge gives a namespace the probe address, and it the answers to that.
func (w *world) forge(fam v, forger *lab.Namespace) *net.Dialer {
	w.t.Helper()
	probe := netip.PrefixFrom(fam.probeSource(), fam.probeSource().BitLen())
	if forger == w.node {
		w.must(w.node.AddAddr("lo", probe))
	} else {
		w.must(forger.AddAddr("eth0", probe))
		way, err := w.node.Netlink().RouteGet(fam.of(forger).AsSlice())
		w.must(err)
		link, err := w.node.Netlink().LinkByIndex(way[0].LinkIndex)
		w.must(err)
		w.must(w.node.AddRoute(probe, netip.Addr{}, link.Attrs().Name))
	}
	return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(fam.probeSource(), 0))}
}

// Whoever can forge the probe address and gets the answers would reach probe ports without policy.
func TestForgedProbeAddress(t *testing.T) {
	for forger, of := range map[string]func(*world) *lab.Namespace{
		"pod":             func(w *world) *lab.Namespace { return w.c },
		"beyond the node": func(w *world) *lab.Namespace { return w.ext },
		"on the node":     func(w *world) *lab.Namespace { return w.node },
	} {
		t.Run(forger, func(t *testing.T) {
			everyAttachment(t, func(t *testing.T, w *world, fam v) {
				b := w.enrolPolicy(w.b, capture.PodConfig{Rules: capture.Rules{ProbePorts: []capture.PortRange{capture.Port(probePort)}}}, errDenied)
				w.app(w.b, fam.port(w.b, probePort))
				from := of(w)
				forged := w.forge(fam, from)
				if _, err := w.call(from, forged, fam.port(w.b, probePort)); err != nil {
					t.Fatalf("without the host's table the forgery should work, or this test shows nothing: %v", err)
				}
				b.wantNone("forged, without the host's table")

				h := w.openHost(capture.HostConfig{})
				w.must(h.SetPods(w.probed(w.b, probePort)))
				ctx, cancel := context.WithTimeout(t.Context(), impatience)
				defer cancel()
				if _, err := w.callContext(ctx, from, forged, fam.port(w.b, probePort)); err == nil {
					t.Error("a forged probe was answered")
				}
				if n, err := h.Spoofed(); err != nil || n == 0 {
					t.Errorf("%d forged packets counted, %v", n, err)
				}
				w.mustCall("a true probe", w.node, fam.port(w.b, probePort), fam.probeSource())
			})
		})
	}
}
