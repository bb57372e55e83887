package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// gauge counts requests under way, and the most there were.
type gauge struct{ now, most atomic.Int64 }

func (g *gauge) enter() {
	n := g.now.Add(1)
	for m := g.most.Load(); n > m && !g.most.CompareAndSwap(m, n); m = g.most.Load() {
	}
}

func TestMaxConns(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2} {
		var g gauge
		srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
			g.enter()
			defer g.now.Add(-1)
			time.Sleep(time.Millisecond)
			echo(w, r)
		}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1} })
		s := newSet(t, SetConfig{MaxConns: 3})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() {
				if _, _, err := send(c, request(t, "GET", "/", "")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := g.most.Load(); n > 3 {
			t.Errorf("%v: %d requests at a time over at most 3 connections with one each", proto, n)
		}
		if st := c.Status().Endpoints[0]; st.Connections > 3 || st.Active != 0 {
			t.Errorf("%v: %+v", proto, st)
		}
	}
}

// Those who wait longer come first, however many come later.
func TestWaitersAreServedInTurn(t *testing.T) {
	const waiters = 20
	var order []string // of requests, one at a time
	gate := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		order = append(order, r.URL.Path)
		<-gate
	})
	s := newSet(t, SetConfig{MaxConns: 1})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	p := c.members.Load().hosts[0].peer
	var want []string
	var wg sync.WaitGroup
	for i := range waiters {
		path := fmt.Sprintf("/%d", i)
		want = append(want, path)
		wg.Go(func() {
			if _, _, err := send(c, request(t, "GET", path, "")); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the request waits", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.open == 1 && len(p.queue) == i
		})
	}
	close(gate)
	wg.Wait()
	if !slices.Equal(order, want) {
		t.Errorf("served %v, want the order in which they came", order)
	}
}

func TestOverflow(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2} {
		release := make(chan struct{})
		srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			<-release
		}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1} })
		s := newSet(t, SetConfig{MaxConns: 1, MaxPending: 1})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}, ConnectTimeout: 200 * time.Millisecond})
		h, _ := c.Pick(Pick{})
		busy, err := c.RoundTrip(request(t, "GET", "/", ""), h)
		if err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		go func() {
			_, _, err := send(c, request(t, "GET", "/", ""))
			waiting <- err
		}()
		p := h.peer
		eventually(t, "a request waits", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.queue) == 1
		})
		_, err = c.RoundTrip(request(t, "GET", "/", ""), h)
		e := wantKind(t, err, Overflow, "a second one that would have to wait")
		if e.Flag() != "UO" || e.Status() != 503 || e.Sent {
			t.Errorf("%s %d %v", e.Flag(), e.Status(), e)
		}
		wantKind(t, <-waiting, Overflow, "nothing became free in time")

		// One that waits gets the connection when it is free, and one that leaves
		// takes nobody's turn.
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := c.RoundTrip(request(t, "GET", "/", "").WithContext(ctx), h)
			waiting <- err
		}()
		eventually(t, "a request waits", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.queue) == 1
		})
		cancel()
		wantKind(t, <-waiting, Canceled, "a client that left while it waited")
		close(release)
		io.Copy(io.Discard, busy.Body)
		busy.Body.Close()
		if _, _, err := send(c, request(t, "GET", "/", "")); err != nil {
			t.Errorf("after the connection became free: %v", err)
		}
	}
}

func TestIdleConnectionsAreReaped(t *testing.T) {
	srv := h2cServer(t, echo, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{IdleTimeout: 80 * time.Millisecond})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ")
		eventually(t, "a connection that nobody uses is closed", func() bool { return c.Status().Endpoints[0].Connections == 0 })
		if n := s.Totals().Idle; n != 0 {
			t.Errorf("%d idle ones are counted", n)
		}
		mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ")
	}
}

func TestOldConnectionsAreNotUsed(t *testing.T) {
	srv := h2cServer(t, echo, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{MaxAge: time.Millisecond})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		for range 3 {
			mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ")
			time.Sleep(2 * time.Millisecond) // past its age, which is what is tested
		}
		if n := s.Totals().Connects; n != 3 {
			t.Errorf("%v: %d connections for three requests further apart than a connection may be old, want 3", proto, n)
		}
	}
}

func TestIdleCaps(t *testing.T) {
	gate := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) { <-gate })
	s := newSet(t, SetConfig{MaxIdle: 16, MaxIdlePerEndpoint: 10})
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { <-gate })
	a, b := Config{Key: "a", Endpoints: []Endpoint{at(t, srv.URL)}}, Config{Key: "b", Endpoints: []Endpoint{at(t, other.URL)}}
	s.Apply(map[string]*Config{"a": &a, "b": &b})
	var wg sync.WaitGroup
	for range 20 {
		for _, key := range []string{"a", "b"} {
			wg.Go(func() {
				if _, _, err := send(s.Cluster(key), request(t, "GET", "/", "")); err != nil {
					t.Error(err)
				}
			})
		}
	}
	eventually(t, "all are under way", func() bool {
		return s.Cluster("a").Status().Endpoints[0].Active+s.Cluster("b").Status().Endpoints[0].Active == 40
	})
	close(gate)
	wg.Wait()
	if n := s.Totals().Idle; n > 16 || n == 0 {
		t.Errorf("%d idle connections, want at most 16", n)
	}
	eventually(t, "the counts agree", func() bool {
		idle := 0
		for _, c := range s.Status() {
			if n := c.Endpoints[0].Idle; n > 10 {
				t.Fatalf("%d idle connections of one endpoint, want at most 10", n)
			}
			idle += c.Endpoints[0].Idle
		}
		return int64(idle) == s.Totals().Idle
	})
}

func TestNoEndpoints(t *testing.T) {
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{})
	if _, _, err := send(c, request(t, "GET", "/", "")); !errors.Is(err, ErrNoEndpoints) {
		t.Errorf("got %v, want ErrNoEndpoints", err)
	}
}
