package proxy

import (
	"context"
	"net/http/httptrace"
	"sync"
	"time"
)

// exchangeContext is the context of one attempt. It ends with its parent, or when
// it is cancelled. It does what context.WithCancelCause and httptrace.WithClientTrace
// do, in one struct, and without a channel unless somebody asks for one: a request
// that is over in a millisecond spends a tenth of that on contexts otherwise.
//
// Err is the cause itself: either context.Canceled or one that wraps it or
// context.DeadlineExceeded.
type exchangeContext struct {
	parent context.Context
	trace  httptrace.ClientTrace

	mu      sync.Mutex
	err     error
	done    chan struct{} // nil: nobody has asked
	first   func()        // to be called at the end; nil: none
	firsts  int           // how many first has been
	others  map[*func()]struct{}
	release func() bool // of the parent
}

// afterFuncer is a context that calls functions at its end at less cost than
// context.AfterFunc.
type afterFuncer interface {
	AfterFunc(f func()) (stop func() bool)
}

// begin ties x to parent.
func (x *exchangeContext) begin(parent context.Context) {
	x.parent = parent
	var release func() bool
	if p, ok := parent.(afterFuncer); ok {
		release = p.AfterFunc(x.parentEnded)
	} else {
		release = context.AfterFunc(parent, x.parentEnded)
	}
	x.mu.Lock()
	x.release = release
	x.mu.Unlock()
}

func (x *exchangeContext) parentEnded() { x.cancel(context.Cause(x.parent)) }

// cancel ends the context. The first cause counts.
func (x *exchangeContext) cancel(cause error) {
	x.mu.Lock()
	if x.err != nil {
		x.mu.Unlock()
		return
	}
	x.err = cause
	if x.done != nil {
		close(x.done)
	}
	first, others, release := x.first, x.others, x.release
	x.first, x.others = nil, nil
	x.mu.Unlock()
	if release != nil {
		release()
	}
	if first != nil {
		go first()
	}
	for f := range others {
		go (*f)()
	}
}

// Deadline is the parent's: those of this package may yet be called off.
func (x *exchangeContext) Deadline() (time.Time, bool) { return x.parent.Deadline() }

func (x *exchangeContext) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func (x *exchangeContext) Done() <-chan struct{} {
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

func (x *exchangeContext) Value(key any) any {
	if key == traceKey && x.trace.Got1xxResponse != nil {
		return &x.trace
	}
	return x.parent.Value(key)
}

// AfterFunc calls f on its own goroutine when the context has ended, as
// context.AfterFunc does, which uses this.
func (x *exchangeContext) AfterFunc(f func()) (stop func() bool) {
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
	x.others[&f] = struct{}{}
	return func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		_, ok := x.others[&f]
		delete(x.others, &f)
		return ok
	}
}

func (x *exchangeContext) dropFirst(n int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.first == nil || x.firsts != n {
		return false
	}
	x.first = nil
	return true
}

// traceKey is what httptrace looks its ClientTrace up by.
var traceKey = func() any {
	var p keyProbe
	httptrace.ContextClientTrace(&p)
	return p.key
}()

// keyProbe is a context that remembers what it was asked for.
type keyProbe struct {
	context.Context
	key any
}

func (p *keyProbe) Value(key any) any {
	p.key = key
	return nil
}
