package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// liveness is the one timer of a connection. It runs out seldom: when the connection
// may have been idle for too long, or a fraction of the shortest timeout after
// something began to wait for the client.
type liveness struct {
	timer   *time.Timer
	watched bool // something waits
	started bool // the client's SETTINGS have come
}

func (l *liveness) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// interval is how often is looked while something waits.
func (c *conn) interval() time.Duration {
	d := min(c.s.readHeaderTimeout(), c.s.writeTimeout())
	if b := c.s.bodyTimeout(); b > 0 {
		d = min(d, b)
	}
	return max(d/8, time.Millisecond)
}

// watch makes sure that somebody looks soon after something began to wait.
func (c *conn) watch() {
	c.mu.Lock()
	c.watchLocked()
	c.mu.Unlock()
}

func (c *conn) watchLocked() {
	if c.life.watched || c.err != nil {
		return
	}
	c.life.watched = true
	c.scheduleLocked()
}

func (c *conn) startedLocked() {
	c.life.started = true
	c.idleFrom = time.Now()
	c.scheduleLocked()
}

// scheduleLocked sets the timer for the next thing that may fall due.
func (c *conn) scheduleLocked() {
	if c.err != nil {
		return
	}
	d := c.s.idleTimeout()
	switch {
	case !c.life.started:
		d = c.s.prefaceTimeout() - time.Since(c.born)
	case c.held == 0:
		d -= time.Since(c.idleFrom)
	}
	if c.life.watched {
		d = min(d, c.interval())
	}
	if d = max(d, time.Millisecond); c.life.timer == nil {
		c.life.timer = time.AfterFunc(d, c.look)
	} else {
		c.life.timer.Reset(d)
	}
}

// look finds what has waited for the client for too long.
func (c *conn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	now := time.Now()
	since := now.Sub(c.born)
	partial := time.Duration(c.partial.Load())
	switch {
	case !c.life.started && since >= c.s.prefaceTimeout():
		c.failLocked(errPrefaceLate)
		return
	case partial != 0 && since-partial >= c.s.readHeaderTimeout():
		c.failLocked(errHeaderTimeout)
		return
	case !c.w.since.IsZero() && now.Sub(c.w.since) >= c.s.writeTimeout():
		c.failLocked(errStalled)
		return
	}
	c.life.watched = partial != 0 || !c.w.since.IsZero()
	for _, s := range c.streams {
		c.lookAtLocked(s, now)
	}
	if c.life.started && c.held == 0 && now.Sub(c.idleFrom) >= c.s.idleTimeout() {
		c.drainLocked()
	}
	c.flushLocked()
	c.scheduleLocked()
}

func (c *conn) lookAtLocked(s *stream, now time.Time) {
	if at := s.body.waiting; !at.IsZero() && c.s.bodyTimeout() > 0 {
		if now.Sub(at) >= c.s.bodyTimeout() {
			s.body.abandonLocked(errBodyStalled)
		} else {
			c.life.watched = true
		}
	}
	if at := s.send.since; !at.IsZero() {
		if now.Sub(at) >= c.s.writeTimeout() {
			c.resetLocked(s, http2.ErrCodeCancel, errStalled)
		} else {
			c.life.watched = true
		}
	}
}
