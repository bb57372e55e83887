package bench

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
)

// tlsHalf carries each connection in a TLS 1.3 connection of its own: no multiplexing, hence no shared fate and no framing,
// but a handshake each. It is the yardstick, what HBONE would cost if HTTP/2 were free.
type tlsHalf struct {
	warm
	next   netip.AddrPort
	config *tls.Config
	side   string
}

func newTLSHalf(o agentOrder) (*tlsHalf, error) {
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	return &tlsHalf{next: o.onward(), config: config, side: o.Side}, nil
}

func (h *tlsHalf) serve(l net.Listener) {
	serveEach(l, func(c *net.TCPConn) {
		plain, secured, err := h.join(c)
		if err != nil {
			reset(c)
			return
		}
		relay(plain, secured,
			func() error { return copyBytes(secured, plain, copyBuffer) },
			func() error { return copyBytes(plain, secured, copyBuffer) })
	})
}

// join makes the other leg for c and does the handshake on whichever leg is the tunnel.
func (h *tlsHalf) join(c *net.TCPConn) (plain *net.TCPConn, secured *tls.Conn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	if h.side == sideB {
		secured = tls.Server(c, h.config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, nil, err
		}
		plain, err = dialTCP(h.next)
		return plain, secured, err
	}
	next, err := dialTCP(h.next)
	if err != nil {
		return nil, nil, err
	}
	secured = tls.Client(next, h.config)
	if err := secured.HandshakeContext(ctx); err != nil {
		next.Close()
		return nil, nil, err
	}
	return c, secured, nil
}
