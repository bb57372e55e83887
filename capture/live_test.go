package capture_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
)

func TestSetRules(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{ProbePorts: []capture.PortRange{capture.Port(probePort)}})
		mode(b)
		h := w.openHost(capture.HostConfig{})
		w.must(h.SetPods(w.probed(w.b, probePort, appPort)))
		w.app(w.b, fam.port(w.b, probePort))
		w.app(w.b, fam.port(w.b, appPort))
		w.app(w.c, fam.port(w.c, appPort))
		live := map[string]*client{
			"probe":    w.mustCall("a probe", w.node, fam.port(w.b, probePort), fam.probeSource()),
			"inbound":  w.mustCall("inbound", w.c, fam.port(w.b, appPort), fam.of(w.c)),
			"outbound": w.mustCall("outbound", w.b, fam.port(w.c, appPort), fam.of(w.b)),
		}
		b.forget()
		w.mustCall("at a port that is not exempt", w.node, fam.port(w.b, appPort), fam.probeSource())
		b.wantOne("at a port that is not exempt", capture.PortInbound, fam.probeSource(), fam.port(w.b, appPort))
		b.forget()

		w.must(b.pod.SetRules(capture.Rules{ProbePorts: []capture.PortRange{capture.Port(appPort)}}))
		for why, c := range live {
			w.alive(why+", after the change", c)
		}
		w.mustCall("at the port that is exempt now", w.node, fam.port(w.b, appPort), fam.probeSource())
		b.wantNone("at the port that is exempt now")
		w.mustCall("at the port that was exempt", w.node, fam.port(w.b, probePort), fam.probeSource())
		b.wantOne("at the port that was exempt", capture.PortInbound, fam.probeSource(), fam.port(w.b, probePort))
		b.forget()

		w.must(b.pod.SetRules(capture.Rules{Ingress: true, DNS: true, SkipOutboundPorts: []capture.PortRange{capture.Port(appPort)}}))
		for why, c := range live {
			w.alive(why+", after everything changed", c)
		}
		w.mustCall("inbound as a gateway", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.mustCall("outbound to an exempt port", w.b, fam.port(w.c, appPort), fam.of(w.b))
		b.wantNone("what is exempt now")
		if found := b.pod.Verify(); len(found) != 0 {
			w.t.Errorf("the new rules are taken for damage: %v", found)
		}

		w.must(b.pod.Drain())
		w.must(b.pod.SetRules(capture.Rules{}))
		w.mustCall("while draining", w.c, fam.port(w.b, appPort), fam.of(w.c))
		b.wantNone("a change of rules does not end draining")
	})
}

func TestSetRulesRefuses(t *testing.T) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{})
	for why, rules := range map[string]capture.Rules{
		"no rules":         {ProbePorts: []capture.PortRange{{First: 2, Last: 1}}},
		"another listener": {VirtualInterfaces: []string{"tap0"}},
	} {
		if err := b.pod.SetRules(rules); err == nil {
			t.Errorf("%s: taken", why)
		}
	}
	w.app(w.b, v4.port(w.b, appPort))
	w.mustCall("the rules stay as they were", w.c, v4.port(w.b, appPort), v4.of(w.c))
	b.wantOne("the rules stay as they were", capture.PortInbound, v4.of(w.c), v4.port(w.b, appPort))
	w.must(b.pod.Detach())
	if err := b.pod.SetRules(capture.Rules{}); err == nil {
		t.Error("rules of a pod that is let go were changed")
	}
}

// A container has /proc/sys read-only, and the host's /proc/sys/net where somebody mounted it. What is under that
// mount is of the namespace of the thread that looks, not of the one that mounted it.
func TestSysctlRoot(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		root := t.TempDir()
		w.must(os.Mkdir(filepath.Join(root, "net"), 0o700))
		w.must(unix.Mount("/proc/sys/net", filepath.Join(root, "net"), "", unix.MS_BIND, ""))
		defer func() { w.must(unix.Unmount(filepath.Join(root, "net"), unix.MNT_DETACH)) }()
		w.must(unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
		defer func() { w.must(unix.Unmount("/proc/sys", unix.MNT_DETACH)) }()
		w.must(unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))

		own, err := os.ReadFile("/proc/sys/net/ipv4/fwmark_reflect")
		w.must(err)
		b := w.enrolConfig(w.b, capture.PodConfig{SysctlRoot: root})
		if !b.pod.UsesMarkAccept() {
			t.Fatal("mode B is not in force")
		}
		w.app(w.b, fam.port(w.b, appPort))
		w.mustCall("in", w.c, fam.port(w.b, appPort), fam.of(w.c))
		for ns, want := range map[string]string{"b": "1", "c": "0"} {
			got, err := w.namespace(ns).ReadSysctl("net.ipv4.tcp_fwmark_accept")
			if err != nil || got != want {
				t.Errorf("tcp_fwmark_accept of pod %s is %s (%v), want %s", ns, got, err, want)
			}
		}
		if now, _ := os.ReadFile("/proc/sys/net/ipv4/fwmark_reflect"); string(now) != string(own) {
			t.Errorf("the agent's own fwmark_reflect became %s", strings.TrimSpace(string(now)))
		}
		w.must(b.pod.Remove())
		w.wantClean(w.b)
	})
}

func TestAddresses(t *testing.T) {
	w := newWorld(t)
	second := netip.MustParsePrefix("10.244.0.33/24")
	w.must(w.b.AddAddr("eth0", second))
	w.must(w.b.AddAddr("lo", netip.MustParsePrefix("192.0.2.1/32"))) // as of a load balancer; nobody reaches the pod by it
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	got, err := n.Addresses()
	w.must(err)
	if want := []netip.Addr{v4.of(w.b), second.Addr(), v6.of(w.b)}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
}

func TestPresent(t *testing.T) {
	w := newWorld(t)
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	want := func(why string, want bool) {
		t.Helper()
		if got, err := capture.Present(n); err != nil || got != want {
			t.Errorf("%s: present %v, %v", why, got, err)
		}
	}
	want("before", false)
	b := w.enrol(w.b, capture.Rules{})
	want("enrolled", true)
	w.must(b.pod.Detach())
	want("let go", true)
	b = w.enrol(w.b, capture.Rules{})
	w.must(b.pod.Drain())
	w.must(b.pod.Remove())
	want("removed", false)
}
