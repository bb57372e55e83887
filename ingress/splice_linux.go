package ingress

import (
	"fmt"
	"net"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// spliceAll moves the bytes of one direction from src to dst by splice(2): they
// never enter this process. TCPConn.ReadFrom would do it too, but it holds a pipe
// while it waits for the next byte, and tells its count only at the end.
func spliceAll(dst, src *net.TCPConn, moved *counter) error {
	s, err := src.SyscallConn()
	if err != nil {
		return err
	}
	d, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	m := mover{moved: moved}
	defer m.release()
	fill, drain := m.fill, m.drain
	for {
		m.err = nil
		if err := s.Read(fill); err != nil {
			return err
		}
		if m.err != nil {
			return m.err
		}
		if m.held == 0 {
			return nil
		}
		if err := d.Write(drain); err != nil {
			return err
		}
		if m.err != nil {
			return m.err
		}
	}
}

// mover is what one direction holds. It has a pipe only during a burst.
type mover struct {
	moved *counter
	pipe  *pipe
	held  int // bytes in the pipe
	err   error
}

// fill moves what the socket has into the pipe. In the poller's terms, false means
// to wait.
func (m *mover) fill(fd uintptr) bool {
	if m.pipe == nil {
		if m.pipe, m.err = newPipe(); m.err != nil {
			return true
		}
	}
	m.held, m.err = splice(int(fd), m.pipe.w)
	if m.err == unix.EAGAIN {
		m.release()
		return false
	}
	return true
}

// drain empties the pipe into the socket.
func (m *mover) drain(fd uintptr) bool {
	for m.held > 0 {
		n, err := splice(m.pipe.r, int(fd))
		if err == unix.EAGAIN {
			return false
		}
		if m.err = err; err != nil {
			return true
		}
		m.held -= n
		m.moved.add(n)
	}
	return true
}

func (m *mover) release() {
	switch {
	case m.pipe == nil:
	case m.held == 0:
		pipes.Put(m.pipe)
	default: // another connection must never see these bytes
		m.pipe.close()
	}
	m.pipe, m.held = nil, 0
}

// pipeSize is what a pipe holds, which is what Linux gives one.
const pipeSize = 64 << 10

func splice(from, to int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, pipeSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		return int(max(n, 0)), err
	}
}

// pipe is an empty one while it is in pipes; those that the pool drops are closed
// by their finalizer.
type pipe struct{ r, w int }

var pipes sync.Pool

func newPipe() (*pipe, error) {
	if p, ok := pipes.Get().(*pipe); ok {
		return p, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("open a pipe for splice: %w", err)
	}
	p := &pipe{r: fds[0], w: fds[1]}
	runtime.SetFinalizer(p, (*pipe).close)
	return p, nil
}

func (p *pipe) close() {
	runtime.SetFinalizer(p, nil)
	unix.Close(p.r)
	unix.Close(p.w)
}
