package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/hbone"
)

func (n *node) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	n.lab.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			n.lab.t.Errorf("role: %v", err)
		}
	})
}

func template(t *testing.T, s string) Template {
	t.Helper()
	tmpl, err := ParseTemplate(s)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

// TestHTTPSThroughRoles is the picture of two proxies with a tunnel between
// them: a client's own TLS session reaches its server untouched.
//
//	https client ──> encapsulate ══ mTLS, CONNECT host.com:443 ══> terminate ──> https server
//
// Both roles run once in an agent each and once in one agent.
func TestHTTPSThroughRoles(t *testing.T) {
	for _, together := range []bool{false, true} {
		name := map[bool]string{false: "two agents", true: "one agent"}[together]
		t.Run(name, func(t *testing.T) { testHTTPSThroughRoles(t, together) })
	}
}

func testHTTPSThroughRoles(t *testing.T, together bool) {
	l := newLab(t)
	client, gateway := l.mesh.ID("default", "client"), l.mesh.ID("default", "gateway")
	l.mesh.Acquire(client)
	l.mesh.Acquire(gateway)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Host)
	}))
	t.Cleanup(server.Close)

	a := l.node(nil)
	b := a
	if !together {
		b = l.node(nil)
	}
	seen := new(seenRequests)
	terminator := listenAt(t, netip.AddrPortFrom(l.addr(), 0))
	b.run(func(ctx context.Context) error {
		return b.ServeTerminate(ctx, Terminate{
			Listener: terminator, Identity: gateway, Allow: []spiffeid.ID{client},
			Upstream: server.Listener.Addr().String(), onRequest: seen.add,
		})
	})
	entrance := listenAt(t, netip.AddrPortFrom(l.addr(), 0))
	port := HeaderTemplate{"original_dst_port", template(t, "%DOWNSTREAM_LOCAL_PORT%")}
	a.run(func(ctx context.Context) error {
		return a.ServeEncapsulate(ctx, Encapsulate{
			Listener: entrance, Peer: terminator.Addr().String(), Authority: template(t, "host.com:443"),
			Header: []HeaderTemplate{port}, Identity: client, Expect: []spiffeid.ID{gateway},
		})
	})

	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	hc := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", entrance.Addr().String())
		},
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}}
	resp, err := hc.Get("https://example.com/") // the name in httptest's certificate
	if err != nil {
		t.Fatalf("HTTPS through the tunnel: %v", err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "hello example.com" {
		t.Errorf("answer %q", body)
	}
	if !resp.TLS.PeerCertificates[0].Equal(server.Certificate()) {
		t.Error("the client's TLS session did not end at its server")
	}
	req := seen.last(t)
	_, wantPort, _ := net.SplitHostPort(entrance.Addr().String())
	if req.Authority != "host.com:443" || req.Get("original_dst_port") != wantPort {
		t.Errorf("CONNECT %s with original_dst_port %q, want host.com:443 and %s", req.Authority, req.Get("original_dst_port"), wantPort)
	}
	a.log.wait("the client's side", map[string]any{"direction": "outbound", "dst.identity": gateway.String()})
	b.log.wait("the server's side", map[string]any{"direction": "inbound", "src.identity": client.String(), "dst.hbone_addr": "host.com:443"})
}

type seenRequests struct {
	mu   sync.Mutex
	reqs []*hbone.Request
}

func (s *seenRequests) add(r *hbone.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reqs = append(s.reqs, r)
}

func (s *seenRequests) last(t *testing.T) *hbone.Request {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reqs) == 0 {
		t.Fatal("no CONNECT request was seen")
	}
	return s.reqs[len(s.reqs)-1]
}

