package h1

import (
	"context"
	"sync"
	"time"
)

// requestContext is a request's context. It ends when the handler has returned or
// the client is gone, of which it learns only if somebody wants to know: then the
// client is watched. It does what context.WithCancel does within the exchange's
// allocation, and makes a channel only for who asks for one.
type requestContext struct {
	base context.Context // whose values it has; it does not end
	c    *serverConn
	over bool // guarded by watch.mu

	mu     sync.Mutex
	err    error
	done   chan struct{} // nil: nobody has asked
	first  func()        // to be called at the end; nil = none
	firsts int           // how many first has been
	others map[*func()]struct{}
}

// afterFuncer is a context that calls functions at its end at less cost than
// context.AfterFunc, which uses it too.
type afterFuncer interface {
	AfterFunc(f func()) (stop func() bool)
}

// afterEnd is context.AfterFunc without the context that it makes, where it can be
// had. It returns nil if ctx never ends.
func afterEnd(ctx context.Context, f func()) (stop func() bool) {
	if a, ok := ctx.(afterFuncer); ok {
		return a.AfterFunc(f)
	}
	if ctx.Done() == nil {
		return nil
	}
	return context.AfterFunc(ctx, f)
}

// stop ends the context.
func (x *requestContext) stop() {
	x.mu.Lock()
	if x.err != nil {
		x.mu.Unlock()
		return
	}
	x.err = context.Canceled
	if x.done != nil {
		close(x.done)
	}
	first, others := x.first, x.others
	x.first, x.others = nil, nil
	x.mu.Unlock()
	if first != nil {
		go first()
	}
	for f := range others {
		go (*f)()
	}
}

func (x *requestContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (x *requestContext) Value(key any) any           { return x.base.Value(key) }

func (x *requestContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (x *requestContext) Done() <-chan struct{} {
	x.c.watch.start(x)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done == nil {
		if x.err != nil {
			return closedChan
		}
		x.done = make(chan struct{})
	}
	return x.done
}

// AfterFunc calls f on its own goroutine when the context has ended; stop says
// whether it has kept that from happening.
func (x *requestContext) AfterFunc(f func()) (stop func() bool) {
	x.c.watch.start(x)
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.err != nil:
		go f()
		return func() bool { return false }
	case x.first == nil:
		x.first = f
		x.firsts++
		n := x.firsts
		return func() bool { return x.dropFirst(n) }
	}
	if x.others == nil {
		x.others = make(map[*func()]struct{})
	}
	other := new(func())
	*other = f
	x.others[other] = struct{}{}
	return func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		_, ok := x.others[other]
		delete(x.others, other)
		return ok
	}
}

func (x *requestContext) dropFirst(n int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.first == nil || x.firsts != n {
		return false
	}
	x.first = nil
	return true
}
