package capture_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

// patience is how long a test waits for what must happen, and impatience for what must not.
const (
	patience   = 5 * time.Second
	impatience = 700 * time.Millisecond
)

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case childName:
		os.Exit(childAgent())
	case limitedName:
		os.Exit(limitedAgent())
	case sleeperName:
		time.Sleep(time.Hour)
	}
	os.Exit(labtest.Main(m))
}

// world is one node with three pods on a bridge and a host beyond it:
//
//	ext ── node ── br0 ─┬─ a
//	                    ├─ b
//	                    └─ c
type world struct {
	t    testing.TB
	lab  *lab.Lab
	node *lab.Namespace
	ext  *lab.Namespace
	a    *lab.Namespace
	b    *lab.Namespace
	c    *lab.Namespace
}

// addresses of the namespaces, IPv4 and IPv6.
var addresses = map[string][2]string{
	"node": {"10.244.0.1", "fd00:244::1"},
	"a":    {"10.244.0.2", "fd00:244::2"},
	"b":    {"10.244.0.3", "fd00:244::3"},
	"c":    {"10.244.0.4", "fd00:244::4"},
	"ext":  {"198.51.100.2", "2001:db8:5::2"},
}

// v is an address family, as an index into addresses.
type v int

const (
	v4 v = iota
	v6
)

func (f v) String() string { return []string{"v4", "v6"}[f] }

func (f v) loopback() netip.Addr {
	if f == v6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func (f v) of(ns *lab.Namespace) netip.Addr {
	return netip.MustParseAddr(addresses[ns.Name()][f])
}

func (f v) port(ns *lab.Namespace, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(f.of(ns), port)
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOf(t, bridged)
}

// newWorldOf is newWorld with the pods attached as a CNI plugin of some kind does.
func newWorldOf(t testing.TB, attach attachment) *world {
	t.Helper()
	w := &world{t: t, lab: labtest.New(t)}
	for name, ns := range map[string]**lab.Namespace{"node": &w.node, "a": &w.a, "b": &w.b, "c": &w.c, "ext": &w.ext} {
		var err error
		if *ns, err = w.lab.Namespace(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range []*lab.Namespace{w.a, w.b, w.c} {
		w.must(w.lab.Veth(pod, "eth0", w.node, pod.Name()))
	}
	w.must(w.lab.Veth(w.ext, "eth0", w.node, "ext"))
	w.must(w.node.AddAddr("ext", netip.MustParsePrefix("198.51.100.1/24")))
	w.must(w.node.AddAddr("ext", netip.MustParsePrefix("2001:db8:5::1/64")))
	w.must(w.ext.AddAddr("eth0", netip.PrefixFrom(v4.of(w.ext), 24)))
	w.must(w.ext.AddAddr("eth0", netip.PrefixFrom(v6.of(w.ext), 64)))
	w.must(w.ext.DefaultRoute(netip.MustParseAddr("198.51.100.1")))
	w.must(w.ext.DefaultRoute(netip.MustParseAddr("2001:db8:5::1")))
	attach(w)
	w.must(w.node.Sysctl("net.ipv4.ip_forward", "1"))
	w.must(w.node.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	w.must(w.lab.Settle())
	return w
}

func (w *world) namespace(name string) *lab.Namespace {
	return map[string]*lab.Namespace{"node": w.node, "ext": w.ext, "a": w.a, "b": w.b, "c": w.c}[name]
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// arrival is a connection that reached the test's agent.
type arrival struct {
	port     int // the capture port
	peer     netip.Addr
	original netip.AddrPort
}

// agent is the smallest honest agent: it passes captured bytes on to where they were meant to go.
type agent struct {
	t     testing.TB
	pod   *capture.Pod
	loops sync.WaitGroup

	mu       sync.Mutex
	arrivals []arrival
	live     []net.Conn
	dialErrs []error
}

// enrol captures a pod until the test ends.
func (w *world) enrol(ns *lab.Namespace, rules capture.Rules) *agent {
	w.t.Helper()
	return w.enrolConfig(ns, capture.PodConfig{Rules: rules})
}

func (w *world) enrolConfig(ns *lab.Namespace, cfg capture.PodConfig) *agent {
	w.t.Helper()
	return w.enrolPolicy(ns, cfg, nil)
}

// enrolPolicy is enrolConfig with a policy: what is refused is not nil.
func (w *world) enrolPolicy(ns *lab.Namespace, cfg capture.PodConfig, policy error) *agent {
	w.t.Helper()
	n, err := capture.OpenNetns(ns.Path())
	w.must(err)
	cfg.Netns = n
	pod, err := capture.Enrol(context.Background(), cfg)
	if err != nil {
		n.Close()
		w.t.Fatal(err)
	}
	a := &agent{t: w.t, pod: pod}
	a.serve(pod.Outbound(), capture.PortOutbound, func(c *capture.Conn) (net.Conn, error) {
		return conn(pod.Dial(a.context(), c.OriginalDst()))
	})
	a.serve(pod.Inbound(), capture.PortInbound, func(c *capture.Conn) (net.Conn, error) {
		if policy != nil {
			return nil, policy
		}
		peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		return conn(pod.DialApp(a.context(), peer, c.OriginalDst()))
	})
	a.serve(pod.HBONE(), capture.PortHBONE, nil)
	w.t.Cleanup(a.stop)
	return a
}

func conn(c *net.TCPConn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// context bounds an upstream dial.
func (a *agent) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (a *agent) stop() {
	_ = a.pod.Detach()
	a.closeConns()
	a.loops.Wait()
}

func (a *agent) closeConns() {
	a.mu.Lock()
	live := a.live
	a.live = nil
	a.mu.Unlock()
	for _, c := range live {
		_ = c.Close()
	}
}

func (a *agent) track(c net.Conn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.live = append(a.live, c)
}

func (a *agent) serve(l net.Listener, port int, dial func(*capture.Conn) (net.Conn, error)) {
	a.loops.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					a.t.Errorf("accept on %d: %v", port, err)
				}
				return
			}
			a.loops.Go(func() { a.handle(c.(*capture.Conn), port, dial) })
		}
	})
}

func (a *agent) handle(c *capture.Conn, port int, dial func(*capture.Conn) (net.Conn, error)) {
	defer c.Close()
	a.track(c)
	a.mu.Lock()
	a.arrivals = append(a.arrivals, arrival{port, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), c.OriginalDst()})
	a.mu.Unlock()
	if dial == nil {
		_, _ = io.Copy(c, c)
		return
	}
	up, err := dial(c)
	if err != nil {
		a.mu.Lock()
		a.dialErrs = append(a.dialErrs, err)
		a.mu.Unlock()
		_ = c.SetLinger(0)
		return
	}
	defer up.Close()
	a.track(up)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, c); _ = up.(*net.TCPConn).CloseWrite() })
	both.Go(func() { _, _ = io.Copy(c, up); _ = c.CloseWrite() })
	both.Wait()
}

