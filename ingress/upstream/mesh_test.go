package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/identitytest"
)

// tunnels is a Dialer that reaches every endpoint over HBONE, by a real pool and a
// real server on loopback, whose streams are spliced to the endpoint.
type tunnels struct {
	pool   *hbone.Pool
	server *hbone.Server
	target hbone.Target
	mesh   Mesh
	open   atomic.Int64 // streams at the server
}

func newTunnels(t testing.TB) *tunnels {
	t.Helper()
	im := identitytest.New(t, "cluster.local")
	gw, peer := im.ID("gateways", "edge"), im.ID("apps", "httpbin")
	d := &tunnels{mesh: Mesh{Self: gw, Peer: peer}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d.server = hbone.NewServer(hbone.ServerConfig{TLS: im.ServerTLS(peer), Handler: func(ctx context.Context, s *hbone.Stream) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", s.Request().Authority)
		if err != nil {
			s.Reject(503)
			return
		}
		if s.Accept() != nil {
			c.Close()
			return
		}
		d.open.Add(1)
		defer d.open.Add(-1)
		hbone.Splice(s, c)
	}})
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(l) }()
	d.pool = hbone.NewPool(hbone.PoolConfig{})
	d.target = hbone.Target{
		Key: "peer",
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
		TLS: im.ClientTLS(gw, peer),
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := d.pool.Shutdown(ctx); err != nil {
			t.Errorf("a stream was left: %v", err)
		}
		d.server.Shutdown(ctx)
		<-served
	})
	svid, err := im.Manager.SVID(t.Context(), gw)
	if err != nil {
		t.Fatal(err)
	}
	d.mesh.CertHash = sha256.Sum256(svid.Certificates[0].Raw)
	return d
}

func (d *tunnels) DialEndpoint(ctx context.Context, _, dst netip.AddrPort) (Conn, error) {
	s, err := d.pool.Dial(ctx, d.target, hbone.Request{Authority: dst.String()})
	if err != nil {
		return Conn{}, err
	}
	if _, err := identity.PeerID(s.ConnectionState()); err != nil {
		return Conn{}, err
	}
	return Conn{Conn: s, Mesh: &d.mesh}, nil
}

func TestMeshIsTold(t *testing.T) {
	d := newTunnels(t)
	srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header[xfcc]) }, nil)
	want := "By=spiffe://cluster.local/ns/apps/sa/httpbin;Hash=" + hex.EncodeToString(d.mesh.CertHash[:]) +
		`;Subject="";URI=spiffe://cluster.local/ns/gateways/sa/edge`
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{Dialer: d})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		for range 3 {
			mustSend(t, c, request(t, "GET", "/", ""), "["+want+"]")
		}
		if h, _ := c.Pick(Pick{}); !h.InMesh() {
			t.Error("the endpoint is not said to be in the mesh")
		}
		if n := s.Totals().Connects; n != 1 {
			t.Errorf("%d connections, want one that is used again", n)
		}
		r := request(t, "GET", "/", "")
		r.Header.Set(xfcc, "By=a")
		mustSend(t, c, r, "[By=a,"+want+"]")
		if got := r.Header.Values(xfcc); len(got) != 1 || got[0] != "By=a" {
			t.Errorf("the caller's request was changed: %q", got)
		}
		r = request(t, "GET", "/", "")
		mustSend(t, c, r, "["+want+"]")
		if _, ok := r.Header[xfcc]; ok {
			t.Error("the caller's request was changed")
		}
	}
}

// A BackendTLSPolicy holds in the mesh, too: TLS goes through the tunnel.
func TestTLSThroughTheMesh(t *testing.T) {
	d := newTunnels(t)
	ca := newAuthority(t, "ca")
	srv := tlsServer(t, ca.issue(time.Hour, "a.example"), func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto, " ", r.Header.Get(xfcc) != "")
	}, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{Dialer: d})
		c := one(t, s, Config{Protocol: proto, TLS: &TLS{ServerName: "a.example", Roots: ca.pool()}, Endpoints: []Endpoint{at(t, srv.URL)}})
		for range 3 {
			mustSend(t, c, request(t, "GET", "/", ""), [...]string{"HTTP/1.1 true", "HTTP/2.0 true"}[proto])
		}
		if n := s.Totals().Connects; n != 1 {
			t.Errorf("%d connections, want one that is used again", n)
		}
	}
}

// Many large answers that nobody reads share the tunnel with small ones.
func TestSlowStreamsStallNobody(t *testing.T) {
	d := newTunnels(t)
	srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			buf := make([]byte, 64<<10)
			for r.Context().Err() == nil {
				if _, err := w.Write(buf); err != nil {
					return
				}
			}
			return
		}
		echo(w, r)
	}, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{Dialer: d})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		ctx, cancel := context.WithCancel(t.Context())
		var slow []*http.Response
		for range 24 {
			h, _ := c.Pick(Pick{})
			resp, err := c.RoundTrip(request(t, "GET", "/large", "").WithContext(ctx), h)
			if err != nil {
				t.Fatal(err)
			}
			slow = append(slow, resp)
		}
		small, done := context.WithTimeout(t.Context(), 20*time.Second)
		for range 50 {
			mustSend(t, c, request(t, "GET", "/", "").WithContext(small), "GET / backend.example ")
		}
		done()
		cancel()
		for _, resp := range slow {
			resp.Body.Close()
		}
		eventually(t, "nothing is under way", func() bool { return c.Status().Endpoints[0].Active == 0 })
	}
}

// A client that leaves resets its stream, in each state of the exchange: the
// backend sees it, and nothing is left in the tunnel.
func TestAbortResetsTheStream(t *testing.T) {
	d := newTunnels(t)
	ended := make(chan struct{}, 1)
	entered := make(chan struct{}, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		entered <- struct{}{}
		if r.URL.Path == "/begun" {
			w.Write(make([]byte, 100))
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	s := newSet(t, SetConfig{Dialer: d})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	for range 10 {
		for _, path := range []string{"/waiting", "/begun"} {
			ctx, cancel := context.WithCancel(t.Context())
			h, _ := c.Pick(Pick{})
			if path == "/waiting" {
				go func() { <-entered; cancel() }()
			}
			resp, err := c.RoundTrip(request(t, "GET", path, "").WithContext(ctx), h)
			if path == "/begun" {
				if err != nil {
					t.Fatal(err)
				}
				<-entered
				io.ReadFull(resp.Body, make([]byte, 10)) // a range of it, and then no more
				resp.Body.Close()
			} else {
				wantKind(t, err, Canceled, "a client that left")
			}
			cancel()
			<-ended
		}
	}
	eventually(t, "no stream is left in the tunnel", func() bool { return d.open.Load() == 0 })
	if st := c.Status().Endpoints[0]; st.Active != 0 || st.Connections != 0 {
		t.Errorf("afterwards: %+v", st)
	}
}

func TestMeshStream(t *testing.T) {
	d := newTunnels(t)
	addr := rawServer(t, upper)
	s := newSet(t, SetConfig{Dialer: d})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, addr)}})
	conn, _, err := c.DialStream(t.Context(), netip.MustParseAddrPort("192.0.2.1:1234"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := conn.(*hbone.Stream); !ok {
		t.Errorf("a connection in the mesh is a %T, want the stream itself", conn)
	}
	exchangeBytes(t, conn, "HELLO")
	one(t, s, Config{Endpoints: []Endpoint{at(t, closedPort(t))}})
	_, _, err = c.DialStream(t.Context(), netip.AddrPort{})
	wantKind(t, err, Connect, "the peer cannot reach it")
}
