package proxy

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// halfOpenIdle is how long a tunnel may be silent after one side has ended: most
// peers end both ways at once, and some forget the other.
const halfOpenIdle = time.Minute

var errTunnelIdle = errors.New("idle for too long")

// side is one end of a tunnel.
type side struct {
	r io.Reader
	w io.Writer
	// closeWrite tells the peer that no more comes. nil, or errors.ErrUnsupported:
	// it cannot be told other than by ending the tunnel.
	closeWrite func() error
	// finish ends pending reads; abort also shows the peer that the end is no
	// orderly one. Both may be called more than once, from any goroutine.
	finish, abort func()
}

// tunnel joins two sides.
type tunnel struct {
	client, backend side
	idle            time.Duration // negative: for ever

	up, down atomic.Int64 // bytes
	start    time.Time
	active   atomic.Int64 // when something last moved, in ns since start

	mu       sync.Mutex
	timer    *time.Timer // of idleness; nil: none, or no more
	halfOpen bool
	over     bool
	err      error
	blame    *side // who failed; nil: nobody, or time
}

// run returns when both ways are over: nil if they were ended in order.
func (tn *tunnel) run() error {
	tn.start = time.Now()
	if tn.idle >= 0 {
		tn.mu.Lock()
		tn.timer = time.AfterFunc(tn.idle, tn.checkIdle)
		tn.mu.Unlock()
	}
	done := make(chan struct{})
	go tn.copyUp(done)
	tn.pump(&tn.backend, &tn.client, &tn.down)
	<-done
	tn.mu.Lock()
	defer tn.mu.Unlock()
	tn.over = true
	if tn.timer != nil {
		tn.timer.Stop()
		tn.timer = nil
	}
	return tn.err
}

func (tn *tunnel) copyUp(done chan<- struct{}) {
	defer close(done)
	tn.pump(&tn.client, &tn.backend, &tn.up)
}

// pump copies from one side to the other until the first ends, and tells the
// other so.
func (tn *tunnel) pump(from, to *side, moved *atomic.Int64) {
	var c copier
	defer c.free()
	for n := 0; ; {
		buf := c.buffer(n)
		var err error
		n, err = from.r.Read(buf)
		if n > 0 {
			m, werr := to.w.Write(buf[:n])
			moved.Add(int64(m))
			tn.active.Store(int64(time.Since(tn.start)))
			if werr != nil {
				tn.fail(werr, to)
				return
			}
		}
		if err == io.EOF {
			tn.ended(to)
			return
		}
		if err != nil {
			tn.fail(err, from)
			return
		}
	}
}

// ended passes the end of one direction on to the side that receives it.
func (tn *tunnel) ended(to *side) {
	tn.mu.Lock()
	both := tn.halfOpen || tn.over
	tn.halfOpen = true
	if tn.timer != nil && !both {
		tn.timer.Reset(tn.patienceLocked())
	}
	tn.mu.Unlock()
	if both {
		return
	}
	err := errors.ErrUnsupported
	if to.closeWrite != nil {
		err = to.closeWrite()
	}
	switch {
	case err == nil:
	case errors.Is(err, errors.ErrUnsupported):
		tn.mu.Lock()
		tn.over = true // all that fails from now on does because of this
		tn.mu.Unlock()
		tn.client.finish()
		tn.backend.finish()
	default:
		tn.fail(err, to)
	}
}

// fail ends both directions. Only the first reason counts: what fails after it,
// fails because of it.
func (tn *tunnel) fail(err error, who *side) {
	tn.mu.Lock()
	first := !tn.over
	if first {
		tn.over, tn.err, tn.blame = true, err, who
	}
	tn.mu.Unlock()
	if first {
		tn.client.abort()
		tn.backend.abort()
	}
}

func (tn *tunnel) checkIdle() {
	tn.mu.Lock()
	if tn.timer == nil || tn.over {
		tn.mu.Unlock()
		return
	}
	silent := time.Since(tn.start) - time.Duration(tn.active.Load())
	if left := tn.patienceLocked() - silent; left > 0 {
		tn.timer.Reset(left)
		tn.mu.Unlock()
		return
	}
	tn.mu.Unlock()
	tn.fail(errTunnelIdle, nil)
}

func (tn *tunnel) patienceLocked() time.Duration {
	if tn.halfOpen {
		return min(tn.idle, halfOpenIdle)
	}
	return tn.idle
}
