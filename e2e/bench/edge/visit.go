package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// visitOrder asks for random hosts out of many, over all versions of HTTP, until leave is ordered. Each visitor has a connection
// to one site at a time and a new one after 50 requests, so that handshakes go on as well.
type visitOrder struct {
	Addr          string
	Sites, Routes int // hosts are r0.s0.bench.test and so on: each route is of one site
	Visitors      map[string]int
}

type visitResult struct {
	Requests, Failed, Connections int64
	P99                           float64 // µs
	Errors                        []string
}

type visitors struct {
	order    visitOrder
	stop     context.CancelFunc
	wg       sync.WaitGroup
	requests atomic.Int64
	opened   atomic.Int64
	failed   atomic.Int64

	mu        sync.Mutex
	errors    []string
	latencies []uint32
}

func (c *client) visit(o visitOrder) (any, error) {
	if c.churn != nil {
		return nil, errors.New("visitors are there already")
	}
	ctx, cancel := context.WithCancel(context.Background())
	v := &visitors{order: o, stop: cancel}
	for proto, n := range o.Visitors {
		for range n {
			v.wg.Go(func() { v.come(ctx, proto) })
		}
	}
	c.churn = v
	return nil, nil
}

func (c *client) leave() (visitResult, error) {
	v := c.churn
	if v == nil {
		return visitResult{}, errors.New("there are no visitors")
	}
	c.churn = nil
	v.stop()
	v.wg.Wait()
	slices.Sort(v.latencies)
	return visitResult{
		Requests: v.requests.Load(), Failed: v.failed.Load(), Connections: v.opened.Load(),
		P99: stats.Percentile(v.latencies, 0.99) / 1e3, Errors: v.errors,
	}, nil
}

// come is one visitor.
func (v *visitors) come(ctx context.Context, proto string) {
	var latencies []uint32
	for ctx.Err() == nil {
		site := rand.IntN(v.order.Sites)
		rt, scheme, done := siteTransport(proto, v.order.Addr, fmt.Sprintf("r0.s%d.bench.test", site))
		v.opened.Add(1)
		for range 50 {
			if ctx.Err() != nil {
				break
			}
			route := rand.IntN(v.order.Routes/v.order.Sites)*v.order.Sites + site
			begun := time.Now()
			err := visitOnce(rt, fmt.Sprintf("%s://r%d.s%d.bench.test/", scheme, route, site))
			v.requests.Add(1)
			if err != nil {
				v.fail(fmt.Errorf("%s: route %d: %w", proto, route, err))
				break
			}
			latencies = append(latencies, uint32(min(time.Since(begun), 4*time.Second)))
		}
		done()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.latencies = append(v.latencies, latencies...)
}

func (v *visitors) fail(err error) {
	v.failed.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.errors) < 8 {
		v.errors = append(v.errors, err.Error())
	}
}

func visitOnce(rt http.RoundTripper, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(body) != string(smallBody) {
		return fmt.Errorf("status %d with %d bytes", resp.StatusCode, len(body))
	}
	return nil
}

// siteTransport goes to addr whatever the URL's host, and shows name in its handshake.
func siteTransport(proto, addr, name string) (rt http.RoundTripper, scheme string, done func()) {
	rt, scheme, done = transport(proto)
	switch t := rt.(type) {
	case *http3.Transport:
		t.TLSClientConfig.ServerName = name
		t.Dial = func(ctx context.Context, _ string, tlsCfg *tls.Config, cfg *quic.Config) (*quic.Conn, error) {
			return quic.DialAddrEarly(ctx, addr, tlsCfg, cfg)
		}
	case *http.Transport:
		t.TLSClientConfig.ServerName = name
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	}
	return rt, scheme, done
}
