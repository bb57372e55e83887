package proxy

import (
	"net"
	"time"
)

// watchDelay is how long a dial may take before its client is watched: a dial
// over a tunnel that is up costs no watch.
const watchDelay = 100 * time.Millisecond

// watchReset calls gone if c is reset while nobody reads from it. The returned
// stop ends the watch, waits for its end, and leaves c as it was. A half-close
// is no reason to give up: the client still waits for an answer.
func watchReset(c *net.TCPConn, gone func()) (stop func()) {
	done := make(chan struct{})
	timer := time.AfterFunc(watchDelay, func() {
		defer close(done)
		if lostWhileIdle(c) {
			gone()
		}
	})
	return func() {
		if timer.Stop() {
			return
		}
		_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes lostWhileIdle
		<-done
		_ = c.SetReadDeadline(time.Time{})
	}
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
