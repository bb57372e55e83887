package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// TestPolicy: who is not allowed is reset, and both agents' logs say why.
func TestPolicy(t *testing.T) {
	policedWays(t, nil, echo, func(t *testing.T, w *way) {
		only := allow("only-other", w.lab.mesh.ID("default", "other"))
		if err := w.lab.store.Apply(mesh.Update{Policies: []policy.Policy{only}}); err != nil {
			t.Fatal(err)
		}
		if err := w.client.refused(w.dst); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a client that policy refuses saw %v, want a reset", err)
		}
		w.dest.log.wait("the refusal", map[string]any{"direction": "inbound", "response_flags": "DENY", "error": "~refused by policy"})
		if w.name != "plaintext" {
			w.source.log.wait("the refusal at the source", map[string]any{"direction": "outbound", "response_flags": "DENY"})
		}

		mine := allow("only-client", w.client.w.Identity())
		if err := w.lab.store.Apply(mesh.Update{Policies: []policy.Policy{mine}}); err != nil {
			t.Fatal(err)
		}
		if w.name == "plaintext" { // nobody is not the client, whatever the address
			if err := w.client.refused(w.dst); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("plaintext from an allowed workload's address saw %v, want a reset", err)
			}
			return
		}
		roundTrip(t, w.dial())
	})
}

// TestMissingPolicy: a workload that names a policy which has not arrived takes
// nobody.
func TestMissingPolicy(t *testing.T) {
	policedWays(t, nil, echo, func(t *testing.T, w *way) {
		changed := *w.server.w
		changed.AuthorizationPolicies = []string{"default/late"}
		if err := w.lab.store.Apply(mesh.Update{Workloads: []*mesh.Workload{&changed}}); err != nil {
			t.Fatal(err)
		}
		if err := w.client.refused(w.dst); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("while a policy is missing a client saw %v, want a reset", err)
		}
		line := w.dest.log.wait("the refusal", map[string]any{"direction": "inbound", "response_flags": "DENY"})
		if !holds(line, map[string]any{"error": "~default/late"}) {
			t.Errorf("the log does not name the missing policy: %v", line["error"])
		}
	})
}

// TestNoCertificate: without a certificate of its own a pod does not reach a
// mesh peer, in plaintext least of all.
func TestNoCertificate(t *testing.T) {
	l := newLab(t)
	svc := l.service("server")
	client, server := l.workload("client"), l.workload("server", svc)
	foreign := *client
	foreign.UID, foreign.Name, foreign.TrustDomain = "cluster//Pod/default/foreign", "foreign", "elsewhere.example"
	foreign.Addresses = []netip.Addr{l.addr()}
	l.world.Workloads = append(l.world.Workloads, &foreign)
	l.apply()
	n := l.node(func(c *Config) { c.DialTimeout = time.Second })
	vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)

	// The CA issues nothing for another trust domain. The pod is served all the
	// same, as it would be while a CA is away.
	release := l.mesh.Manager.Acquire(foreign.Identity())
	defer release()
	p := n.serveWithoutCertificate(&foreign, vip)
	to := n.serve(server, netip.AddrPortFrom(l.addr(), 80))
	to.app(func(c *net.TCPConn) { t.Error("something reached the application") })

	if err := p.refused(vip); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v, want a reset", err)
	}
	n.log.wait("the reason", map[string]any{"response_flags": "IDENTITY_ERROR", "error": "~" + foreign.Identity().String()})
}

// TestWrongPeer: whoever answers in the place of a workload without its
// identity gets nothing.
func TestWrongPeer(t *testing.T) {
	l := newLab(t)
	svc := l.service("server")
	client, server := l.workload("client"), l.workload("server", svc)
	l.apply()
	n := l.node(nil)
	vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
	p := n.serve(client, vip)
	impostor := hbone.NewServer(hbone.ServerConfig{
		TLS:     l.mesh.ServerTLS(l.mesh.ID("default", "impostor")),
		Handler: nil,
	})
	at := listenAt(t, netip.AddrPortFrom(server.Addresses[0], 15008))
	done := make(chan error, 1)
	go func() { done <- impostor.Serve(at) }()
	t.Cleanup(func() { impostor.Close(); <-done })

	if err := p.refused(vip); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v, want a reset", err)
	}
	n.log.wait("the reason", map[string]any{"response_flags": "TLS_FAILURE", "error": "~" + l.mesh.ID("default", "impostor").String()})
}

