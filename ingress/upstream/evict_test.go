package upstream

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// everybody evicts all addresses.
func everybody(netip.Addr) bool { return true }

// meshDialer dials plainly, and says of what it dials whether it is in the mesh:
// as a Dialer does that knows of workloads. It decides when the dial begins, and
// ends it when it may.
type meshDialer struct {
	enrolled atomic.Bool
	dials    atomic.Int32
	decided  chan struct{} // if not nil: told of each decision, which then waits for go
	proceed  chan struct{}
}

func (d *meshDialer) DialEndpoint(ctx context.Context, _, dst netip.AddrPort) (Conn, error) {
	d.dials.Add(1)
	enrolled := d.enrolled.Load()
	if d.decided != nil {
		d.decided <- struct{}{}
		<-d.proceed
	}
	c, err := plainDialer{}.DialEndpoint(ctx, netip.AddrPort{}, dst)
	if err == nil && enrolled {
		c.Mesh = &Mesh{
			Self: spiffeid.RequireFromString("spiffe://cluster.local/ns/gw/sa/edge"),
			Peer: spiffeid.RequireFromString("spiffe://cluster.local/ns/a/sa/server"),
		}
	}
	return c, err
}

// meshed answers whether the request came over the mesh.
func meshed(w http.ResponseWriter, r *http.Request) {
	fmt.Fprint(w, r.Header.Get(xfcc) != "")
}

func TestEvictIdleAndBusy(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2} {
		release := make(chan struct{})
		srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				w.Write([]byte("slow "))
				w.(http.Flusher).Flush()
				<-release
			}
			meshed(w, r)
		}, nil)
		d := &meshDialer{}
		s := newSet(t, SetConfig{Dialer: d})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		mustSend(t, c, request(t, "GET", "/", ""), "false")
		h, _ := c.Pick(Pick{})
		slow, err := c.RoundTrip(request(t, "GET", "/slow", ""), h)
		if err != nil {
			t.Fatal(err)
		}

		s.Evict(func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") })
		mustSend(t, c, request(t, "GET", "/", ""), "false")

		d.enrolled.Store(true)
		s.Evict(everybody)
		for range 3 {
			mustSend(t, c, request(t, "GET", "/", ""), "true")
		}
		close(release)
		if b, err := io.ReadAll(slow.Body); string(b) != "slow false" || err != nil {
			t.Errorf("the answer under way: %q, %v", b, err)
		}
		slow.Body.Close()
		for range 3 {
			mustSend(t, c, request(t, "GET", "/", ""), "true")
		}
		eventually(t, "the connection that was busy is closed, and only the new one is left", func() bool {
			return c.Status().Endpoints[0].Connections == 1
		})
	}
}

// A dial that began before the endpoint joined the mesh, and ends after, must not
// be used.
func TestEvictDuringDial(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2} {
		srv := h2cServer(t, meshed, nil)
		d := &meshDialer{decided: make(chan struct{}), proceed: make(chan struct{})}
		s := newSet(t, SetConfig{Dialer: d})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		done := make(chan struct{})
		go func() {
			defer close(done)
			mustSend(t, c, request(t, "POST", "/", "x"), "true")
		}()
		<-d.decided // not to take the mesh
		d.enrolled.Store(true)
		s.Evict(everybody)
		d.proceed <- struct{}{}
		<-d.decided
		d.proceed <- struct{}{}
		<-done
		if n := d.dials.Load(); n != 2 {
			t.Errorf("%d dials, want 2", n)
		}
	}
	t.Run("stream", func(t *testing.T) {
		addr := rawServer(t, func(c net.Conn) { io.Copy(io.Discard, c) })
		d := &meshDialer{decided: make(chan struct{}), proceed: make(chan struct{})}
		s := newSet(t, SetConfig{Dialer: d})
		c := one(t, s, Config{Endpoints: []Endpoint{at(t, addr)}})
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, _, err := c.DialStream(t.Context(), netip.AddrPort{})
			if err != nil {
				t.Error(err)
				return
			}
			conn.Close()
		}()
		<-d.decided
		s.Evict(everybody)
		d.proceed <- struct{}{}
		<-d.decided
		d.proceed <- struct{}{}
		<-done
	})
}

// Whatever happens at the same time, a request that begins after Evict has
// returned goes over the mesh.
func TestChurn(t *testing.T) {
	srv := h2cServer(t, meshed, nil)
	srv2 := h2cServer(t, meshed, nil)
	d := &meshDialer{}
	s := newSet(t, SetConfig{Dialer: d, MaxConns: 8, IdleTimeout: 20 * time.Millisecond})
	cfgs := many(200)
	set := func(eps ...Endpoint) {
		for _, proto := range []Protocol{HTTP1, H2} {
			key := fmt.Sprintf("live-%d", proto)
			cfgs[key] = &Config{Key: key, Protocol: proto, Endpoints: eps}
		}
		s.Apply(cfgs)
	}
	set(at(t, srv.URL))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var joined atomic.Bool // set when Evict has returned
	for w := range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := s.Cluster(fmt.Sprintf("live-%d", w%2))
				before := joined.Load()
				_, got, err := send(c, request(t, "GET", "/", ""))
				if err != nil {
					t.Error(err)
					return
				}
				if before && got != "true" {
					t.Error("a request that began after the endpoint had joined went past the mesh")
					return
				}
			}
		})
	}
	evicted := make(chan struct{})
	go func() {
		defer close(evicted)
		for i := range 150 {
			switch {
			case rand.IntN(2) == 0:
				set(at(t, srv.URL))
			case rand.IntN(2) == 0:
				set(at(t, srv2.URL))
			default:
				set(at(t, srv.URL), at(t, srv2.URL))
			}
			if i%10 == 0 {
				s.Evict(everybody)
			}
			s.Status()
			time.Sleep(time.Millisecond) // let requests through between changes
		}
	}()
	<-evicted
	d.enrolled.Store(true)
	s.Evict(everybody)
	joined.Store(true)
	time.Sleep(20 * time.Millisecond) // for requests that begin now
	close(stop)
	wg.Wait()
	if st := s.Cluster("live-0").Status(); st.Endpoints[0].Active != 0 {
		t.Errorf("afterwards %d requests are under way", st.Endpoints[0].Active)
	}
}
