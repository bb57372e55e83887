package ingress

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicConn is one QUIC connection, from its first packet on.
type quicConn struct {
	m      *mirror
	where  Where
	client netip.AddrPort // at the first packet
	hello  atomic.Pointer[quicHello]
	up     atomic.Bool // the handshake is complete

	handshakeOver func()

	// Set once it is accepted.
	conn     *quic.Conn
	requests *requests
	server   *http3.Server // of this connection alone
}

// quicHello is what became of a ClientHello.
type quicHello struct {
	decision
	sni string
}

type quicConnKey struct{}

// connContext admits a connection with its first packet. ctx ends with it.
func (m *mirror) connContext(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	s := m.lp.srv
	c := &quicConn{m: m, where: m.lp.index.Load().where[overQUIC], client: quicAddr(info.RemoteAddr)}
	m.mu.Lock()
	off := m.off || m.gone
	m.mu.Unlock()
	if off {
		return nil, errRefused
	}
	if !s.admit.conn() {
		s.cfg.Events.refused(c.where, RefusedLimit)
		return nil, errTooMany
	}
	if !s.admit.client(c.client.Addr()) {
		s.admit.release()
		s.cfg.Events.refused(c.where, RefusedClient)
		return nil, errTooMany
	}
	if _, ok := s.admit.handshake(); !ok {
		s.admit.releaseClient(c.client.Addr())
		s.admit.release()
		s.cfg.Events.refused(c.where, RefusedHandshakes)
		return nil, errTooMany
	}
	s.admit.quic.Add(1)
	c.handshakeOver = sync.OnceFunc(func() {
		s.admit.doneHandshake()
		s.admit.quic.Add(-1)
	})
	s.cfg.Events.opened(c.where)
	s.wg.Add(1) // the mirror's acceptLoop is counted as long as this is called
	context.AfterFunc(ctx, func() {
		defer s.wg.Done()
		c.ended(context.Cause(ctx))
	})
	return context.WithValue(ctx, quicConnKey{}, c), nil
}

// ended gives back what connContext took.
func (c *quicConn) ended(cause error) {
	s := c.m.lp.srv
	if !c.up.Load() {
		var d decision
		if h := c.hello.Load(); h != nil {
			d = h.decision
		}
		reason := handshakeReason(d, cause)
		s.cfg.Events.handshakeFailed(c.where, reason)
		s.log.Debug("QUIC handshake", "bind", c.m.lp.bind, "client", c.client, "reason", reason, "error", cause)
	}
	c.handshakeOver()
	s.admit.releaseClient(c.client.Addr())
	s.admit.release()
	s.cfg.Events.closed(c.where)
}

// acceptLoop takes connections that have got as far as keys to answer with.
func (m *mirror) acceptLoop() {
	s := m.lp.srv
	defer s.wg.Done()
	defer m.accepting.Done()
	for {
		qc, err := m.listener.Accept(context.Background())
		if err != nil {
			m.fail(err)
			return
		}
		c, ok := qc.Context().Value(quicConnKey{}).(*quicConn)
		if !ok || !m.begin(c, qc) {
			qc.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
			continue
		}
		s.wg.Add(2)
		go c.serve()
		go c.awaitHandshake()
	}
}

// begin makes c one of m's, unless it is too late.
func (m *mirror) begin(c *quicConn, qc *quic.Conn) bool {
	s := m.lp.srv
	h := c.hello.Load()
	if h == nil {
		return false
	}
	c.conn = qc
	c.requests = &requests{
		lp: m.lp, remote: c.client, local: quicAddr(qc.LocalAddr()),
		secure: true, sni: h.sni, policy: h.policy, quic: qc,
	}
	c.server = &http3.Server{
		Handler:        c.requests,
		MaxHeaderBytes: s.limits.HeaderBytes,
	}
	if !m.lp.track(c) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off || m.gone {
		m.lp.untrack(c)
		return false
	}
	m.conns[c] = struct{}{}
	return true
}

// serve is the life of a connection.
func (c *quicConn) serve() {
	m := c.m
	defer m.lp.srv.wg.Done()
	m.mu.Lock()
	soft := m.soft
	m.mu.Unlock()
	drained := make(chan struct{})
	stop := context.AfterFunc(soft, func() {
		defer close(drained)
		c.drain()
	})
	// A stream without a request on it yet is idle, too: http3's own timeout would
	// let a client hold its streams for ever.
	awake := watchIdle(m.lp.srv.limits.IdleTimeout, c.requests.turn, func() { go c.Close() })
	c.server.ServeQUICConn(c.conn)
	awake()
	c.Close() // it is over already, unless the server never began
	if !stop() {
		<-drained
	}
	m.lp.untrack(c)
	m.mu.Lock()
	delete(m.conns, c)
	last := m.lastLocked()
	m.mu.Unlock()
	if last {
		m.close()
	}
}

// awaitHandshake ends when the handshake does.
func (c *quicConn) awaitHandshake() {
	defer c.m.lp.srv.wg.Done()
	select {
	case <-c.conn.HandshakeComplete():
		c.up.Store(true)
		c.handshakeOver()
	case <-c.conn.Context().Done():
	}
}

// drainLinger is how long a drained connection without requests stays open: those
// that were sent before the client had GOAWAY still arrive, and the client may
// close the connection itself (RFC 9114 section 5.2).
const drainLinger = 500 * time.Millisecond

// drain sends GOAWAY, waits for the requests that are under way, and closes.
func (c *quicConn) drain() {
	hard := c.m.lp.srv.hard
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.server.Shutdown(hard)
	}()
	tick := time.NewTicker(drainLinger / 5)
	defer tick.Stop()
	for idle := 0; idle < 5; {
		select {
		case <-c.conn.Context().Done():
			idle = 5
		case <-tick.C:
			if idle++; c.requests.active.Load() > 0 {
				idle = 0
			}
		}
	}
	c.Close()
	<-done
}

// Close ends the connection and everything on it.
func (c *quicConn) Close() error {
	return c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func handshaken(qc *quic.Conn) bool {
	select {
	case <-qc.HandshakeComplete():
		return true
	default:
		return false
	}
}

// ready holds a request back that came as early data, until the handshake is over
// and with it the danger that it is somebody's replay (RFC 8470 section 5.2). Safe
// ones go on at once if the port allows it. It says false if the client is gone.
func (h *requests) ready(x *index, r *http.Request) bool {
	if handshaken(h.quic) {
		return true
	}
	if x.earlyData {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
			return true
		}
	}
	select {
	case <-h.quic.HandshakeComplete():
		return true
	case <-r.Context().Done():
		return false
	}
}

func quicAddr(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		return unmap(u.AddrPort())
	}
	return netip.AddrPort{}
}
