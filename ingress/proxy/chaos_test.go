package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// TestEveryRequestIsRecordedOnce: whatever clients and backends do, a request is
// recorded once, what it took is given back, and what it says is possible.
func TestEveryRequestIsRecordedOnce(t *testing.T) {
	moody := backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		switch rand.IntN(7) {
		case 0: // never answers
			select {
			case <-r.Context().Done():
			case <-time.After(20 * time.Millisecond):
			}
		case 1: // resets
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				_ = c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		case 2: // tears its answer
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case 3:
			w.WriteHeader(503)
		case 4: // answers early
			_, _ = io.WriteString(w, "early")
		default:
			_, _ = io.Copy(w, r.Body)
		}
	})
	rule := toA()
	rule.Retry = &Retry{Codes: []int{503}, Attempts: 1, Backoff: time.Millisecond}
	rule.BackendTimeout = 10 * time.Millisecond
	rule.Filters.Mirrors = mirrors("a")
	conf := one(moody)
	conf["a"].Endpoints = append(conf["a"].Endpoints, clusterOf(upstream.HTTP1, closedPort(t)).Endpoints...)
	e := newEdge(t, conf, rule)
	h2 := e.serveTLS()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c, url := client, e.url
			if i%2 == 1 {
				c, url = h2, e.h2url
			}
			for range 40 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(40))*time.Millisecond)
				var body io.Reader
				if rand.IntN(2) == 0 {
					body = strings.NewReader(strings.Repeat("x", rand.IntN(200_000)))
				}
				req, err := http.NewRequestWithContext(ctx, []string{"GET", "PUT", "POST"}[rand.IntN(3)], url, body)
				if err != nil {
					t.Error(err)
				}
				if res, err := c.Do(req); err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	eventually(t, "record of each request", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return int64(len(e.records)) == e.served.Load()
	})
	eventually(t, "end of all mirrors", func() bool { return len(e.p.mirrors) == 0 })
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, x := range e.records {
		switch x.Status {
		case 200, 499, 502, 503, 504:
		case 400, 408: // a body that the client tore
			if x.Received == 0 && x.Flags == "" {
				t.Errorf("status %d, flags %q, %q", x.Status, x.Flags, x.Detail)
			}
		default:
			t.Errorf("status %d, flags %q, %q", x.Status, x.Flags, x.Detail)
		}
		if x.Status != 200 && x.Status != 503 && x.Flags == "" || x.Attempts > 2 || x.Duration <= 0 || x.Method == "" {
			t.Errorf("record %d %q after %d attempts: %q", x.Status, x.Flags, x.Attempts, x.Detail)
		}
	}
}

// TestTornAnswerOverHTTP2: the stream is reset, and the connection goes on.
func TestTornAnswerOverHTTP2(t *testing.T) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		if r.URL.Path == "/torn" {
			panic(http.ErrAbortHandler)
		}
	})), toA())
	c := e.serveTLS()
	for _, path := range []string{"/torn", "/whole", "/torn", "/whole"} {
		res, err := c.Get(e.h2url + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if string(b) != "half" || (err != nil) != (path == "/torn") || res.ProtoMajor != 2 {
			t.Errorf("%s: %q, %v over %s", path, b, err, res.Proto)
		}
	}
	e.last(4)
}
