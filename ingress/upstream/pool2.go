package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// wastedTries is how many connections that the peer closed before they took a
// request are enough for one request.
const wastedTries = 3

var errWasted = errors.New("the backend closes HTTP/2 connections before they are used; does it speak HTTP/2 on this port?")

const (
	// checkTime is how long a connection has to answer a ping on which a request
	// timed out. There are no other pings but the first: gRPC servers end
	// connections that ping too often.
	checkTime = 5 * time.Second
	// firstStreams is how many streams a connection is thought to have before the
	// peer says so: that many requests wait for one connect.
	firstStreams = 100
)

// conn2 is a connection that speaks HTTP/2: many requests at a time.
type conn2 struct {
	*link
	cc   *h2ClientConn
	news atomic.Uint64 // counts what has been read

	// Guarded by peer.mu.
	streams   int
	idleSince int64
	served    bool // has had a stream
	checked   bool // a ping is under way: takes no requests meanwhile
	ended     bool // takes no more requests, and is not in peer.shared
}

// opening2 is a connect that requests wait for.
type opening2 struct {
	done    chan struct{} // closed when conn or err is known
	conn    *conn2
	err     error
	waiters int // guarded by peer.mu
}

// wire tells the pool what http2 does not: that the peer is alive, and that the
// connection has been closed, by the peer or by the pool.
type wire struct {
	net.Conn
	c *conn2
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.c.news.Add(1)
	return n, err
}

func (w *wire) Close() error {
	c := w.c
	c.peer.mu.Lock()
	c.peer.endLocked(c)
	c.peer.mu.Unlock()
	c.shut()
	return nil
}

func (c *conn2) close() { c.cc.Close() }

// endLocked lets the connection take no more requests. It says whether it has none,
// so that the caller has to close it.
func (c *conn2) endLocked() bool {
	if c.ended {
		return false
	}
	c.ended = true
	if c.cc != nil {
		c.cc.SetDoNotReuse()
	}
	return c.streams == 0
}

// endLocked takes c out of those that requests may share.
func (p *peer) endLocked(c *conn2) bool {
	if i := slices.Index(p.shared, c); i >= 0 {
		p.shared = slices.Delete(p.shared, i, i+1)
	}
	return c.endLocked()
}

