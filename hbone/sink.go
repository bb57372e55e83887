package hbone

import (
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sink is a spliced stream's socket.
type sink struct {
	conn socket
	raw  syscall.RawConn

	// Of the write in progress; whoever set Stream.draining owns them.
	p       []byte
	n       int
	err     error
	writeFn func(fd uintptr) bool

	mu        sync.Mutex
	inputDone bool // nothing more will be written to the socket
	srcDone   bool // nothing more will be read from it
	watched   bool // watch waits, and closes the socket
}

func (k *sink) init(c socket, raw syscall.RawConn) {
	k.conn, k.raw = c, raw
	k.writeFn = k.writeOnce
}

// tryWrite writes what the socket takes at once.
func (k *sink) tryWrite(p []byte) (int, error) {
	k.p, k.n, k.err = p, 0, nil
	err := k.raw.Write(k.writeFn)
	k.p = nil
	if err == nil {
		err = k.err
	}
	return k.n, err
}

func (k *sink) writeOnce(fd uintptr) bool {
	for k.n < len(k.p) {
		n, err := syscall.Write(int(fd), k.p[k.n:])
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			return true
		}
		if err != nil {
			k.err = &net.OpError{Op: "write", Net: "tcp", Source: k.conn.LocalAddr(), Addr: k.conn.RemoteAddr(), Err: err}
			return true
		}
		if k.n += n; n < len(k.p)-(k.n-n) {
			return true // a short write: the next would be EAGAIN
		}
	}
	return true
}

// reset closes the socket with RST and wakes whoever waits on it.
func (k *sink) reset() {
	k.conn.SetLinger(0)
	k.conn.Close()
}

// inputEnded and sourceEnded note the two ends; the socket is closed with the
// second. The tunnel's reader leaves that to watch if it can: Close waits for
// whoever waits on the socket, and watch waits.
func (k *sink) inputEnded() {
	k.mu.Lock()
	k.inputDone = true
	both, watched := k.srcDone, k.watched
	k.mu.Unlock()
	switch {
	case both && watched:
		k.conn.SetReadDeadline(aLongTimeAgo)
	case both:
		k.conn.Close()
	}
}

func (k *sink) sourceEnded() {
	k.mu.Lock()
	k.srcDone = true
	both := k.inputDone
	k.mu.Unlock()
	if both {
		k.conn.Close()
	}
}

func (k *sink) sourceDone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.srcDone
}

var aLongTimeAgo = time.Unix(1, 0)

// watch waits, after the socket's plain end, until nothing more will be written
// to it, or it is closed or reset; true for the latter.
func (k *sink) watch() (reset bool) {
	k.mu.Lock()
	k.watched = !k.inputDone
	ended := k.inputDone
	k.mu.Unlock()
	if ended {
		return false
	}
	return k.raw.Read(pollBroken) == nil
}

// broken says whether the socket has been reset.
func (k *sink) broken() (err error) {
	cerr := k.raw.Control(func(fd uintptr) {
		if pollBroken(fd) {
			err = k.errReset()
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

func (k *sink) errReset() error {
	return &net.OpError{Op: "read", Net: "tcp", Source: k.conn.LocalAddr(), Addr: k.conn.RemoteAddr(), Err: syscall.ECONNRESET}
}

func pollBroken(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0
}
