package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// dialing is a tunnel being opened, for everybody who waits for it.
type dialing struct {
	start   time.Time
	done    chan struct{}
	conn    *conn // set before done is closed
	err     error // set before done is closed
	cancel  context.CancelCauseFunc
	waiters int   // guarded by Pool.mu
	phase   Phase // guarded by Pool.mu
}

// errAbandoned ends a dial that nobody waits for any more. It says nothing about
// the peer.
var errAbandoned = errors.New("nobody waits for the dial any more")

// errEvicted ends a dial whose tunnel nobody may use any more.
var errEvicted = errors.New("the tunnel is not wanted any more: its pod or its peer has gone")

// leave gives up waiting for a dial, and says how far it has come. The last to
// leave ends it: as timed out if that is why he leaves, which counts as a
// failure; otherwise whoever comes next gets a dial of his own.
func (p *Pool) leave(g *group, d *dialing, cause error) Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.waiters--; d.waiters > 0 {
		return d.phase
	}
	// A caller's own deadline, about as long as ours, says the same.
	if cause == error(errDialTimeout) ||
		errors.Is(cause, context.DeadlineExceeded) && time.Since(d.start) >= p.cfg.DialTimeout*9/10 {
		d.cancel(errDialTimeout)
		return d.phase
	}
	d.cancel(errAbandoned)
	if g.dial == d {
		g.dial = nil
		p.forgetLocked(g)
	}
	return d.phase
}

func (p *Pool) startDialLocked(g *group, t Target) *dialing {
	ctx, cancel := context.WithCancelCause(context.Background())
	d := &dialing{done: make(chan struct{}), cancel: cancel, start: time.Now(), phase: PhaseTCP}
	g.dial = d
	p.wg.Go(func() { p.runTunnel(ctx, g, t, d) })
	return d
}

func (p *Pool) reached(d *dialing, phase Phase) {
	p.mu.Lock()
	d.phase = phase
	p.mu.Unlock()
}

// runTunnel opens a tunnel, tells those who wait, and runs it until it ends.
func (p *Pool) runTunnel(ctx context.Context, g *group, t Target, d *dialing) {
	defer d.cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, p.cfg.DialTimeout, errDialTimeout)
	defer stop()
	start := time.Now()
	c, err := p.connect(ctx, t, d)
	if err == nil {
		err = p.settle(ctx, g, c)
	}
	if p.cfg.OnDial != nil {
		p.cfg.OnDial(t.Key, time.Since(start), err)
	}
	if err != nil {
		cause := context.Cause(ctx)
		p.dialFailed(g, d, err, cause == errAbandoned || cause == errEvicted)
		return
	}
	p.mu.Lock()
	wanted := g.dial == d
	if wanted {
		g.dial, g.failed = nil, nil
		g.tunnels = append(g.tunnels, c)
	}
	closed := p.closed
	p.mu.Unlock()
	d.conn = c
	close(d.done)
	p.tunnelChanged(g, c) // it may have ended meanwhile
	if closed || !wanted {
		c.drain()
	}
}

// settle starts a tunnel and waits for the peer's SETTINGS.
func (p *Pool) settle(ctx context.Context, g *group, c *conn) error {
	c.changed = func() { p.tunnelChanged(g, c) }
	p.mu.Lock()
	if len(g.tunnels) > 0 {
		c.opt.idleTimeout = min(c.opt.idleTimeout, extraIdle)
	}
	p.live[c] = struct{}{}
	p.mu.Unlock()
	c.hello()
	p.wg.Go(func() {
		c.run()
		p.mu.Lock()
		delete(p.live, c)
		p.mu.Unlock()
	})
	select {
	case <-c.ready:
	case <-c.gone:
		c.mu.Lock()
		defer c.mu.Unlock()
		return endedEarly(c.err)
	case <-ctx.Done():
		err := &DialError{PhaseH2, fmt.Errorf("no SETTINGS from %s: %w", c.wire.RemoteAddr(), context.Cause(ctx))}
		c.fail(err)
		return err
	}
	c.mu.Lock()
	none, ended := c.maxStreams == 0, c.draining
	c.mu.Unlock()
	if ended {
		return errUnused
	}
	if none {
		c.drain()
		return &DialError{PhaseH2, fmt.Errorf("%s takes no streams (SETTINGS_MAX_CONCURRENT_STREAMS 0); is it overloaded?", c.wire.RemoteAddr())}
	}
	return nil
}

// endedEarly is the error of a tunnel that ended before SETTINGS came. In TLS 1.3
// a server's refusal of our certificate arrives only then.
func endedEarly(err error) error {
	var oe *net.OpError
	if errors.As(err, &oe) && oe.Op == "remote error" {
		return &DialError{PhaseTLS, fmt.Errorf("peer refused our certificate: %w", err)}
	}
	return &DialError{PhaseH2, err}
}

// connect opens TCP and TLS. Errors are *DialError.
func (p *Pool) connect(ctx context.Context, t Target, d *dialing) (*conn, error) {
	nc, err := t.Dial(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &DialError{PhaseTCP, err}
	}
	p.reached(d, PhaseTLS)
	w := newWire(nc)
	tc := tls.Client(w, tunnelTLS(t.TLS))
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%s does not answer: %w", nc.RemoteAddr(), context.Cause(ctx))
		}
		return nil, &DialError{PhaseTLS, err}
	}
	if proto := tc.ConnectionState().NegotiatedProtocol; proto != "h2" {
		nc.Close()
		return nil, &DialError{PhaseTLS, fmt.Errorf("peer %s negotiated ALPN %q, not h2: it does not speak HBONE", nc.RemoteAddr(), proto)}
	}
	p.reached(d, PhaseH2)
	return newConn(w, tc, true, p.opt, p.log), nil
}

// dialFailed fails everybody who waits, and remembers the failure for a while,
// unless it was our own doing.
func (p *Pool) dialFailed(g *group, d *dialing, err error, abandoned bool) {
	p.mu.Lock()
	if p.closed {
		err = ErrPoolClosed
	}
	d.err = err
	if g.dial == d {
		g.dial = nil
	}
	if abandoned || p.closed {
		p.forgetLocked(g)
	} else {
		p.blameLocked(g, err)
	}
	p.mu.Unlock()
	close(d.done)
}

// wasted is 1 when the tunnel that was dialled has ended already.
func (d *dialing) wasted() int {
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	if d.conn.draining {
		return 1
	}
	return 0
}

// blameLocked has a destination left alone for a while.
func (p *Pool) blameLocked(g *group, err error) {
	g.failed = err
	pause := p.cfg.BackoffFirst << min(g.failure, 16)
	pause = min(pause, p.cfg.BackoffLast)
	pause -= rand.N(pause/4 + 1)
	g.failure++
	g.until = time.Now().Add(pause)
	g.unused = 0
	p.rememberLocked(g, pause+p.cfg.BackoffLast)
}

// rememberLocked keeps a group that has no tunnel for a while.
func (p *Pool) rememberLocked(g *group, d time.Duration) {
	if p.closed {
		return
	}
	g.keep = time.Now().Add(d)
	if g.forget != nil {
		g.forget.Stop()
	}
	g.forget = time.AfterFunc(d, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.forgetLocked(g)
	})
}

// errUnused is a peer that opens tunnels and ends them before they carried
// anything: one that drains with its listener open, or that crashes at once.
var errUnused = &DialError{PhaseH2, errors.New("peer ends tunnels before they take a stream; is it shutting down?")}
