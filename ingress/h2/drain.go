package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// drainer ends a connection in order. Its fields are guarded by conn.mu.
//
// Streams may be on their way when the drain begins: it is announced first, and
// which stream is the last is said when the answer to a PING shows that the client
// has read that (RFC 9113 section 6.8), or has had the time to.
type drainer struct {
	draining  bool
	finalSent bool
	ending    error // why the reader is to end
}

var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}

// drain lets the streams that there are be the last.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drainLocked()
	c.flushLocked()
}

func (c *conn) drainLocked() {
	if c.draining || c.err != nil {
		return
	}
	c.draining = true
	if c.greeted {
		c.announceLocked()
	}
}

// announceLocked sends the first GOAWAY. It comes behind our SETTINGS.
func (c *conn) announceLocked() {
	c.w.out = appendGoAway(c.w.out, maxStreamID, http2.ErrCodeNo, "")
	c.w.out = appendPing(c.w.out, 0, drainPing)
	time.AfterFunc(c.s.drainTimeout(), c.drainSeen)
}

// drainSeen is called when the client has seen the first GOAWAY.
func (c *conn) drainSeen() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining || c.finalSent || c.err != nil {
		return
	}
	c.finalSent = true
	c.w.out = appendGoAway(c.w.out, c.highest, http2.ErrCodeNo, "")
	c.finishDrainLocked()
	c.flushLocked()
}

// finishDrainLocked ends a connection that is drained.
func (c *conn) finishDrainLocked() {
	if c.finalSent && c.held == 0 && c.err == nil {
		c.ending = errDrained
		c.c.SetReadDeadline(longAgo)
	}
}
