package h1

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watch looks, while a handler works, whether its client has gone away. It asks
// the socket and never reads: bytes that the client sent ahead stay where they
// are, nobody has to be woken for the next request, and it is the same with TLS.
// It looks when a request has taken 20 to 40 ms, then ever more seldom, down to twice
// a second. The timer is left running for the next request: to stop and start it with
// each costs more than that it rings in vain, and the socket is asked only on behalf
// of a request that was there the last time. A connection that is not a socket at
// bottom is not watched: its end is seen by reading and writing.
type watch struct {
	raw syscall.RawConn // nil: cannot be watched

	mu    sync.Mutex
	cur   *requestContext // nil: nobody wants to know
	timer *time.Timer
	armed bool // the timer will ring
	wait  time.Duration
	begun uint // how many requests have been watched
	seen  uint // what begun was when the timer was set
}

const (
	watchFirst = 20 * time.Millisecond
	watchMost  = 500 * time.Millisecond
)

func (w *watch) init(c net.Conn) { w.raw = rawConn(c) }

// start begins to watch on behalf of x, unless x is over.
func (w *watch) start(x *requestContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cur == x || x.over || w.raw == nil {
		return
	}
	if w.armed && w.wait > watchFirst && w.timer.Stop() {
		w.armed = false // it would ring too late
	}
	w.cur, w.wait = x, watchFirst
	w.begun++
	if !w.armed {
		w.set()
	}
}

// set makes the timer ring after w.wait.
func (w *watch) set() {
	if w.timer == nil {
		w.timer = time.AfterFunc(w.wait, w.look)
	} else {
		w.timer.Reset(w.wait)
	}
	w.armed, w.seen = true, w.begun
}

// stop ends the request x's watch for good.
func (w *watch) stop(x *requestContext) {
	w.mu.Lock()
	x.over = true
	if w.cur == x {
		w.cur = nil
	}
	w.mu.Unlock()
}

// end ends watching: the connection is over.
func (w *watch) end() {
	w.mu.Lock()
	if w.cur = nil; w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
}

func (w *watch) look() {
	if x := w.gone(); x != nil {
		x.stop() // not under the lock, which Done takes
	}
}

// gone returns the request whose client has gone; otherwise it looks again later.
func (w *watch) gone() *requestContext {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	x := w.cur
	switch {
	case x == nil:
		return nil
	case w.seen != w.begun: // it is a new one
	case peerClosed(w.raw):
		w.cur = nil
		return x
	default:
		w.wait = min(2*w.wait, watchMost)
	}
	w.set()
	return nil
}

// rawConn is the socket below c, or nil. It may be asked, and not read: the
// layers above may hold bytes of it.
func rawConn(c net.Conn) syscall.RawConn {
	for range 8 {
		if sc, ok := c.(syscall.Conn); ok {
			raw, err := sc.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		}
		if c = below(c); c == nil {
			break
		}
	}
	return nil
}

// below is the connection that c is a layer over, or nil. Raw is what go-proxyproto
// calls it.
func below(c net.Conn) net.Conn {
	switch c := c.(type) {
	case interface{ NetConn() net.Conn }:
		return c.NetConn()
	case interface{ Raw() net.Conn }:
		return c.Raw()
	}
	return nil
}

// peerClosed says whether the peer has ended its direction, or reset the
// connection. HTTP/1.1 has no use for half-closed connections: whoever closes is
// taken to have gone, as by Envoy and net/http.
func peerClosed(raw syscall.RawConn) bool {
	p := poll{raw: raw}
	return p.any(unix.POLLRDHUP)
}

// poll asks a socket, again and again; one goroutine at a time does.
type poll struct {
	raw      syscall.RawConn
	events   int16
	happened bool
	ask      func(fd uintptr) // made once; nil: not yet
}

// any says whether one of events has happened, without waiting for them. Errors and
// resets are always among them.
func (p *poll) any(events int16) bool {
	if p.ask == nil {
		p.ask = p.asked
	}
	p.events, p.happened = events, false
	err := p.raw.Control(p.ask)
	return p.happened || err != nil
}

func (p *poll) asked(fd uintptr) {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: p.events}}
	for {
		n, err := unix.Poll(fds[:], 0)
		if err == unix.EINTR {
			continue
		}
		p.happened = n > 0 || err != nil
		return
	}
}

// resetter is a TCP connection.
type resetter interface{ SetLinger(sec int) error }

// socketOf is the TCP connection below c, or nil.
func socketOf(c net.Conn) resetter {
	for range 8 {
		if t, ok := c.(resetter); ok {
			return t
		}
		if c = below(c); c == nil {
			break
		}
	}
	return nil
}