// take2 returns a connection on which a stream is reserved, and opens one if all
// are full.
func (p *peer) take2(ctx context.Context, timeout time.Duration) (*conn2, error) {
	var w *waiter
	var limit *time.Timer
	var last *opening2
	p.mu.Lock()
	defer p.mu.Unlock()
	for wasted := 0; ; {
		c, dead := p.reserveLocked()
		if c != nil {
			return c, nil
		}
		if dead != nil {
			p.mu.Unlock()
			dead.close()
			p.mu.Lock()
			continue
		}
		if last != nil && last.conn.ended && !last.conn.served {
			if wasted++; wasted == wastedTries {
				return nil, errWasted
			}
		}
		last = nil
		o, err := p.openingLocked(timeout)
		switch {
		case err != nil:
			return nil, err
		case o != nil:
			o.waiters++
			p.mu.Unlock()
			select {
			case <-o.done:
				err = o.err
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			p.mu.Lock()
			if err != nil {
				return nil, err
			}
			last = o
			continue
		case len(p.idle) > 0: // of upgrades that were refused
			c := p.popLocked()
			p.mu.Unlock()
			c.close()
			p.mu.Lock()
			continue
		}
		if limit == nil {
			limit = time.NewTimer(timeout)
			defer limit.Stop()
		}
		if w, err = p.waitLocked(ctx, w, limit.C, pollTime); err != nil {
			return nil, err
		}
	}
}

// openingLocked returns a connect that a request may wait for, and begins one if
// that may be; otherwise nil.
func (p *peer) openingLocked(timeout time.Duration) (*opening2, error) {
	if o := p.joinLocked(); o != nil {
		return o, nil
	}
	ok, err := p.slotLocked()
	if err != nil || !ok {
		return nil, err
	}
	return p.start2Locked(timeout)
}

// reserveLocked takes a stream of the first connection that has one. If it comes
// upon one that has to be closed, it returns that one instead.
func (p *peer) reserveLocked() (c, dead *conn2) {
	now := sinceEpoch()
	for i := 0; i < len(p.shared); i++ {
		c := p.shared[i]
		// One of a retired peer serves those who chose the peer before, and one
		// that took long to open those who waited for it.
		if c.gen != p.gen || now > c.oldAt && c.served {
			if p.endLocked(c) {
				return nil, c
			}
			i--
			continue
		}
		if !c.checked && c.cc.ReserveNewRequest() {
			c.streams++
			c.served = true
			return c, nil
		}
	}
	return nil, nil
}

// joinLocked returns a connect that has room for one more request, or any if no
// other may be begun.
func (p *peer) joinLocked() *opening2 {
	for _, o := range p.opening {
		if o.waiters < firstStreams {
			return o
		}
	}
	if len(p.opening) > 0 && p.open >= p.set.cfg.MaxConns {
		return p.opening[0]
	}
	return nil
}

// start2Locked begins a connect, for which the caller has a slot. It belongs to
// nobody's request: who leaves does not end it for the others.
func (p *peer) start2Locked(timeout time.Duration) (*opening2, error) {
	o := &opening2{done: make(chan struct{})}
	if !p.set.spawn(func() { p.open2(o, timeout) }) {
		p.open--
		return nil, ErrClosed
	}
	p.opening = append(p.opening, o)
	return o, nil
}

func (p *peer) open2(o *opening2, timeout time.Duration) {
	c, err := p.connect2(timeout)
	p.mu.Lock()
	p.opening = slices.DeleteFunc(p.opening, func(x *opening2) bool { return x == o })
	o.conn, o.err = c, err
	if err == nil && !c.ended {
		c.idleSince = sinceEpoch()
		p.shared = append(p.shared, c)
	}
	p.mu.Unlock()
	close(o.done)
}

// connect2 opens a connection and waits for the peer's SETTINGS, which say how
// many streams it takes: of more, it would refuse those that come too early. The
// answer to a ping cannot come before them.
func (p *peer) connect2(timeout time.Duration) (*conn2, error) {
	ctx, cancel := context.WithTimeoutCause(p.set.stop, timeout, errConnectTimeout)
	defer cancel()
	l, err := p.connect(ctx, netip.AddrPort{}, p.h2TLS, timeout)
	if err != nil {
		p.releaseSlot()
		return nil, err
	}
	if got := l.protocol(); p.h2TLS != nil && got != "h2" {
		l.shut()
		return nil, &handshakeError{fmt.Errorf("the backend does not speak HTTP/2: it chose %q by ALPN", got)}
	}
	c := &conn2{link: l}
	cc, err := newH2ClientConn(p.set.h2, &wire{l.Conn, c})
	if err != nil {
		l.shut()
		return nil, err
	}
	p.mu.Lock()
	c.cc = cc
	p.mu.Unlock()
	if err := cc.Ping(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		c.close()
		err = fmt.Errorf("HTTP/2 preface: %w; does the backend speak HTTP/2 on this port?", err)
		p.health.failed(err, sinceEpoch())
		return nil, err
	}
	p.health.succeeded()
	return c, nil
}

// check closes a connection on which a request timed out, and nothing came
// meanwhile, if the peer is not there any more: it shall not keep others waiting.
func (p *peer) check(c *conn2) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.checked || c.ended {
		return
	}
	c.checked = p.set.spawn(func() {
		ctx, cancel := context.WithTimeout(p.set.stop, checkTime)
		defer cancel()
		if err := c.cc.Ping(ctx); err != nil {
			c.close()
			p.health.failed(fmt.Errorf("HTTP/2 ping: %w", err), sinceEpoch())
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		c.checked = false
		p.wakeLocked()
	})
}

// put2 ends a request's use of c.
func (p *peer) put2(c *conn2) {
	p.mu.Lock()
	c.streams--
	c.idleSince = sinceEpoch()
	unused := c.ended && c.streams == 0
	if p.retired && c.streams == 0 {
		unused = p.endLocked(c) || unused
	}
	p.wakeLocked()
	p.mu.Unlock()
	if unused {
		c.close()
	}
}
