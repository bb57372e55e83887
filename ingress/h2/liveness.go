package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// liveness is the one timer of a connection. It is set for what falls due first;
// what is put off does not move it, but is found not to be due when it runs out.
type liveness struct {
	timer   *time.Timer
	due     time.Time // zero: the timer is not set
	started bool      // the client's SETTINGS have come
	suspect int64     // conn.partial when it was found to be too old
}

func (l *liveness) stop() {
	if l.timer != nil {
		l.timer.Stop()
	}
}

// watchLocked has somebody look when d has passed.
func (c *conn) watchLocked(now time.Time, d time.Duration) {
	l := &c.life
	due := now.Add(d)
	if c.err != nil || !l.due.IsZero() && !due.Before(l.due) {
		return
	}
	l.due = due
	if l.timer == nil {
		l.timer = time.AfterFunc(d, c.look)
	} else {
		l.timer.Reset(d)
	}
}

// startedLocked notes that the client's part of the preface is complete.
func (c *conn) startedLocked() {
	c.life.started = true
	c.restLocked()
}

// restLocked notes that the connection has no stream from now on.
func (c *conn) restLocked() {
	c.idleFrom = time.Now()
	c.watchLocked(c.idleFrom, c.s.idleTimeout())
}

// look finds what has waited for the client for too long.
func (c *conn) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.life.due = time.Time{}
	now := time.Now()
	// late says whether something that began at since is overdue; it is looked at
	// again when it is.
	late := func(since time.Time, timeout time.Duration) bool {
		left := timeout - now.Sub(since)
		if left > 0 {
			c.watchLocked(now, left)
		}
		return left <= 0
	}
	if !c.life.started && late(c.born, c.s.prefaceTimeout()) {
		c.failLocked(errPrefaceLate)
		return
	}
	if at := c.partial.Load(); at != 0 && late(c.born.Add(time.Duration(at)), c.s.readHeaderTimeout()) {
		// When the whole process was held up, the rest may be there, unread: it is
		// late only if the reader has had the time to find it.
		if c.life.suspect == at {
			c.failLocked(errHeaderTimeout)
			return
		}
		c.life.suspect = at
		c.watchLocked(now, c.s.readHeaderTimeout()/8)
	}
	if !c.w.since.IsZero() && late(c.w.since, c.s.writeTimeout()) {
		c.failLocked(errStalled)
		return
	}
	for _, s := range c.streams {
		if b := &s.body; !b.waiting.IsZero() {
			if s.send.moved {
				s.send.moved, b.waiting = false, now
			}
			if late(b.waiting, c.s.bodyTimeout()) {
				b.abandonLocked(errBodyStalled)
			}
		}
		if q := &s.send; !q.since.IsZero() && late(q.since, c.s.writeTimeout()) {
			c.resetLocked(s, http2.ErrCodeCancel, errStalled)
		}
	}
	if c.life.started && c.held == 0 && late(c.idleFrom, c.s.idleTimeout()) {
		c.drainLocked()
	}
	c.flushLocked()
}
