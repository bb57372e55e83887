package proxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// watchDelay is how long a dial may take before its client is watched: a dial
// over a tunnel that is up costs no watch.
const watchDelay = 100 * time.Millisecond

// resetWatch looks whether a connection is reset while nobody reads from it. A
// half-close is no reason to give up: the client still waits for an answer.
type resetWatch struct {
	c      *net.TCPConn
	cancel context.CancelCauseFunc // called with errClientGone
	timer  *time.Timer
	over   sync.WaitGroup // the timer's function
}

func (w *resetWatch) start(c *net.TCPConn, cancel context.CancelCauseFunc) {
	w.c, w.cancel = c, cancel
	w.over.Add(1)
	w.timer = time.AfterFunc(watchDelay, w.run)
}

func (w *resetWatch) run() {
	defer w.over.Done()
	if lostWhileIdle(w.c) {
		w.cancel(errClientGone)
	}
}

// stop ends the watch, waits for its end, and leaves the connection as it was.
func (w *resetWatch) stop() {
	if w.timer.Stop() {
		return
	}
	_ = w.c.SetReadDeadline(time.Unix(1, 0)) // wakes lostWhileIdle
	w.over.Wait()
	_ = w.c.SetReadDeadline(time.Time{})
}

// lostWhileIdle waits until c is reset or its read deadline passes. It looks at
// the state of the connection and never at its bytes: those that the client
// sent ahead stay where they are.
func lostWhileIdle(c *net.TCPConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return true
	}
	lost := false
	// The poller is edge-triggered: each news of the socket, whatever it is,
	// asks again.
	_ = rc.Read(func(fd uintptr) bool {
		lost = tcpStateOf(int(fd)) == tcpClose
		return lost
	})
	return lost
}
