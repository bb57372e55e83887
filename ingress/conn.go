package ingress

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"
)

// conn is one client connection over TCP, before HTTP: it belongs to one goroutine.
type conn struct {
	lp   *livePort
	soft context.Context
	raw  *net.TCPConn
	// net is raw with what was read of it too early put back.
	net net.Conn
	// remote and local are the socket's, or the PROXY header's.
	remote, local netip.AddrPort
	where         Where

	sni    string
	policy *policy // nil without TLS
}

// serveTCP takes a connection from the accept queue to its end, and closes it.
func serveTCP(lp *livePort, raw *net.TCPConn, soft context.Context) {
	s := lp.srv
	defer s.wg.Done()
	defer s.admit.release()
	defer raw.Close()
	if !lp.track(raw) {
		return
	}
	defer lp.untrack(raw)
	x := lp.index.Load()
	c := &conn{lp: lp, soft: soft, raw: raw, net: raw, where: x.where[overTCP]}
	c.remote = unmap(raw.RemoteAddr().(*net.TCPAddr).AddrPort())
	c.local = unmap(raw.LocalAddr().(*net.TCPAddr).AddrPort())
	s.cfg.Events.opened(c.where)
	defer s.cfg.Events.closed(c.where)

	if !c.readProxyHeader(x.port.ClientIP.ProxyProtocol) {
		return
	}
	if !s.admit.client(c.remote.Addr()) {
		s.cfg.Events.refused(c.where, RefusedClient)
		return
	}
	defer s.admit.releaseClient(c.remote.Addr())
	switch x := lp.index.Load(); {
	case x.stream != nil:
		c.serveStream(x.stream.streamRoute())
	case x.hasSecure && x.hasPlain:
		if first, ok := c.peek(1); ok && first[0] == recordHandshake {
			c.serveTLS()
		} else if ok {
			serveH1(soft, c.net, c.handler(nil))
		}
	case x.hasSecure:
		c.serveTLS()
	case x.hasPlain:
		serveH1(soft, c.net, c.handler(nil))
	default:
		s.cfg.Events.refused(c.where, RefusedNoListener)
	}
}

// recordHandshake is the first byte of a TLS connection (RFC 8446 section 5.1).
const recordHandshake = 22

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// drainGrace is what a phase before the first request still has when the port
// begins to drain: enough for a client that is in the middle of it, and not the
// whole timeout of one that says nothing.
const drainGrace = time.Second

// within bounds what is read and written until done is called, which says whether
// to go on: not if the port drains meanwhile.
func (c *conn) within(d time.Duration) (done func() bool) {
	c.raw.SetDeadline(time.Now().Add(d))
	stop := context.AfterFunc(c.soft, func() { c.raw.SetDeadline(time.Now().Add(min(d, drainGrace))) })
	return func() bool {
		if !stop() {
			return false
		}
		c.raw.SetDeadline(time.Time{})
		return true
	}
}

// peek returns at least n bytes of what comes, and leaves them to be read.
func (c *conn) peek(n int) ([]byte, bool) {
	p, ok := c.net.(*replayConn)
	if !ok {
		p = &replayConn{Conn: c.net}
		c.net = p
	}
	if len(p.buf) >= n {
		return p.buf, true
	}
	done := c.within(c.lp.srv.limits.ReadHeaderTimeout)
	room := make([]byte, 2048)
	for len(p.buf) < n {
		k, err := p.Conn.Read(room)
		p.buf = append(p.buf, room[:k]...)
		if err != nil && len(p.buf) < n {
			done()
			return nil, false
		}
	}
	return p.buf, done()
}

// replayConn is a connection of which buf was read already.
type replayConn struct {
	net.Conn
	buf []byte
}

func (c *replayConn) Read(b []byte) (int, error) {
	if len(c.buf) > 0 {
		n := copy(b, c.buf)
		if c.buf = c.buf[n:]; len(c.buf) == 0 {
			c.buf = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite ends the sending direction.
func (c *replayConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// NetConn is the connection below, of whose bytes some may be in here.
func (c *replayConn) NetConn() net.Conn { return c.Conn }

// serveTLS decides by the ClientHello whether TLS ends here, and goes on.
func (c *conn) serveTLS() {
	s := c.lp.srv
	timeout, ok := s.admit.handshake()
	if !ok {
		s.cfg.Events.refused(c.where, RefusedHandshakes)
		return
	}
	done := sync.OnceFunc(s.admit.doneHandshake)
	defer done()
	inTime := c.within(timeout)
	rec := &recordingConn{Conn: c.net, of: c, recording: true}
	tc := tls.Server(rec, s.tls)
	err := tc.Handshake() // the deadline ends it, and closeAll
	d := rec.decided
	done()
	goOn := inTime()
	if d.through {
		if !goOn {
			return
		}
		c.net = &replayConn{Conn: c.net, buf: rec.took()}
		c.serveStream(d.stream)
		return
	}
	if err != nil {
		reason := handshakeReason(d, err)
		s.cfg.Events.handshakeFailed(c.where, reason)
		s.log.Debug("TLS handshake", "bind", c.lp.bind, "client", c.remote, "sni", c.sni, "reason", reason, "error", err)
		if reason == FailedNotTLS {
			tellNotTLS(c.raw, err)
		}
		return
	}
	if !goOn {
		return
	}
	c.policy = d.policy
	c.net = tc
	if d.stream != nil {
		c.serveStream(d.stream)
		return
	}
	state := tc.ConnectionState()
	if state.NegotiatedProtocol == "h2" {
		serveH2(c.soft, tc, c.handler(&state))
		return
	}
	serveH1(c.soft, tc, c.handler(&state))
}
