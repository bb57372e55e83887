package capture_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

const (
	probePort = 9091 // of pod b, where not said otherwise
	nobody    = 65534
)

var errDenied = errors.New("denied by policy")

// probeSource is what kubelet's probes come from.
func (f v) probeSource() netip.Addr {
	return []netip.Addr{netip.MustParseAddr("169.254.7.127"), netip.MustParseAddr("fd16:9254:7127:1337:ffff:ffff:ffff:ffff")}[f]
}

// openHost prepares the node until the test ends.
func (w *world) openHost(cfg capture.HostConfig) *capture.Host {
	w.t.Helper()
	n, err := capture.OpenNetns(w.node.Path())
	w.must(err)
	cfg.Netns = n
	h, err := capture.OpenHost(cfg)
	if err != nil {
		n.Close()
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = h.Detach() })
	return h
}

// probed is a pod of which two ports are probed, as SetPods takes it.
func (w *world) probed(ns *lab.Namespace, ports ...uint16) map[string]capture.Probed {
	return map[string]capture.Probed{"uid-" + ns.Name(): {Addrs: []netip.Addr{v4.of(ns), v6.of(ns)}, Ports: ports}}
}

// strict captures pod b with a policy that refuses all plaintext, and has kubelet probe it.
func (w *world) strict(fam v) (*agent, *capture.Host) {
	w.t.Helper()
	h := w.openHost(capture.HostConfig{})
	w.must(h.SetPods(w.probed(w.b, probePort)))
	b := w.enrolPolicy(w.b, capture.PodConfig{Rules: capture.Rules{ProbePorts: []capture.PortRange{capture.Port(probePort)}}}, errDenied)
	w.app(w.b, fam.port(w.b, probePort))
	w.app(w.b, fam.port(w.b, appPort))
	return b, h
}

// mustBeDenied fails the test unless a client goes through the policy, seen under an address, and is refused.
func (w *world) mustBeDenied(why string, b *agent, from *lab.Namespace, seen netip.Addr, dst netip.AddrPort) {
	w.t.Helper()
	b.forget()
	w.mustNotCall(why, from, dst)
	b.wantOne(why, capture.PortInbound, seen, dst)
	b.forget()
}

func TestKubeletProbes(t *testing.T) {
	everyAttachment(t, func(t *testing.T, w *world, fam v) {
		b, _ := w.strict(fam)
		w.alive("a probe", w.mustCall("a probe of a strict pod", w.node, fam.port(w.b, probePort), fam.probeSource()))
		b.wantNone("a probe")
		w.mustBeDenied("a process of the node, another port", b, w.node, fam.of(w.node), fam.port(w.b, appPort))
		w.mustBeDenied("a pod of the node", b, w.c, fam.of(w.c), fam.port(w.b, probePort))
		w.mustBeDenied("a client beyond the node", b, w.ext, fam.of(w.ext), fam.port(w.b, probePort))
		w.masqueradeTo(fam, w.b)
		w.mustBeDenied("a client behind masquerade", b, w.ext, fam.of(w.node), fam.port(w.b, probePort))
		w.mustCall("a probe beside masquerade", w.node, fam.port(w.b, probePort), fam.probeSource())
	})
}

// The source is link-local, and no route leads to it but the default one.
func TestProbesThroughReversePathFilter(t *testing.T) {
	everyAttachment(t, func(t *testing.T, w *world, fam v) {
		w.strict(fam)
		for _, filter := range []string{"1", "2"} {
			for _, ns := range []*lab.Namespace{w.b, w.node} {
				links := []string{"all", "default"}
				if ns == w.b {
					links = append(links, "eth0")
				}
				for _, link := range links {
					w.must(ns.Sysctl("net.ipv4.conf."+link+".rp_filter", filter))
				}
			}
			w.mustCall("rp_filter="+filter, w.node, fam.port(w.b, probePort), fam.probeSource())
		}
	})
}

// Probes go on when the agent is gone, and nothing else does.
func TestProbesWithoutAgent(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b, h := w.strict(fam)
		w.must(b.pod.Detach())
		w.must(h.Detach())
		w.mustCall("a probe without an agent", w.node, fam.port(w.b, probePort), fam.probeSource())
		w.mustNotCall("a process of the node without an agent", w.node, fam.port(w.b, appPort))

		next := w.openHost(capture.HostConfig{})
		w.mustCall("a probe before the next agent knows the pods", w.node, fam.port(w.b, probePort), fam.probeSource())
		w.must(next.SetPods(w.probed(w.b, probePort, appPort)))
		w.mustCall("a probe with the next agent", w.node, fam.port(w.b, probePort), fam.probeSource())
		w.must(next.Remove())
		w.mustNotCall("without the host's table a probe is held against policy", w.node, fam.port(w.b, probePort))
	})
}

