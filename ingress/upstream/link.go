package upstream

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// link is a connection to a peer, and what it was opened for.
type link struct {
	net.Conn        // TLS, if the peer wants it
	raw      Conn   // without
	peer     *peer  // which counts it
	gen      uint64 // of the peer, when the dial began
	addr     netip.Addr
	xfcc     string // "" = not in the mesh
	oldAt    int64  // since epoch
	closed   atomic.Bool
}

// errMoved is a connection to an address that changed hands while it was dialled.
var errMoved = errors.New("the address joined or left the mesh while it was dialled")

// movedTries is how often an address may change hands during one connect.
const movedTries = 3

// connect connects, in at most timeout. cfg is nil for no TLS. Whether a slot of the
// peer is used is the caller's to say; he closes what he gets with shut, and tells p.health if it is of use.
func (p *peer) connect(ctx context.Context, src netip.AddrPort, cfg *tls.Config, timeout time.Duration) (*link, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errConnectTimeout)
	defer cancel()
	p.set.totals.connects.Add(1)
	l, err := p.connectOnce(ctx, src, cfg)
	for try := 1; err == errMoved && try < movedTries; try++ {
		l, err = p.connectOnce(ctx, src, cfg)
	}
	if err == nil {
		return l, nil
	}
	p.set.totals.failures.Add(1)
	if ctx.Err() != nil && !isCause(err, context.Cause(ctx)) {
		err = fmt.Errorf("%w after %v", context.Cause(ctx), time.Since(began).Round(time.Millisecond))
	}
	if err == errMoved {
		return nil, err
	}
	// A client that leaves says nothing about the endpoint, nor does a deadline
	// that leaves it no time.
	if context.Cause(ctx) == errConnectTimeout || ctx.Err() == nil || time.Since(began) > time.Second {
		p.health.failed(err, sinceEpoch())
	}
	return nil, err
}

func isCause(err, cause error) bool { return cause != nil && errors.Is(err, cause) }

func (p *peer) connectOnce(ctx context.Context, src netip.AddrPort, cfg *tls.Config) (*link, error) {
	gen := p.generation()
	c, addr, err := p.dial(ctx, src)
	if err != nil {
		return nil, err
	}
	l := &link{Conn: c.Conn, raw: c, peer: p, gen: gen, addr: addr}
	age := p.set.cfg.MaxAge
	l.oldAt = sinceEpoch() + int64(age-age/10+rand.N(age/5+1))
	p.meshed.Store(c.Mesh != nil)
	if c.Mesh != nil {
		l.xfcc = formatXFCC(c.Mesh)
	}
	if cfg != nil {
		tc, err := handshake(ctx, c.Conn, cfg)
		if err != nil {
			p.undialed(addr)
			return nil, err
		}
		l.Conn = tc
	}
	if !p.adopt(l) {
		c.Close()
		p.undialed(addr)
		return nil, errMoved
	}
	return l, nil
}

// dial opens a connection to one of the peer's addresses, which is noted as dialled
// (see peer.dialing) if there is no error.
func (p *peer) dial(ctx context.Context, src netip.AddrPort) (Conn, netip.Addr, error) {
	one := func(ctx context.Context, dst netip.AddrPort) (Conn, error) {
		c, err := p.set.cfg.Dialer.DialEndpoint(ctx, src, dst)
		if err == nil && c.Conn == nil {
			err = errors.New("the dialer gave no connection")
		}
		return c, err
	}
	if p.key.host == "" {
		c, err := one(ctx, p.key.addr)
		return c, p.key.addr.Addr(), err
	}
	host, port := p.hostPort()
	addrs, err := p.names.lookup(ctx, p.set.cfg.Resolver, host)
	if err != nil {
		return Conn{}, netip.Addr{}, err
	}
	return dialFirst(ctx, p.set.spawn, addrs, func(ctx context.Context, a netip.Addr) (Conn, error) {
		p.dialing(a)
		return one(ctx, netip.AddrPortFrom(a, port))
	}, p.undialed)
}

// shut closes the connection and tells the peer, once.
func (l *link) shut() {
	if l.closed.Swap(true) {
		return
	}
	if l.Conn != l.raw.Conn {
		// close_notify waits for a peer that does not read.
		t := time.AfterFunc(250*time.Millisecond, func() { l.raw.Close() })
		l.Conn.Close()
		t.Stop()
	} else {
		l.Conn.Close()
	}
	l.peer.closedLink(l)
}

// staleLocked says whether the connection may take no other request.
func (l *link) staleLocked(now int64) bool {
	return l.gen != l.peer.gen || l.peer.retired || now > l.oldAt
}

// disownLocked forgets a connection that the caller of DialStream closes by
// himself.
func (p *peer) disownLocked(l *link) {
	delete(p.links, l)
	if p.key.host != "" {
		p.undialedLocked(l.addr)
	}
}

// protocol is what ALPN chose. "" = nothing, or no TLS.
func (l *link) protocol() string {
	if tc, ok := l.Conn.(*tls.Conn); ok {
		return tc.ConnectionState().NegotiatedProtocol
	}
	return ""
}

// formatXFCC is what Envoy's sidecars write of a connection in the mesh
// (x-forwarded-client-cert in Envoy's HTTP connection manager).
func formatXFCC(m *Mesh) string {
	var sb strings.Builder
	sb.WriteString("By=")
	sb.WriteString(m.Peer.String())
	sb.WriteString(";Hash=")
	sb.WriteString(hex.EncodeToString(m.CertHash[:]))
	sb.WriteString(`;Subject="";URI=`)
	sb.WriteString(m.Self.String())
	return sb.String()
}
