package h1

import (
	"net"
	"os"
	"sync"
	"time"
)

// deadlines sets the deadlines of a connection as seldom as it can: an idle
// timeout that is put off with each message moves only when it would end more
// than a sixteenth too early. Setting one costs a lock and a timer, of the order
// of 150 ns.
type deadlines struct {
	c net.Conn

	mu          sync.Mutex
	idle        bool // waiting for a request, which a drain may end
	draining    bool
	interrupted bool // somebody gave up a Read that is under way
	ownRead     bool // the handler's own deadline holds
	ownWrite    bool
	read, write time.Time
	// body is by how much a write puts the read deadline off, because a body is being
	// read: who is silent may be listening. Zero is none.
	body time.Duration
}

var longAgo = time.Unix(1, 0)

// due says whether a deadline has to be moved to be d from now.
func due(at time.Time, now time.Time, d time.Duration) bool {
	left := at.Sub(now)
	return left > d || left < d-d/16
}

// armRead puts the deadline of reading a body off.
func (d *deadlines) armRead(timeout time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.interrupted {
		return os.ErrDeadlineExceeded
	}
	if d.ownRead {
		return nil
	}
	d.body = timeout
	if now := time.Now(); due(d.read, now, timeout) {
		d.read = now.Add(timeout)
		return d.c.SetReadDeadline(d.read)
	}
	return nil
}

// armReadAt sets the read deadline to a moment.
func (d *deadlines) armReadAt(t time.Time) {
	d.mu.Lock()
	d.read, d.body = t, 0
	d.c.SetReadDeadline(t)
	d.mu.Unlock()
}

// armWrite puts the write deadline off, and that of reading a body.
func (d *deadlines) armWrite(timeout time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if !d.ownWrite && due(d.write, now, timeout) {
		d.write = now.Add(timeout)
		d.c.SetWriteDeadline(d.write)
	}
	if d.body > 0 && !d.ownRead && !d.interrupted && due(d.read, now, d.body) {
		d.read = now.Add(d.body)
		d.c.SetReadDeadline(d.read)
	}
}

// setOwn sets the deadlines that a handler asks for, until its request ends.
func (d *deadlines) setOwn(t time.Time, write bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if write {
		d.ownWrite, d.write = true, t
		return d.c.SetWriteDeadline(t)
	}
	if d.interrupted {
		return os.ErrDeadlineExceeded
	}
	d.ownRead, d.read = true, t
	return d.c.SetReadDeadline(t)
}

// endOwn ends the handler's deadlines.
func (d *deadlines) endOwn() {
	d.mu.Lock()
	if d.ownRead || d.ownWrite {
		d.ownRead, d.ownWrite = false, false
		d.read, d.write = time.Time{}, time.Time{}
		d.c.SetDeadline(time.Time{})
	}
	d.mu.Unlock()
}

// interrupt ends a Read that is under way in another goroutine, and those to
// come.
func (d *deadlines) interrupt() {
	d.mu.Lock()
	d.interrupted = true
	d.c.SetReadDeadline(longAgo)
	d.mu.Unlock()
}

// beginIdle arms the wait for a request; false if there is to be none.
func (d *deadlines) beginIdle(timeout time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining || d.interrupted {
		return false
	}
	d.idle, d.body = true, 0
	if now := time.Now(); due(d.read, now, timeout) {
		d.read = now.Add(timeout)
		d.c.SetReadDeadline(d.read)
	}
	return true
}

// endIdle says that a request has come, even if a drain began meanwhile.
func (d *deadlines) endIdle() {
	d.mu.Lock()
	d.idle = false
	if d.draining { // its deadline has passed
		d.read = time.Time{}
		d.c.SetReadDeadline(time.Time{})
	}
	d.mu.Unlock()
}

// drain lets the request under way be the last.
func (d *deadlines) drain() {
	d.mu.Lock()
	d.draining = true
	if d.idle {
		d.c.SetReadDeadline(longAgo)
	}
	d.mu.Unlock()
}

func (d *deadlines) isDraining() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draining
}

// clear removes all deadlines.
func (d *deadlines) clear() {
	d.mu.Lock()
	d.read, d.write, d.body = time.Time{}, time.Time{}, 0
	d.c.SetDeadline(time.Time{})
	d.mu.Unlock()
}
