package proxy

import (
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pump moves the bytes of one direction from src to dst by splice(2): they
// never enter this process. TCPConn.ReadFrom would do the same, but holds a
// pipe while it waits for the first byte and reports its count only at the end.
type pump struct {
	src, dst *net.TCPConn
	pipes    *pipePool
	moved    atomic.Int64 // bytes that dst's socket has taken
	ended    atomic.Bool  // src has ended its direction

	pipe *pipe // held during a burst
	held int   // bytes in pipe

	// Of the step in progress: a fill, or a drain.
	draining bool
	n        int
	err      error
}

// run returns nil when src has ended its direction and dst's socket has taken
// every byte. It closes neither.
func (p *pump) run() error {
	defer p.release()
	src, err := p.src.SyscallConn()
	if err != nil {
		return err
	}
	dst, err := p.dst.SyscallConn()
	if err != nil {
		return err
	}
	step := p.step
	for {
		p.draining = false
		if err := src.Read(step); err != nil {
			return readError{err}
		}
		if p.err != nil {
			return readError{p.err}
		}
		if p.n == 0 {
			p.ended.Store(true)
			return nil
		}
		p.draining = true
		if err := dst.Write(step); err != nil {
			return writeError{err}
		}
		if p.err != nil {
			return writeError{p.err}
		}
	}
}

// step is called in the poller's terms: false means wait.
func (p *pump) step(fd uintptr) bool {
	if p.draining {
		p.err = p.drain(int(fd))
	} else {
		p.n, p.err = p.fill(int(fd))
	}
	return p.err != unix.EAGAIN
}

// fill moves what src has into the pipe, 0 at its end. Before it reports that
// src has nothing (EAGAIN) it gives the pipe back.
func (p *pump) fill(src int) (int, error) {
	if p.pipe == nil {
		pipe, err := p.pipes.get()
		if err != nil {
			return 0, fmt.Errorf("open a pipe for splice: %w", err)
		}
		p.pipe = pipe
	}
	n, err := splice(src, p.pipe.w, pipeSize)
	p.held = n
	if err == unix.EAGAIN {
		p.release()
	}
	return n, err
}

// drain empties the pipe into dst.
func (p *pump) drain(dst int) error {
	for p.held > 0 {
		n, err := splice(p.pipe.r, dst, p.held)
		if err != nil {
			return err
		}
		p.held -= n
		p.moved.Add(int64(n))
	}
	return nil
}

func (p *pump) release() {
	switch {
	case p.pipe == nil:
	case p.held == 0:
		p.pipes.put(p.pipe)
	default: // another connection must never see these bytes
		p.pipe.close()
	}
	p.pipe, p.held = nil, 0
}

func splice(from, to, n int) (int, error) {
	for {
		moved, err := unix.Splice(from, nil, to, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, err
		}
		return int(moved), nil
	}
}

// readError and writeError say on which side of a pump a failure happened.
type (
	readError  struct{ err error }
	writeError struct{ err error }
)

func (e readError) Error() string  { return "read: " + e.err.Error() }
func (e readError) Unwrap() error  { return e.err }
func (e writeError) Error() string { return "write: " + e.err.Error() }
func (e writeError) Unwrap() error { return e.err }
