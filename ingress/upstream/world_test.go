package upstream

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newSet makes a Set that the test closes, and waits for.
func newSet(t testing.TB, cfg SetConfig) *Set {
	t.Helper()
	s := NewSet(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("a request was still under way at the end of the test: %v", err)
		}
	})
	return s
}

// at is the endpoint of an address as in URLs and listeners.
func at(t testing.TB, addr string) Endpoint {
	t.Helper()
	addr = strings.TrimPrefix(strings.TrimPrefix(addr, "http://"), "https://")
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return Endpoint{Addr: ap}
}

// one applies a cluster of the endpoints alone.
func one(t testing.TB, s *Set, cfg Config) *Cluster {
	t.Helper()
	cfg.Key = "ns/svc:80"
	s.Apply(map[string]*Config{cfg.Key: &cfg})
	return s.Cluster(cfg.Key)
}

func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func request(t testing.TB, method, path, body string) *http.Request {
	t.Helper()
	var rd io.Reader
	if body != "" {
		rd = struct{ io.Reader }{strings.NewReader(body)} // no GetBody
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://backend.example"+path, rd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// send is one request with its answer.
func send(c *Cluster, r *http.Request) (*http.Response, string, error) {
	h, err := c.Pick(Pick{})
	if err != nil {
		return nil, "", err
	}
	resp, err := c.RoundTrip(r, h)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func mustSend(t testing.TB, c *Cluster, r *http.Request, want string) *http.Response {
	t.Helper()
	resp, got, err := send(c, r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	if got != want {
		t.Fatalf("%s %s: got %q, want %q", r.Method, r.URL, got, want)
	}
	return resp
}

// wantKind fails unless err is an *Error of that kind, which it returns.
func wantKind(t testing.TB, err error, kind Kind, why string) *Error {
	t.Helper()
	e, ok := err.(*Error)
	if !ok {
		t.Fatalf("%s: got %T %v, want a *Error", why, err, err)
	}
	if e.Kind != kind {
		t.Fatalf("%s: got %v (%v), want %v", why, e.Kind, e, kind)
	}
	return e
}

// eventually polls until ok, for what another goroutine does in its own time.
func eventually(t testing.TB, why string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("never: %s", why)
}

// rawServer runs handle for each connection to it.
func rawServer(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		n := 0
		ended := make(chan struct{})
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			n++
			stop := context.AfterFunc(ctx, func() { c.Close() })
			go func() { handle(c); stop(); c.Close(); ended <- struct{}{} }()
		}
		for range n {
			<-ended
		}
	}()
	t.Cleanup(func() { l.Close(); cancel(); <-done })
	return l.Addr().String()
}

// closedPort is an address where nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// quiet is for servers whose handshakes shall fail.
var quiet = log.New(io.Discard, "", 0)

func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL, r.Host, b)
}
