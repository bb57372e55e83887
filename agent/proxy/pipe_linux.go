package proxy

import (
	"sync"

	"golang.org/x/sys/unix"
)

// pipeSize is what a pipe is asked to hold, in bytes, and the most that one
// splice(2) moves. The kernel may grant less.
const pipeSize = 1 << 20

// pipe is the kernel buffer between the two halves of a splice.
type pipe struct{ r, w int }

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipePool keeps empty pipes for the bursts to come. A pipe is taken when bytes
// arrive and given back when they stop, so an idle connection holds none.
type pipePool struct {
	max int // pipes kept unused

	mu     sync.Mutex // guards the fields below
	free   []*pipe
	closed bool
}

func (pp *pipePool) get() (*pipe, error) {
	pp.mu.Lock()
	if n := len(pp.free); n > 0 {
		p := pp.free[n-1]
		pp.free = pp.free[:n-1]
		pp.mu.Unlock()
		return p, nil
	}
	pp.mu.Unlock()

	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	// Without privilege the total of all pipes is limited: a small one still works.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{r: fds[0], w: fds[1]}, nil
}

// put takes an empty pipe back.
func (pp *pipePool) put(p *pipe) {
	pp.mu.Lock()
	keep := !pp.closed && len(pp.free) < pp.max
	if keep {
		pp.free = append(pp.free, p)
	}
	pp.mu.Unlock()
	if !keep {
		p.close()
	}
}

// close drops the unused pipes; those in use are closed as they come back.
func (pp *pipePool) close() {
	pp.mu.Lock()
	free := pp.free
	pp.free, pp.closed = nil, true
	pp.mu.Unlock()
	for _, p := range free {
		p.close()
	}
}
