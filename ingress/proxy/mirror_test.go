package proxy

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/ingress/upstream"
)

func mirrors(keys ...string) (ms []Mirror) {
	for _, k := range keys {
		ms = append(ms, Mirror{Backend: Backend{Cluster: k}})
	}
	return ms
}

// catcher is a backend that passes on what it saw.
func catcher(t testing.TB) (*upstream.Config, <-chan seen) {
	ch := make(chan seen, 100)
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			b = []byte("error")
		}
		ch <- seen{Method: r.Method, Host: r.Host, URI: r.RequestURI, Header: r.Header, Length: r.ContentLength, Body: string(b)}
		w.WriteHeader(500)
	}), ch
}

func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic(0)
	}
}

func TestMirrorsGetWhatTheBackendGets(t *testing.T) {
	m1, ch1 := catcher(t)
	m2, ch2 := catcher(t)
	rule := toA()
	rule.Filters.Mirrors = append(mirrors("m1", "unknown", ""), Mirror{Backend: Backend{Cluster: "m2"}, Numerator: 0, Denominator: 100})
	rule.Filters.RequestHeaders.Set = []HeaderValue{{"X-Set", "1"}}
	rule.Filters.Rewrite = &Rewrite{Path: Path{Full: "/new"}}
	rule.Backends[0].Filters.Mirrors = mirrors("m2")
	e := newEdge(t, map[string]*upstream.Config{"a": echoBackend(t), "m1": m1, "m2": m2}, rule)
	for _, body := range []string{"", "hello", strings.Repeat("x", 100_000)} {
		req := e.request("POST", "/old?q", strings.NewReader(body))
		req.Host = "a.test"
		res, got := e.do(req)
		s := parse(t, got)
		if res.StatusCode != 200 || s.Body != body {
			t.Fatalf("the backend itself: %d", res.StatusCode)
		}
		for _, m := range []seen{receive(t, ch1), receive(t, ch2)} {
			if m.Method != "POST" || m.Host != "a.test" || m.URI != "/new?q" || m.Body != body || m.Length != int64(len(body)) {
				t.Errorf("mirror saw %s %s %s, %d bytes, length %d", m.Method, m.Host, m.URI, len(m.Body), m.Length)
			}
			if d := cmp.Diff(s.Header, m.Header); d != "" {
				t.Errorf("headers (-backend +mirror):\n%s", d)
			}
		}
	}
	if len(ch2) > 0 {
		t.Error("a share of 0 per cent was mirrored")
	}
}

func TestSlowMirrorsSlowNobody(t *testing.T) {
	release := make(chan struct{})
	stuck := backend(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	rule := toA()
	rule.Filters.Mirrors = mirrors("m", "down")
	e := newEdge(t, map[string]*upstream.Config{"a": echoBackend(t), "m": stuck, "down": clusterOf(upstream.HTTP1, closedPort(t))},
		rule, func(c *Config) { c.MaxMirrors = 3 })
	defer close(release)
	// Far more than sockets and mirrorLag hold.
	body := strings.Repeat("x", 8<<20)
	for range 5 {
		if res, got := e.do(e.request("POST", "/", strings.NewReader(body))); res.StatusCode != 200 || len(parse(t, got).Body) != len(body) {
			t.Fatalf("got %d", res.StatusCode)
		}
		if n := len(e.p.mirrors); n > 3 {
			t.Fatalf("%d mirrored requests are under way", n)
		}
	}
}

func TestMirrorOfAnAbortedUploadIsAborted(t *testing.T) {
	m, ch := catcher(t)
	rule := toA()
	rule.Filters.Mirrors = mirrors("m")
	e := newEdge(t, map[string]*upstream.Config{"a": echoBackend(t), "m": m}, rule)
	c, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n")
	c.Close()
	e.last(1)
	select {
	case s := <-ch:
		if s.Body != "error" {
			t.Errorf("the mirror took %q for a whole body", s.Body)
		}
	case <-time.After(100 * time.Millisecond):
		// It never got as far as the mirror: as good.
	}
	eventually(t, "end of the mirrored request", func() bool { return len(e.p.mirrors) == 0 })
}
