package hbone

import (
	"errors"
	"fmt"
	"net"
	"time"
)

var (
	drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}
	livePing  = [8]byte{'a', 'l', 'i', 'v', 'e'}
	lastPing  = [8]byte{'l', 'a', 's', 't'}
)

// scheduleLocked sets the timer for the next thing that may fall due. Signs of
// life and the end of the last stream only put it off: they need not set it.
func (c *conn) scheduleLocked() {
	if c.err != nil {
		return
	}
	now := time.Since(c.born)
	seen := time.Duration(c.lastSeen.Load())
	due := seen + c.opt.pingInterval
	if !c.pingSent.IsZero() {
		due = max(seen, c.pingSent.Sub(c.born)) + c.opt.pingTimeout
	}
	if c.opt.idleTimeout > 0 {
		if len(c.streams) == 0 && c.working == 0 {
			due = min(due, c.idleSince.Sub(c.born)+c.opt.idleTimeout)
		} else {
			due = min(due, now+c.opt.idleTimeout)
		}
	}
	if c.maxAge > 0 && !c.draining {
		due = min(due, c.maxAge)
	}
	if c.goAwaySent && !c.finalSent {
		due = min(due, c.goAwayAt.Sub(c.born)+c.opt.pingTimeout)
	}
	if !c.client && !c.started() {
		due = min(due, c.opt.handshakeTimeout)
	}
	d := max(due-now, time.Millisecond)
	if c.tick == nil {
		c.tick = time.AfterFunc(d, c.look)
	} else {
		c.tick.Reset(d)
	}
}

// started says whether the peer's first SETTINGS has come.
func (c *conn) started() bool {
	select {
	case <-c.ready:
		return true
	default:
		return false
	}
}

// look checks that the peer is alive, and whether the tunnel is idle or too old.
func (c *conn) look() {
	now := time.Now()
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	silent := now.Sub(c.born) - time.Duration(c.lastSeen.Load())
	idle := c.opt.idleTimeout > 0 && len(c.streams) == 0 && c.working == 0 && now.Sub(c.idleSince) >= c.opt.idleTimeout
	old := c.maxAge > 0 && now.Sub(c.born) >= c.maxAge && !c.draining
	ping := c.pingSent.IsZero() && silent >= c.opt.pingInterval
	dead := !c.pingSent.IsZero() && silent >= c.opt.pingTimeout && now.Sub(c.pingSent) >= c.opt.pingTimeout
	mute := !c.client && !c.started() && now.Sub(c.born) >= c.opt.handshakeTimeout
	// A peer that sends and does not read would hold whoever writes for ever.
	stuck := c.wire.stuck() >= c.opt.pingTimeout
	deaf := c.goAwaySent && !c.finalSent && now.Sub(c.goAwayAt) >= c.opt.pingTimeout
	if ping {
		c.pingSent = now
	}
	c.scheduleLocked()
	c.mu.Unlock()

	switch {
	case dead:
		c.fail(&net.OpError{Op: "ping", Net: "hbone", Addr: c.wire.RemoteAddr(),
			Err: errors.New("no answer for " + silent.Round(time.Second).String() + "; peer is gone or the network is cut")})
	case stuck:
		c.fail(fmt.Errorf("hbone: peer %s has read nothing for %v", c.wire.RemoteAddr(), c.opt.pingTimeout))
	case mute:
		c.fail(fmt.Errorf("hbone: peer %s sent no HTTP/2 preface within %v", c.wire.RemoteAddr(), c.opt.handshakeTimeout))
	case deaf:
		c.drainAnnounced() // how long a tunnel takes streams is not up to the peer
		c.w.flush()
	case idle || old:
		c.drain()
	case ping:
		// The timer's goroutine must not write: a peer that does not read would hold it.
		c.w.later(func(b []byte) []byte { return appendPing(b, false, livePing) })
		c.w.flush()
	}
}

func (c *conn) pong(data [8]byte) {
	switch data {
	case livePing:
		c.mu.Lock()
		if !c.pingSent.IsZero() {
			c.rtt.Store(int64(time.Since(c.pingSent)))
			c.pingSent = time.Time{}
		}
		c.mu.Unlock()
	case drainPing:
		c.drainAnnounced()
	case lastPing:
		select {
		case c.allRead <- struct{}{}:
		default:
		}
	}
}
