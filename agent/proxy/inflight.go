package proxy

import (
	"context"
	"sync"
)

// inflight counts the connections of one pod, and lets its owner wait for them.
// Unlike a sync.WaitGroup it may be entered while somebody waits.
type inflight struct {
	mu     sync.Mutex // guards the fields below
	n      int
	closed bool
	zero   chan struct{} // closed when n reaches 0; nil while nobody waits
}

// enter reports whether another connection may begin. Each one that does calls
// leave at its end.
func (f *inflight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.n++
	return true
}

func (f *inflight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n--
	if f.n == 0 && f.zero != nil {
		close(f.zero)
		f.zero = nil
	}
}

func (f *inflight) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// close lets nobody enter any more.
func (f *inflight) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
}

// wait returns when nobody is inside, or with the error of ctx.
func (f *inflight) wait(ctx context.Context) error {
	f.mu.Lock()
	if f.n == 0 {
		f.mu.Unlock()
		return nil
	}
	if f.zero == nil {
		f.zero = make(chan struct{})
	}
	zero := f.zero
	f.mu.Unlock()
	select {
	case <-zero:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