// TestAuthority: what a peer may ask of a pod, and what it is answered.
func TestAuthority(t *testing.T) {
	l := newLab(t)
	svc := l.service("server")
	client, server := l.workload("client"), l.workload("server", svc)
	other := l.workload("other")
	l.apply()
	n := l.node(nil)
	p := n.serve(server, netip.AddrPortFrom(l.addr(), 80))
	p.app(echo)
	pool := hbone.NewPool(hbone.PoolConfig{})
	t.Cleanup(func() { _ = pool.Shutdown(t.Context()) })
	target := hbone.Target{
		Key:  "peer",
		Dial: dialerTo(netip.AddrPortFrom(server.Addresses[0], 15008)),
		TLS:  l.mesh.ClientTLS(client.Identity(), server.Identity()),
	}
	ip := server.Addresses[0].String()
	for _, tt := range []struct {
		authority string
		status    int // 0 = accepted
	}{
		{ip + ":8080", 0},
		{svc.Hostname + ":80", 0},
		{"[::ffff:" + ip + "]:8080", 0},
		{ip + ":1", 503},
		{ip + ":15001", 503},
		{ip + ":15006", 503},
		{ip + ":15008", 503},
		{other.Addresses[0].String() + ":8080", 400},
		{"127.0.0.1:8080", 400},
		{svc.Hostname + ":81", 503},
		{"nobody.example:80", 503},
		{ip, 400},
		{"user@" + ip + ":8080", 400},
		{ip + ":99999", 400},
	} {
		s, err := pool.Dial(t.Context(), target, hbone.Request{Authority: tt.authority})
		status := 0
		if se := new(hbone.StatusError); errors.As(err, &se) {
			status = se.Status
		} else if err != nil {
			t.Errorf("CONNECT %s: %v", tt.authority, err)
			continue
		}
		if err == nil {
			roundTrip(t, s)
			s.Close()
		}
		if status != tt.status {
			t.Errorf("CONNECT %s: status %d, want %d (0 is accepted)", tt.authority, status, tt.status)
		}
	}
}

// TestClientGone: a client that resets while its destination is dialled takes
// the dial with it.
func TestClientGone(t *testing.T) {
	l := newLab(t)
	svc := l.service("server")
	client, server := l.workload("client"), l.workload("server", svc)
	l.apply()
	n := l.node(func(c *Config) { c.DialTimeout = time.Minute })
	vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
	p := n.serve(client, vip)
	silent := make(chan struct{})
	defer close(silent)
	serveTCP(t, netip.AddrPortFrom(server.Addresses[0], 15008), func(c *net.TCPConn) { <-silent })

	for name, end := range map[string]func(*net.TCPConn){
		"reset":                func(c *net.TCPConn) { reset(c) },
		"reset, bytes waiting": func(c *net.TCPConn) { _, _ = c.Write([]byte("hello")); reset(c) },
	} {
		c := p.dial(vip)
		eventually(t, "the dial begins", func() bool { return len(n.Connections()) == 1 })
		end(c)
		eventually(t, name+": the connection is forgotten", func() bool { return len(n.Connections()) == 0 })
	}
	n.log.wait("the reason", map[string]any{"error": "~client reset the connection"})
}

// TestRedial: an endpoint that cannot be reached is passed over for the next
// one of the service, and the client notices nothing.
func TestRedial(t *testing.T) {
	for _, broken := range []string{"refuses", "never answers", "has no application"} {
		t.Run(broken, func(t *testing.T) {
			l := newLab(t)
			svc := l.service("server")
			client := l.workload("client")
			dead, good := l.workload("dead", svc), l.workload("good", svc)
			l.apply()
			n := l.node(func(c *Config) { c.DialTimeout = 5 * time.Second })
			vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
			p := n.serve(client, vip)
			n.serve(good, netip.AddrPortFrom(l.addr(), 80)).app(echo)
			silent := make(chan struct{})
			defer close(silent)
			switch broken {
			case "never answers":
				serveTCP(t, netip.AddrPortFrom(dead.Addresses[0], 15008), func(c *net.TCPConn) { <-silent })
			case "has no application":
				n.serve(dead, netip.AddrPortFrom(l.addr(), 80))
			}
			first := l.store.Outbound(client, vip).Hops
			if len(first) < 2 {
				t.Fatalf("the route has %d hops, the test needs 2", len(first))
			}
			// Whichever endpoint comes first, each kind of failure is met.
			for range 4 {
				roundTrip(t, p.dial(vip))
			}
		})
	}
}

