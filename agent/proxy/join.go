package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// joint is two TCP connections joined by splice(2).
type joint struct {
	up, down pump           // up is a to b
	back     sync.WaitGroup // the goroutine of down
	once     sync.Once
	err      error // why the joint was aborted; set by once
}

// newJoint prepares the join of a, the side that opened the connection, and b.
func newJoint(a, b *net.TCPConn, pipes *pipePool) *joint {
	return &joint{
		up:   pump{src: a, dst: b, pipes: pipes},
		down: pump{src: b, dst: a, pipes: pipes},
	}
}

// run moves bytes until both directions have ended and closes both connections.
// The end of one direction is passed on as a half-close; a reset, on either
// side, as a reset of the other.
func (j *joint) run() error {
	j.back.Go(j.carryDown)
	j.carry(&j.up, "client", "destination")
	j.back.Wait()
	j.once.Do(func() {
		// Both ends have been seen: nothing is unread, so no reset is sent.
		j.up.src.Close()
		j.up.dst.Close()
	})
	return j.err
}

func (j *joint) carryDown() { j.carry(&j.down, "destination", "client") }

// carry runs one direction and passes its end on.
func (j *joint) carry(p *pump, from, to string) {
	if err := p.run(); err != nil {
		j.abort(name(err, from, to))
		return
	}
	if err := p.dst.CloseWrite(); err != nil && !j.gone(p.dst, err) {
		j.abort(fmt.Errorf("%s: %w", to, err))
	}
}

// gone reports whether err of a half-close toward c is only news that c, which
// had ended its own direction, has closed the rest since. No byte is owed to
// it, and nothing failed.
func (j *joint) gone(c *net.TCPConn, err error) bool {
	from := &j.up
	if c == j.down.src {
		from = &j.down
	}
	return from.ended.Load() && errors.Is(err, syscall.ENOTCONN)
}

// abort resets both connections; run then returns err. The first error counts:
// those that follow are its consequences.
func (j *joint) abort(err error) {
	j.once.Do(func() {
		j.err = err
		reset(j.up.src)
		reset(j.up.dst)
	})
}

// bytes are the counts so far: from a to b, and back.
func (j *joint) bytes() (up, down int64) { return j.up.moved.Load(), j.down.moved.Load() }

// name says which side err happened on.
func name(err error, from, to string) error {
	var r readError
	var w writeError
	switch {
	case errors.As(err, &r):
		return fmt.Errorf("%s: %w", from, r.err)
	case errors.As(err, &w):
		return fmt.Errorf("%s: %w", to, w.err)
	}
	return err
}

// reset closes c so that its peer sees a reset, whatever is still unsent.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // fails only on a closed connection
	_ = c.Close()
}
