package hbone

import (
	"time"

	"golang.org/x/net/http2"
)

// drain lets the streams there are finish and takes no new ones. The tunnel
// closes when the last has ended.
func (c *conn) drain() {
	c.mu.Lock()
	if c.err != nil || c.goAwaySent {
		c.mu.Unlock()
		return
	}
	c.draining, c.goAwaySent, c.goAwayAt = true, true, time.Now()
	if c.client {
		c.finalSent = true // a server opens no streams: there is no last one to agree on
	}
	c.scheduleLocked()
	c.mu.Unlock()
	c.w.later(func(b []byte) []byte {
		if c.client {
			return appendGoAway(b, 0, http2.ErrCodeNo, "")
		}
		// Streams may be on their way: announce first, and say which was the
		// last when the answer to the PING shows that the peer has read it
		// (RFC 9113 section 6.8).
		b = appendGoAway(b, maxStreamID, http2.ErrCodeNo, "")
		return appendPing(b, false, drainPing)
	})
	c.w.flush()
	if c.changed != nil {
		c.changed()
	}
	c.closeIfDone()
}

// drainAnnounced is called when the peer has seen the first GOAWAY.
func (c *conn) drainAnnounced() {
	c.mu.Lock()
	if !c.goAwaySent || c.finalSent {
		c.mu.Unlock()
		return
	}
	c.finalSent = true
	last := c.lastID
	c.mu.Unlock()
	c.w.later(func(b []byte) []byte { return appendGoAway(b, last, http2.ErrCodeNo, "") })
	c.closeIfDone()
}

// closeIfDone closes a draining tunnel that has no streams left.
func (c *conn) closeIfDone() {
	c.mu.Lock()
	c.closeIfDoneLocked()
	c.mu.Unlock()
}

func (c *conn) closeIfDoneLocked() {
	if c.err == nil && c.draining && !c.closing && len(c.streams) == 0 && c.working == 0 &&
		(c.client || c.finalSent || !c.goAwaySent) {
		c.closing = true
		c.wg.Go(c.closeDrained) // the caller may be the reader, which must not write
	}
}

// closeDrained closes a tunnel whose streams have all ended. What they sent last
// may still be on its way, here or in the network, and a socket that is closed
// before the peer has read it is reset by the next frame that the peer sends. The
// answer to a PING shows that everything before it has been read.
func (c *conn) closeDrained() {
	c.w.waitIdle() // a PING goes before bulk
	c.w.control(func(b []byte) []byte { return appendPing(b, false, lastPing) })
	patience := time.NewTimer(c.opt.pingInterval + c.opt.pingTimeout)
	defer patience.Stop()
	select {
	case <-c.allRead:
	case <-patience.C:
	case <-c.gone:
	}
	c.close()
}

// goAway handles the peer's GOAWAY: streams above last will not be served.
func (c *conn) goAway(last uint32, code http2.ErrCode, debug []byte) {
	err := &GoAwayError{Code: code, Debug: printable(debug)}
	c.mu.Lock()
	c.draining = true
	var refused []*Stream
	if c.client {
		for id, s := range c.streams {
			if id > last {
				refused = append(refused, s)
				delete(c.streams, id)
			}
		}
	}
	c.mu.Unlock()
	for _, s := range refused {
		s.abort(err)
	}
	if c.changed != nil {
		c.changed()
	}
	if code != http2.ErrCodeNo {
		c.log.Debug("peer ends the tunnel", "peer", c.wire.RemoteAddr(), "code", code.String(), "debug", err.Debug)
	}
	c.closeIfDone()
}

// printable keeps what of a stranger's bytes may go to a log.
func printable(b []byte) string {
	b = b[:min(len(b), 128)]
	out := make([]byte, len(b))
	for i, ch := range b {
		if ch < ' ' || ch > '~' {
			ch = '.'
		}
		out[i] = ch
	}
	return string(out)
}