// TestHalfCloseIdle: a half-closed connection that is silent is given up; one
// that is not half-closed may be silent for ever.
func TestHalfCloseIdle(t *testing.T) {
	short := func(c *Config) { c.HalfCloseIdle = 200 * time.Millisecond }
	app := func(c *net.TCPConn) {
		_, _ = c.Write([]byte{1})
		_, _ = io.ReadAll(c)
		_, _ = c.Read(make([]byte, 1)) // at its end already: keep the other direction open
		for {
			if tcpState(c) == tcpClose {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	ways(t, short, app, func(t *testing.T, w *way) {
		silent, half := w.dial(), w.dial()
		for _, c := range []net.Conn{silent, half} {
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		_ = half.CloseWrite()
		if _, err := io.ReadAll(half); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the half-closed client saw %v, want a reset", err)
		}
		eventually(t, "one of the two agents says why", func() bool { // the other sees its reset
			for _, line := range append(w.source.log.all(), w.dest.log.all()...) {
				if holds(line, map[string]any{"error": "~half-closed and idle"}) {
					return true
				}
			}
			return false
		})
		if state := tcpState(silent); state != tcpEstablished {
			t.Errorf("the connection that was only silent is in TCP state %d", state)
		}
		reset(silent)
	})
}

// TestFlags: the flags that the log and the metrics tell failures
// apart by.
func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, "-"},
		{&deniedError{}, "DENY"},
		{&hbone.DialError{Phase: hbone.PhaseConnect, Err: &hbone.StatusError{Status: 401}}, "DENY"},
		{&hbone.DialError{Phase: hbone.PhaseConnect, Err: &hbone.StatusError{Status: 503}}, "CONNECT"},
		{&hbone.DialError{Phase: hbone.PhaseTCP, Err: syscall.ECONNREFUSED}, "CONNECT"},
		{&hbone.DialError{Phase: hbone.PhaseTCP, Err: syscall.ETIMEDOUT}, "NETWORK_POLICY"},
		{&hbone.DialError{Phase: hbone.PhaseTLS, Err: identity.ErrUnexpectedPeer}, "TLS_FAILURE"},
		{&hbone.DialError{Phase: hbone.PhaseTLS, Err: &identity.SVIDError{}}, "IDENTITY_ERROR"},
		{&hbone.DialError{Phase: hbone.PhaseH2, Err: io.EOF}, "H2_HANDSHAKE_FAILURE"},
		{&noIdentityError{errors.New("x")}, "IDENTITY_ERROR"},
		{errors.New("anything"), "CONNECT"},
	} {
		if got := string(flagOf(tt.err)); got != tt.want {
			t.Errorf("flag of %v: %s, want %s", tt.err, got, tt.want)
		}
	}
}

// TestPolicyChangeWhileDialling: a policy that changes between the check and
// the answer is not missed.
func TestPolicyChangeWhileDialling(t *testing.T) {
	for _, name := range []string{"hbone", "local", "plaintext"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			svc := l.service("server")
			client, server := l.workload("client"), l.workload("server", svc)
			l.apply()
			n := l.node(func(c *Config) {
				if name == "local" {
					c.SameNode = SameNodeDirect
				}
			})
			vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
			dialling := make(chan struct{}, 1)
			p := n.serve(client, vip)
			to := n.serve(server, netip.AddrPortFrom(l.addr(), 80), func(pod *Pod) {
				pod.DialApp = func(ctx context.Context, _ netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
					dialling <- struct{}{}
					<-ctx.Done()
					return nil, ctx.Err()
				}
			})
			if name == "plaintext" {
				vip = to.inbound
			}
			refused := make(chan error, 1)
			go func() { refused <- p.refused(vip) }()
			select {
			case <-dialling:
			case err := <-refused:
				t.Fatalf("the application was never dialled: the client saw %v", err)
			case <-time.After(10 * time.Second):
				t.Fatal("the application is not dialled within 10 s")
			}
			nobody := allow("nobody", l.mesh.ID("default", "nobody"))
			if err := l.store.Apply(mesh.Update{Policies: []policy.Policy{nobody}}); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-refused:
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the client saw %v, want a reset", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the client is not reset within 10 s of the change of policy")
			}
			n.log.wait("the cut", map[string]any{
				"direction": "inbound", "response_flags": "DENY", "error": "~connection closed due to policy change",
			})
		})
	}
}
