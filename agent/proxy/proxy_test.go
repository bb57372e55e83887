package proxy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/identity/identitytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a mesh on loopback addresses: pods are addresses of their own, and a
// service's VIP is where its clients' captured connections are accepted.
//
//	client ──> vip:80 (outbound listener) ──> pod:15008 (HBONE listener) ──> app at pod:8080
type lab struct {
	t     *testing.T
	mesh  *identitytest.Mesh
	store *mesh.Store
	net   netip.Prefix
	next  byte
	world mesh.World
}

var labs atomic.Uint32

func newLab(t *testing.T) *lab {
	// A /24 of its own, so that tests of several processes do not meet on
	// port 15008.
	n := labs.Add(1) + uint32(os.Getpid())*31
	addr := netip.AddrFrom4([4]byte{127, byte(64 + n>>8%128), byte(n), 0})
	return &lab{t: t, mesh: identitytest.New(t, "cluster.local"), store: mesh.NewStore(), net: netip.PrefixFrom(addr, 24), next: 1}
}

func (l *lab) addr() netip.Addr {
	b := l.net.Addr().As4()
	b[3] = l.next
	l.next++
	return netip.AddrFrom4(b)
}

// workload adds an HBONE workload to the world; apply publishes it.
func (l *lab) workload(name string, services ...*mesh.Service) *mesh.Workload {
	w := &mesh.Workload{
		UID: "cluster//Pod/default/" + name, Name: name, Namespace: "default", ServiceAccount: name,
		WorkloadName: name, CanonicalName: name, ClusterID: "Kubernetes",
		Addresses: []netip.Addr{l.addr()}, Protocol: mesh.HBONE,
	}
	for _, s := range services {
		if w.Services == nil {
			w.Services = make(map[mesh.NamespacedHostname]mesh.PortMap)
		}
		w.Services[s.Key()] = s.Ports
	}
	l.world.Workloads = append(l.world.Workloads, w)
	return w
}

func (l *lab) service(name string) *mesh.Service {
	s := &mesh.Service{
		Name: name, Namespace: "default", Hostname: name + ".default.svc.cluster.local",
		VIPs:  []mesh.VIP{{Prefix: netip.PrefixFrom(l.addr(), 32)}},
		Ports: mesh.PortMap{80: 8080},
	}
	l.world.Services = append(l.world.Services, s)
	return s
}

func (l *lab) apply() {
	l.t.Helper()
	if err := l.store.Replace(l.world); err != nil {
		l.t.Fatalf("world: %v", err)
	}
}

// node is one agent's proxy with its access log.
type node struct {
	*Proxy
	lab *lab
	log *accessLog
}

func (l *lab) node(change func(*Config)) *node {
	l.t.Helper()
	log := &accessLog{t: l.t}
	cfg := Config{
		Store: l.store, Identity: l.mesh.Manager,
		Telemetry:   telemetry.New(telemetry.Config{AccessLog: log, Format: telemetry.FormatJSON}),
		Logger:      slog.New(slog.NewTextHandler(&testWriter{t: l.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		DialTimeout: 5 * time.Second, DrainTimeout: 5 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	n := &node{Proxy: New(cfg), lab: l, log: log}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.Run(ctx) })
	l.t.Cleanup(func() {
		closing, stop := context.WithTimeout(context.Background(), 5*time.Second)
		defer stop()
		if err := n.Close(closing); err != nil {
			l.t.Errorf("close the proxy: %v", err)
		}
		cancel()
		wg.Wait()
		if left := n.Connections(); len(left) > 0 {
			l.t.Errorf("connections left after everything has ended: %+v", left)
		}
	})
	return n
}

// testPod is a pod that a node serves.
type testPod struct {
	w       *mesh.Workload
	node    *node
	stop    func()         // ends serving and waits
	inbound netip.AddrPort // where its captured plaintext connections arrive

	mu sync.Mutex
	// redirects stand in for routes: dials go to the value instead of the key.
	redirects map[netip.AddrPort]netip.AddrPort
}

// redirect lets the pod's dials of dst go to another address.
func (p *testPod) redirect(dst, to netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.redirects[dst] = to
}

func (p *testPod) dialFrom(ctx context.Context, src netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	p.mu.Lock()
	if to, ok := p.redirects[dst]; ok {
		dst = to
	}
	p.mu.Unlock()
	return dialFrom(ctx, src, dst)
}

type podOption func(*Pod)

// serve makes n serve w's pod. Its outbound listener accepts on vip.
func (n *node) serve(w *mesh.Workload, outbound netip.AddrPort, opts ...podOption) *testPod {
	n.lab.t.Helper()
	n.lab.mesh.Acquire(w.Identity())
	return n.serveWithoutCertificate(w, outbound, opts...)
}

func (n *node) serveWithoutCertificate(w *mesh.Workload, outbound netip.AddrPort, opts ...podOption) *testPod {
	n.lab.t.Helper()
	t := n.lab.t
	p := &testPod{w: w, node: n, redirects: make(map[netip.AddrPort]netip.AddrPort)}
	in := listenAt(t, netip.AddrPortFrom(w.Addresses[0], 0))
	p.inbound = addrPort(in.Addr())
	// A captured plaintext connection keeps its destination; here that would be
	// the listener again.
	p.redirect(p.inbound, netip.AddrPortFrom(w.Addresses[0], 8080))
	pod := Pod{
		UID:      w.UID,
		Workload: func() *mesh.Workload { return n.lab.store.WorkloadByUID(w.UID) },
		Outbound: listenAt(t, outbound),
		Inbound:  in,
		HBONE:    listenAt(t, netip.AddrPortFrom(w.Addresses[0], 15008)),
		Dial: func(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
			return p.dialFrom(ctx, w.Addresses[0], dst)
		},
		DialApp: p.dialFrom,
	}
	for _, o := range opts {
		o(&pod)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.ServePod(ctx, pod) }()
	eventually(t, "the pod is known to its node", func() bool { return n.local(w.UID) != nil })
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServePod: %v", err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

// app listens where the pod's application does.
func (p *testPod) app(handle func(*net.TCPConn)) {
	serveTCP(p.node.lab.t, netip.AddrPortFrom(p.w.Addresses[0], 8080), handle)
}

// serveTCP runs a server until the test ends, and waits for its handlers.
func serveTCP(t *testing.T, addr netip.AddrPort, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l := listenAt(t, addr)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return addrPort(l.Addr())
}

func listenAt(t *testing.T, addr netip.AddrPort) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", addr.String())
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

func dialFrom(ctx context.Context, src netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(src, 0))}
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// refused is a client of the pod whose connection to dst is not let through.
func (p *testPod) refused(dst netip.AddrPort) error { return refused(p.w.Addresses[0], dst) }

// refused dials dst and returns how the connection ended before a byte came.
func refused(src netip.Addr, dst netip.AddrPort) error {
	c, err := dialFrom(context.Background(), src, dst)
	if err != nil {
		return err // the reset may be there before connect has returned
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = io.ReadAll(c)
	return err
}

// dialerTo is what a hbone.Target wants.
func dialerTo(dst netip.AddrPort) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", dst.String())
	}
}

func (p *testPod) dial(dst netip.AddrPort) *net.TCPConn {
	p.node.lab.t.Helper()
	return dialClient(p.node.lab.t, p.w.Addresses[0], dst)
}

func dialClient(t *testing.T, src netip.Addr, dst netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := dialFrom(context.Background(), src, dst)
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// accessLog collects the lines of one node.
type accessLog struct {
	t     *testing.T
	mu    sync.Mutex
	buf   bytes.Buffer
	lines []map[string]any
}

func (a *accessLog) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.buf.Write(p)
	for {
		line, err := a.buf.ReadBytes('\n')
		if err != nil {
			a.buf.Write(line)
			return len(p), nil
		}
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			a.t.Errorf("access log line %q: %v", line, err)
			continue
		}
		a.lines = append(a.lines, m)
	}
}

