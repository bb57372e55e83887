package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"
)

// streamTries is how many endpoints DialStream tries.
const streamTries = 3

// DialStream connects to an endpoint for a client at client, which may be the zero
// value, without the cluster's TLS: what the client sends is what the endpoint
// gets. If an endpoint cannot be reached, others are tried. The connection is a
// *net.TCPConn if it is in no mesh and the Dialer makes such. The caller closes
// it, and may tell Host.Hold of it. Errors are ErrNoEndpoints or *Error.
func (c *Cluster) DialStream(ctx context.Context, client netip.AddrPort) (net.Conn, *Host, error) {
	return c.dialStream(ctx, client, false)
}

// DialStreamTLS is DialStream with the cluster's TLS, if it has one: for a client
// whose TLS ended here.
func (c *Cluster) DialStreamTLS(ctx context.Context, client netip.AddrPort) (net.Conn, *Host, error) {
	return c.dialStream(ctx, client, true)
}

func (c *Cluster) dialStream(ctx context.Context, client netip.AddrPort, withTLS bool) (net.Conn, *Host, error) {
	var tried []*Host
	for {
		h, err := c.Pick(Pick{Avoid: tried})
		if err != nil {
			return nil, nil, err
		}
		conn, err := c.connectStream(ctx, h, client, withTLS)
		if err == nil {
			return conn, h, nil
		}
		var e *Error
		tried = append(tried, h)
		if !errors.As(err, &e) || !e.connecting() || len(tried) == streamTries || len(tried) >= len(c.members.Load().hosts) {
			return nil, h, err
		}
		c.set.log.Debug("dial another endpoint", "cluster", c.key, "failed", h.String(), "error", err)
	}
}

func (c *Cluster) connectStream(ctx context.Context, h *Host, client netip.AddrPort, withTLS bool) (net.Conn, error) {
	cfg := c.members.Load().cfg
	speak := h.peer.streamTLS
	if !withTLS {
		speak = nil
	}
	if t := h.peer.key.tls; speak != nil && t.cfg.Invalid != "" {
		return nil, &Error{Kind: Invalid, Host: h, Err: errors.New(t.cfg.Invalid)}
	}
	l, err := h.peer.connectStream(ctx, client, speak, cfg.connectTimeout())
	if err != nil {
		return nil, connectError(ctx, h, err)
	}
	return l.Conn, nil
}

// connectStream is connect for a connection that the caller closes by himself.
func (p *peer) connectStream(ctx context.Context, client netip.AddrPort, cfg *tls.Config, timeout time.Duration) (*link, error) {
	p.mu.Lock()
	err := p.countLocked(&p.dials) // so that evict knows of it
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l, err := p.connect(ctx, client, cfg, timeout)
	p.mu.Lock()
	if err == nil {
		p.health.succeeded()
		p.disownLocked(l)
	}
	p.dials--
	gone := p.retired && p.unusedLocked()
	p.mu.Unlock()
	if gone {
		p.set.forget(p)
	}
	return l, err
}

// DialPacket returns a connected UDP socket to an endpoint, which the caller
// closes. HBONE carries no datagrams: they go to the endpoint's address as they
// are, in the mesh or not, as Istio's ambient mode does it.
func (c *Cluster) DialPacket(ctx context.Context) (*net.UDPConn, *Host, error) {
	h, err := c.Pick(Pick{})
	if err != nil {
		return nil, nil, err
	}
	addr := h.peer.key.addr
	if h.peer.key.host != "" {
		host, port := h.peer.hostPort()
		addrs, err := h.peer.names.lookup(ctx, c.set.cfg.Resolver, host)
		if err != nil {
			return nil, h, connectError(ctx, h, err)
		}
		addr = netip.AddrPortFrom(addrs[0], port)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", addr.String())
	if err != nil {
		return nil, h, connectError(ctx, h, err)
	}
	return conn.(*net.UDPConn), h, nil
}
