package upstream

import (
	"context"
	"net/netip"
	"time"

	"github.com/adit-mesh/adit/ingress/h1"
)

// conn1 is a connection that speaks HTTP/1.1: one request at a time. It is on the
// peer's stack, or one request has it.
type conn1 struct {
	*link
	h1        *h1.ClientConn
	idleSince int64
	used      bool // it has carried a request before
}

func (c *conn1) close() {
	c.shut()
	c.h1.Close()
}

// take1 takes the connection that was used last off the stack, or opens one. fresh
// forbids the stack.
func (p *peer) take1(ctx context.Context, timeout time.Duration, fresh bool) (*conn1, error) {
	var w *waiter
	var limit *time.Timer
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for free := w != nil || !p.spokenForLocked(); free; {
			if len(p.idle) > 0 && (!fresh || p.open >= p.set.cfg.MaxConns) {
				c := p.popLocked()
				stale := c.staleLocked(sinceEpoch())
				p.mu.Unlock()
				// Where a fresh one is wanted, this one gives its place to it.
				usable := !fresh && !stale && c.h1.Reusable()
				if !usable {
					c.close()
				}
				p.mu.Lock()
				if usable {
					return c, nil
				}
				continue
			}
			ok, err := p.slotLocked()
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			p.mu.Unlock()
			c, err := p.open1(ctx, timeout)
			p.mu.Lock()
			return c, err
		}
		if limit == nil {
			limit = time.NewTimer(timeout)
			defer limit.Stop()
		}
		var err error
		if w, err = p.waitLocked(ctx, w, limit.C, 0); err != nil {
			return nil, err
		}
	}
}

func (p *peer) popLocked() *conn1 {
	n := len(p.idle) - 1
	c := p.idle[n]
	p.idle[n] = nil
	p.idle = p.idle[:n]
	p.set.idle.Add(-1)
	return c
}

func (p *peer) open1(ctx context.Context, timeout time.Duration) (*conn1, error) {
	l, err := p.connect(ctx, netip.AddrPort{}, p.h1TLS, timeout)
	if err != nil {
		p.releaseSlot()
		return nil, err
	}
	p.health.succeeded()
	return &conn1{link: l, h1: h1.NewClientConn(l.Conn, h1.ClientOptions{MaxHeaderBytes: p.set.cfg.MaxHeaderBytes})}, nil
}

// put1 puts a connection on the stack whose exchange is over, or closes it.
func (p *peer) put1(c *conn1) {
	if !c.h1.Free() {
		c.close()
		return
	}
	s := p.set
	now := sinceEpoch()
	c.used = true
	c.idleSince = now
	p.mu.Lock()
	if c.staleLocked(now) || len(p.idle) >= s.cfg.MaxIdlePerEndpoint {
		p.mu.Unlock()
		c.close()
		return
	}
	if s.idle.Add(1) > int64(s.cfg.MaxIdle) && len(p.queue) == 0 {
		s.idle.Add(-1)
		p.mu.Unlock()
		select {
		case s.crowded <- struct{}{}:
		default:
		}
		c.close()
		return
	}
	p.idle = append(p.idle, c)
	p.wakeLocked()
	p.mu.Unlock()
}