// needUsers skips a test, or fails it when CI=true, where there are no users but root: in a user namespace.
func needUsers(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // a thread has its own
	defer runtime.UnlockOSThread()
	was, _ := unix.SetfsuidRetUid(nobody)
	now, _ := unix.SetfsuidRetUid(was)
	switch {
	case now == nobody:
	case strings.EqualFold(os.Getenv("CI"), "true"):
		t.Fatalf("no user %d; run the tests as root", nobody)
	default:
		t.Skipf("no user %d; run the tests as root", nobody)
	}
}

// callAs connects from the node as a process of a user does.
func (w *world) callAs(uid int, dst netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), impatience)
	defer cancel()
	return w.node.Do(func() error {
		if _, err := unix.SetfsuidRetUid(uid); err != nil {
			return err
		}
		defer unix.SetfsuidRetUid(0)
		c, err := new(net.Dialer).DialContext(ctx, "tcp", dst.String())
		if err != nil {
			return err
		}
		defer c.Close()
		deadline, _ := ctx.Deadline()
		_ = c.SetReadDeadline(deadline)
		_, err = c.Read(make([]byte, 1))
		return err
	})
}

func TestProbesAreOfKubeletsUser(t *testing.T) {
	needUsers(t)
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b, h := w.strict(fam)
		if err := w.callAs(nobody, fam.port(w.b, probePort)); err == nil {
			t.Error("a process of another user was let in")
		}
		b.wantOne("another user's process", capture.PortInbound, fam.of(w.node), fam.port(w.b, probePort))
		b.forget()

		w.must(h.Remove())
		h = w.openHost(capture.HostConfig{KubeletUID: nobody})
		w.must(h.SetPods(w.probed(w.b, probePort)))
		if err := w.callAs(nobody, fam.port(w.b, probePort)); err != nil {
			t.Errorf("kubelet as another user: %v", err)
		}
		b.wantNone("kubelet as another user")
		w.mustBeDenied("root where kubelet is not", b, w.node, fam.of(w.node), fam.port(w.b, probePort))
	})
}

// nat adds a chain of somebody else's NAT to the node.
func (w *world) nat(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, match ...expr.Any) {
	w.t.Helper()
	w.must(w.tamper(w.node, func(c *nftables.Conn) {
		t := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: match})
	}))
}

// toAddr matches packets to one address.
func (f v) toAddr(a netip.Addr) []expr.Any {
	proto, offset, length := byte(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if f == v6 {
		proto, offset, length = unix.NFPROTO_IPV6, 24, 16
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: a.AsSlice()},
	}
}

// masqueradeTo hides all who connect to a pod behind the node, whoever they are.
func (w *world) masqueradeTo(fam v, pod *lab.Namespace) {
	w.t.Helper()
	w.nat("masq", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, append(fam.toAddr(fam.of(pod)), &expr.Masq{})...)
}

// A process of the node that calls a Service is a client of it, wherever the Service leads.
func TestServiceIsNoProbe(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b, _ := w.strict(fam)
		service := []netip.Prefix{netip.MustParsePrefix("10.96.0.1/32"), netip.MustParsePrefix("fd00:96::1/128")}[fam]
		w.must(w.node.AddRoute(service, fam.of(w.ext), ""))
		family := uint32(unix.NFPROTO_IPV4)
		if fam == v6 {
			family = unix.NFPROTO_IPV6
		}
		w.nat("services", nftables.ChainHookOutput, nftables.ChainPriorityNATDest, append(fam.toAddr(service.Addr()),
			&expr.Immediate{Register: 1, Data: fam.of(w.b).AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(probePort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: 2})...)
		w.masqueradeTo(fam, w.b)
		w.mustNotCall("by way of a Service", w.node, netip.AddrPortFrom(service.Addr(), 80))
		b.wantOne("by way of a Service", capture.PortInbound, fam.of(w.node), fam.port(w.b, probePort))
	})
}
