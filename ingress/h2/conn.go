package h2

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection. The reader's goroutine is that of ServeConn.
type conn struct {
	s    *Server
	c    net.Conn
	h    http.Handler
	peer Peer
	base context.Context // what requests' contexts come from
	born time.Time
	read reader
	wg   sync.WaitGroup // handlers, and goroutines that write

	// partial is when the reader began to wait for the rest of a frame or a header
	// block, in ns since born; 0 = it does not.
	partial atomic.Int64

	mu       sync.Mutex // guards what follows, and the streams
	err      error      // why the connection is over
	streams  map[uint32]*stream
	held     int    // streams, and handlers of those that are gone
	highest  uint32 // stream that the client has opened
	answered int    // streams whose answer has begun
	idleFrom time.Time
	life     liveness
	w        writer
	// recvWindow is what the client may send, and owed what is to be returned.
	recvWindow, owed int64
	greeted          bool // our SETTINGS are sent
	drainer
	resets resetRing
}

func newConn(s *Server, nc net.Conn, h http.Handler, p Peer) *conn {
	c := &conn{s: s, c: nc, h: h, peer: p, born: time.Now(), streams: make(map[uint32]*stream)}
	if p.RemoteAddr == "" {
		c.peer.RemoteAddr = nc.RemoteAddr().String()
	}
	if tc, ok := nc.(*tls.Conn); ok && p.TLS == nil {
		state := tc.ConnectionState()
		c.peer.TLS = &state
	}
	c.peer.Read = nil
	c.idleFrom = c.born
	c.recvWindow = connWindow
	c.w.init(c)
	c.read.init(c)
	return c
}

// serve is the connection's whole life.
func (c *conn) serve(ahead []byte) {
	c.mu.Lock()
	c.watchLocked(c.born, c.s.prefaceTimeout())
	c.mu.Unlock()
	err := c.read.loop(ahead)
	c.read.free()
	c.sayGoodbye(err)
	c.fail(err)
	c.linger(err)
	c.c.Close()
	c.wg.Wait()
	if c.s.Log != nil {
		c.s.Log.Debug("HTTP/2 connection is over", "remote", c.peer.RemoteAddr, "reason", err)
	}
}

// fail ends the connection: all streams end, and nothing is written any more.
func (c *conn) fail(err error) {
	c.mu.Lock()
	c.failLocked(err)
	c.mu.Unlock()
}

func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.life.stop()
	for _, s := range c.streams {
		s.endLocked(errClientGone)
	}
	c.w.queueSpace.Broadcast()
	c.w.idle.Broadcast()
	// The reader may wait for what will not come, and the writer for a client that
	// does not read.
	c.c.SetDeadline(longAgo)
}

var longAgo = time.Unix(1, 0)

// sayGoodbye writes what is still to be said when the reader has ended with err.
func (c *conn) sayGoodbye(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return // nobody listens
	}
	var ce *connError
	switch {
	case errors.As(err, &ce):
		c.w.out = appendGoAway(c.w.out, c.highest, ce.code, ce.what)
		c.c.SetWriteDeadline(time.Now().Add(lastWords))
		c.w.lastWords = true
	case errors.Is(err, errDrained):
		// The last answer may be on its way to a slow client.
	default:
		return
	}
	for c.w.busy && c.err == nil {
		c.w.idle.Wait()
	}
	if c.err == nil {
		c.w.writeLocked(nil)
	}
}

// lastWords bounds how long a farewell may take, and lingerTime and lingerBytes how
// long and how much is read after it. A client that was served to the end has
// longer: it may be slow to read the last of it.
const (
	lastWords     = time.Second
	lingerTime    = 500 * time.Millisecond
	lingerDrained = 10 * time.Second
	lingerBytes   = 1 << 20
)

// linger closes the sending direction and reads on for a moment, so that what the
// client still sends does not make the kernel reset the connection before the
// client has read our last frames.
func (c *conn) linger(why error) {
	raw := c.c
	patience := lingerTime
	if errors.Is(why, errDrained) {
		patience = lingerDrained
	}
	raw.SetDeadline(time.Now().Add(patience))
	for closed := false; ; { // close_notify of TLS, and the end of TCP
		if cw, ok := raw.(interface{ CloseWrite() error }); ok {
			if cw.CloseWrite() != nil {
				return
			}
			closed = true
		}
		below, ok := raw.(interface{ NetConn() net.Conn })
		if !ok && !closed {
			return
		}
		if !ok {
			break
		}
		raw = below.NetConn()
	}
	scratch := getBuffer(4 << 10)
	defer putBuffer(scratch)
	for range lingerBytes / len(scratch.b) {
		if _, err := raw.Read(scratch.b); err != nil {
			return
		}
	}
}

// admitLocked says whether another stream may begin.
func (c *conn) admitLocked() bool { return c.held < c.s.maxStreams() }

// releaseLocked counts a stream off whose handler has returned and of which nothing
// is to be sent or received any more.
func (c *conn) releaseLocked() {
	c.held--
	if c.held == 0 {
		c.restLocked()
		c.finishDrainLocked()
	}
}

// resetRing remembers the streams that we have reset of late, of which frames may
// be on their way still.
type resetRing struct {
	ids [128]uint32
	at  int
}

func (r *resetRing) add(id uint32) {
	r.ids[r.at] = id
	r.at = (r.at + 1) % len(r.ids)
}

func (r *resetRing) has(id uint32) bool {
	for _, x := range r.ids {
		if x == id {
			return true
		}
	}
	return false
}