// saw returns what arrived at one capture port so far.
func (a *agent) saw(port int) []arrival {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.arrivals), func(x arrival) bool { return x.port != port })
}

func (a *agent) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivals = nil
}

func (a *agent) errors() []error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.dialErrs)
}

// wantOne fails unless exactly one connection arrived at port, from peer, meant for dst.
func (a *agent) wantOne(why string, port int, peer netip.Addr, dst netip.AddrPort) {
	a.t.Helper()
	want := arrival{port, peer, dst}
	if got := a.saw(port); len(got) != 1 || got[0] != want {
		a.t.Errorf("%s: arrived at %d: %v; want %v", why, port, got, want)
	}
}

// wantNone fails if anything was captured.
func (a *agent) wantNone(why string) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.arrivals) != 0 {
		a.t.Errorf("%s: captured %v", why, a.arrivals)
	}
}

// eventually polls until ok, or fails the test.
func (w *world) eventually(why string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Errorf("%s: not within %s", why, patience)
}

// bothFamilies runs a test over IPv4 and IPv6.
func bothFamilies(t *testing.T, f func(t *testing.T, fam v)) {
	for _, fam := range []v{v4, v6} {
		t.Run(fam.String(), func(t *testing.T) { f(t, fam) })
	}
}

// bothModes runs a test with each way of reaching the app.
func bothModes(t *testing.T, f func(t *testing.T, mode func(*agent))) {
	t.Run("ctmark", func(t *testing.T) {
		f(t, func(a *agent) {
			if err := a.pod.UseConntrackMarks(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("fwmark", func(t *testing.T) {
		f(t, func(a *agent) {
			if !a.pod.UsesMarkAccept() {
				t.Fatal("mode B is not in force")
			}
		})
	})
}
