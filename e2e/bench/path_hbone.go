package bench

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/net/http2"

	"github.com/adit-mesh/adit/hbone"
)

// newOurHalf returns our half of a pair: the data path alone, without capture, policy and telemetry, as every rival is.
func newOurHalf(o agentOrder) (half, error) {
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	if o.Side == sideB {
		return &hboneServer{config: config}, nil
	}
	return &hboneClient{
		pool:   hbone.NewPool(hbone.PoolConfig{}),
		config: config, next: o.Next, target: o.Target.String(),
	}, nil
}

type hboneClient struct {
	pool   *hbone.Pool
	config *tls.Config
	next   netip.AddrPort
	target string
	cold   atomic.Bool
	keys   atomic.Int64 // of tunnels, while cold
}

func (h *hboneClient) setCold(on bool) { h.cold.Store(on) }

func (h *hboneClient) serve(l net.Listener) {
	serveEach(l, h.tunnelOne)
}

func (h *hboneClient) tunnelOne(c *net.TCPConn) {
	var key int64 // of the tunnels that are kept
	if h.cold.Load() {
		key = h.keys.Add(1)
		defer h.pool.Evict(func(k any) bool { return k == key })
	}
	s, err := h.pool.Dial(context.Background(), hbone.Target{Key: key, Dial: h.dial, TLS: h.config},
		hbone.Request{Authority: h.target})
	if err != nil {
		reset(c)
		return
	}
	hbone.Splice(s, c)
}

func (h *hboneClient) dial(context.Context) (net.Conn, error) {
	c, err := dialTCP(h.next)
	if err != nil {
		return nil, err // not a nil *net.TCPConn, which is no nil net.Conn
	}
	return c, nil
}

type hboneServer struct {
	warm
	config *tls.Config
}

func (h *hboneServer) serve(l net.Listener) {
	server := hbone.NewServer(hbone.ServerConfig{TLS: h.config, Handler: serveStream})
	server.Serve(l) // until l closes; nothing is left to do then
}

func serveStream(_ context.Context, s *hbone.Stream) {
	c, err := dialAuthority(s.Request().Authority)
	if err != nil {
		s.Reject(503)
		return
	}
	if err := s.Accept(); err != nil {
		c.Close()
		s.Reset(http2.ErrCodeInternal)
		return
	}
	hbone.Splice(s, c)
}