func (a *accessLog) all() []map[string]any {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]map[string]any(nil), a.lines...)
}

// wait returns the first line that holds every key and value given.
func (a *accessLog) wait(why string, want map[string]any) map[string]any {
	a.t.Helper()
	var found map[string]any
	eventually(a.t, "access log: "+why, func() bool {
		for _, line := range a.all() {
			if holds(line, want) {
				found = line
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("want %v in %v", want, a.all()) })
	return found
}

func holds(line, want map[string]any) bool {
	for k, v := range want {
		got := fmt.Sprint(line[k])
		if text, ok := v.(string); ok && strings.HasPrefix(text, "~") {
			if !strings.Contains(got, text[1:]) {
				return false
			}
			continue
		}
		if got != fmt.Sprint(v) {
			return false
		}
	}
	return true
}

func eventually(t *testing.T, why string, ok func() bool, detail ...func() string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			msg := "not within 10 s: " + why
			for _, d := range detail {
				msg += ": " + d()
			}
			t.Fatal(msg)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// testWriter sends a log to the test while it runs.
type testWriter struct {
	t    *testing.T
	mu   sync.Mutex
	done bool
	once sync.Once
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.once.Do(func() {
		w.t.Cleanup(func() {
			w.mu.Lock()
			w.done = true
			w.mu.Unlock()
		})
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done && testing.Verbose() {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// data is reproducible and compresses badly, so that mixed-up bytes show.
func data(n int, seed byte) []byte {
	b := make([]byte, n)
	h := sha256.Sum256([]byte{seed})
	for i := 0; i < n; i += len(h) {
		copy(b[i:], h[:])
		h = sha256.Sum256(h[:])
	}
	return b
}

func sum(b []byte) string { h := sha256.Sum256(b); return fmt.Sprintf("%x", h[:8]) }

// echo sends back what it got, and half-closes after it.
func echo(c *net.TCPConn) {
	buf := make([]byte, 16<<10)
	_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, buf) // no splice, whose pipe would count
	_ = c.CloseWrite()
}

// allow is an ALLOW policy for one principal.
func allow(name string, id spiffeid.ID) policy.Policy {
	return policy.Policy{
		Name: name, Namespace: "default", Scope: policy.Namespace, Action: policy.Allow,
		Rules: []policy.Rule{{Clauses: []policy.Clause{{Matches: []policy.Match{{
			Principals: []policy.StringMatch{{Kind: policy.Exact, Value: strings.TrimPrefix(id.String(), "spiffe://")}},
		}}}}}},
	}
}

// strict refuses whoever has no identity.
func strict() policy.Policy {
	return policy.Policy{
		Name: "strict", Namespace: "default", Scope: policy.Namespace, Action: policy.Deny,
		Rules: []policy.Rule{{Clauses: []policy.Clause{{Matches: []policy.Match{{
			NotPrincipals: []policy.StringMatch{{Kind: policy.Presence}},
		}}}}}},
	}
}