// TestRolesRefuse: who is not in the list, a peer that is not who it should be,
// and an upstream that is not there, all end in a reset of the client.
func TestRolesRefuse(t *testing.T) {
	l := newLab(t)
	client, gateway, other := l.mesh.ID("default", "client"), l.mesh.ID("default", "gateway"), l.mesh.ID("default", "other")
	for _, id := range []spiffeid.ID{client, gateway, other} {
		l.mesh.Acquire(id)
	}
	good := serveTCP(t, netip.AddrPortFrom(l.addr(), 0), echo).String()
	for _, tt := range []struct {
		name     string
		as       spiffeid.ID
		expect   spiffeid.ID
		upstream string
		flag     string // "" = is let through
	}{
		{"allowed", client, gateway, good, ""},
		{"to the authority", client, gateway, "", ""},
		{"not in the list", other, gateway, good, "DENY"},
		{"wrong peer", client, other, good, "TLS_FAILURE"},
		{"upstream refuses", client, gateway, netip.AddrPortFrom(l.addr(), 1).String(), "CONNECT"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sub := *l
			sub.t = t
			n := sub.node(func(c *Config) { c.DialTimeout = 3 * time.Second })
			terminator := listenAt(t, netip.AddrPortFrom(l.addr(), 0))
			n.run(func(ctx context.Context) error {
				return n.ServeTerminate(ctx, Terminate{Listener: terminator, Identity: gateway, Allow: []spiffeid.ID{client}, Upstream: tt.upstream})
			})
			entrance := listenAt(t, netip.AddrPortFrom(l.addr(), 0))
			n.run(func(ctx context.Context) error {
				return n.ServeEncapsulate(ctx, Encapsulate{
					Listener: entrance, Peer: terminator.Addr().String(), Authority: template(t, good),
					Identity: tt.as, Expect: []spiffeid.ID{tt.expect},
				})
			})
			src, dst := l.net.Addr().Next(), addrPort(entrance.Addr())
			if tt.flag == "" {
				c := dialClient(t, src, dst)
				roundTrip(t, c)
				c.Close()
				return
			}
			if err := refused(src, dst); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client saw %v, want a reset", err)
			}
			n.log.wait("the reason", map[string]any{"direction": "outbound", "response_flags": tt.flag})
		})
	}
}

func TestTemplate(t *testing.T) {
	local, remote := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("[fd00::2]:4000")
	for _, tt := range []struct{ in, want, err string }{
		{"", "", ""},
		{"plain", "plain", ""},
		{"%DOWNSTREAM_LOCAL_PORT%", "80", ""},
		{"a %DOWNSTREAM_LOCAL_ADDRESS% b", "a 10.0.0.1:80 b", ""},
		{"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%%DOWNSTREAM_REMOTE_PORT%", "fd00::24000", ""},
		{"100%%", "100%", ""},
		{"%%DOWNSTREAM_LOCAL_PORT%%", "%DOWNSTREAM_LOCAL_PORT%", ""},
		{"%", "", "write %% for a percent sign"},
		{"50% of", "", "write %% for a percent sign"},
		{"%DOWNSTREAM_LOCAL_PROT%", "", "unknown variable %DOWNSTREAM_LOCAL_PROT%"},
		{"%REQ(:path)%", "", "unknown variable"},
	} {
		tmpl, err := ParseTemplate(tt.in)
		switch {
		case err != nil && (tt.err == "" || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%q: error %q, want %q", tt.in, err, tt.err)
		case err == nil && tt.err != "":
			t.Errorf("%q: no error, want %q", tt.in, tt.err)
		case err == nil && tmpl.Expand(local, remote) != tt.want:
			t.Errorf("%q: %q, want %q", tt.in, tmpl.Expand(local, remote), tt.want)
		}
	}
}

func TestHeaderTemplate(t *testing.T) {
	for _, tt := range []struct{ name, value, err string }{
		{"original_dst_port", "%DOWNSTREAM_LOCAL_PORT%", ""},
		{"x-a", "tab\tinside", ""},
		{"X-A", "v", `write "x-a"`},
		{":authority", "v", "not a header name"},
		{"", "v", "not a header name"},
		{"a b", "v", "not a header name"},
		{"host", "v", "cannot be part of a CONNECT"},
		{"transfer-encoding", "v", "cannot be part of a CONNECT"},
		{"x-a", "line\nbreak", "control character"},
		{"x-a", " space", "space at an end"},
	} {
		_, err := ParseHeaderTemplate(tt.name, tt.value)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: %q: error %v, want %q", tt.name, tt.value, err, tt.err)
		}
	}
}

// FuzzTemplate: what is read can be written out, and holds no variable any more.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "%", "%%", "%DOWNSTREAM_LOCAL_PORT%", "a%DOWNSTREAM_REMOTE_ADDRESS%%%"} {
		f.Add(s)
	}
	at := netip.MustParseAddrPort("10.0.0.1:80")
	f.Fuzz(func(t *testing.T, s string) {
		tmpl, err := ParseTemplate(s)
		if err != nil {
			return
		}
		if tmpl.String() != s {
			t.Errorf("%q comes back as %q", s, tmpl.String())
		}
		if !strings.Contains(s, "%") && tmpl.Expand(at, at) != s {
			t.Errorf("%q expands to %q", s, tmpl.Expand(at, at))
		}
	})
}
