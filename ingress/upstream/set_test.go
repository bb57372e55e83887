package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

func endpointN(n int) Endpoint {
	return Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 80)}
}

// many is a configuration of n clusters with three endpoints each.
func many(n int) map[string]*Config {
	m := make(map[string]*Config, n)
	for i := range n {
		key := fmt.Sprintf("ns/svc-%d:80", i)
		m[key] = &Config{Key: key, Endpoints: []Endpoint{endpointN(3 * i), endpointN(3*i + 1), endpointN(3*i + 2)}}
	}
	return m
}

func TestApplyCostsWorkForWhatChanged(t *testing.T) {
	s := newSet(t, SetConfig{})
	cfgs := many(3000)
	s.Apply(cfgs)
	before := s.totals.applied.Load()
	s.Apply(cfgs)
	if n := s.totals.applied.Load() - before; n != 0 {
		t.Errorf("the same configuration again: %d clusters were replaced, want none", n)
	}
	changed := *cfgs["ns/svc-7:80"]
	changed.Endpoints = append([]Endpoint{endpointN(1 << 20)}, changed.Endpoints[1:]...)
	cfgs["ns/svc-7:80"] = &changed
	old := s.Cluster("ns/svc-7:80").members.Load().hosts
	s.Apply(cfgs)
	if n := s.totals.applied.Load() - before; n != 1 {
		t.Errorf("one cluster changed: %d were replaced, want 1", n)
	}
	now := s.Cluster("ns/svc-7:80").members.Load().hosts
	if now[1] != old[1] || now[2] != old[2] {
		t.Error("endpoints that stayed are other Hosts now")
	}
	if len(s.peers) != 9000 {
		t.Errorf("%d peers, want 9000", len(s.peers))
	}
	s.Apply(nil)
	if len(s.peers)+len(s.leaving)+len(s.profiles) != 0 {
		t.Errorf("an empty configuration left %d peers, %d leaving, %d TLS profiles", len(s.peers), len(s.leaving), len(s.profiles))
	}
	if s.Cluster("ns/svc-7:80") != nil {
		t.Error("a cluster is there that the configuration no longer has")
	}
}

func TestEndpointMovesWithItsConnections(t *testing.T) {
	srv := serve(t, echo)
	s := newSet(t, SetConfig{})
	e := at(t, srv.URL)
	for i := range 20 {
		from, to := fmt.Sprint("c", i%2), fmt.Sprint("c", (i+1)%2)
		s.Apply(map[string]*Config{from: {Key: from, Endpoints: []Endpoint{e}}, to: {Key: to}})
		mustSend(t, s.Cluster(from), request(t, "GET", "/", ""), "GET / backend.example ")
	}
	if n := s.Totals().Connects; n != 1 {
		t.Errorf("%d connections to an endpoint that moved between clusters, want 1", n)
	}
}

func TestClustersShareConnections(t *testing.T) {
	srv := serve(t, echo)
	s := newSet(t, SetConfig{})
	e := at(t, srv.URL)
	mapped := Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom16(e.Addr.Addr().As16()), e.Addr.Port())}
	s.Apply(map[string]*Config{
		"a": {Key: "a", Endpoints: []Endpoint{e}},
		"b": {Key: "b", Endpoints: []Endpoint{mapped}},
	})
	mustSend(t, s.Cluster("a"), request(t, "GET", "/", ""), "GET / backend.example ")
	mustSend(t, s.Cluster("b"), request(t, "GET", "/", ""), "GET / backend.example ")
	if n := s.Totals().Connects; n != 1 {
		t.Errorf("%d connections, want one that both clusters use", n)
	}
	// The connection stays as long as one of them names the endpoint.
	held := s.Cluster("a")
	s.Apply(map[string]*Config{"b": {Key: "b", Endpoints: []Endpoint{e}}})
	mustSend(t, s.Cluster("b"), request(t, "GET", "/", ""), "GET / backend.example ")
	mustSend(t, held, request(t, "GET", "/", ""), "GET / backend.example ")
	if n := s.Totals().Connects; n != 1 {
		t.Errorf("%d connections after one of two clusters was removed, want still 1", n)
	}
	s.Apply(nil)
	eventually(t, "the idle connection of an endpoint that is gone is closed", func() bool {
		return s.Totals().Idle == 0 && len(s.all()) == 0
	})
	// Who still holds the cluster is served, and leaves nothing behind.
	mustSend(t, held, request(t, "GET", "/", ""), "GET / backend.example ")
	eventually(t, "nothing is left of a request to an endpoint that is gone", func() bool { return len(s.all()) == 0 })
}

func TestEndpointGoneFinishesRequests(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2} {
		t.Run(fmt.Sprint(proto), func(t *testing.T) {
			release := make(chan struct{})
			srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
				w.Write([]byte("begin "))
				w.(http.Flusher).Flush()
				<-release
				w.Write([]byte("end"))
			}, nil)
			s := newSet(t, SetConfig{})
			c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
			h, _ := c.Pick(Pick{})
			resp, err := c.RoundTrip(request(t, "GET", "/", ""), h)
			if err != nil {
				t.Fatal(err)
			}
			one(t, s, Config{Protocol: proto})
			if _, err := c.Pick(Pick{}); err != ErrNoEndpoints {
				t.Errorf("Pick of a cluster without endpoints: %v, want ErrNoEndpoints", err)
			}
			close(release)
			b, err := io.ReadAll(resp.Body)
			if err != nil || string(b) != "begin end" {
				t.Errorf("the answer under way was cut: %q, %v", b, err)
			}
			resp.Body.Close()
			eventually(t, "the connection is closed after the last request", func() bool { return len(s.all()) == 0 })
		})
	}
}

func TestCloseWaitsThenCuts(t *testing.T) {
	release := make(chan struct{})
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("begin "))
		w.(http.Flusher).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	s := NewSet(SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	h, _ := c.Pick(Pick{})
	get := func() *http.Response {
		resp, err := c.RoundTrip(request(t, "GET", "/", ""), h)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	stuck := get()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close with a request under way: %v, want the context's error", err)
	}
	if _, err := io.ReadAll(stuck.Body); err == nil {
		t.Error("an answer that was cut looks whole")
	} else {
		wantKind(t, err, Closed, "an answer that was cut")
	}
	stuck.Body.Close()
	close(release)
	if _, err := c.RoundTrip(request(t, "GET", "/", ""), h); !errors.Is(err, ErrClosed) {
		t.Errorf("RoundTrip after Close: %v, want ErrClosed", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("Close twice: %v", err)
	}
}

func BenchmarkApplyOneOf3000(b *testing.B) {
	s := newSet(b, SetConfig{})
	cfgs := many(3000)
	s.Apply(cfgs)
	const key = "ns/svc-7:80"
	was, other := cfgs[key], *cfgs[key]
	other.Endpoints = other.Endpoints[:2]
	for i := 0; b.Loop(); i++ {
		cfgs[key] = was
		if i%2 == 0 {
			cfgs[key] = &other
		}
		s.Apply(cfgs)
	}
}
