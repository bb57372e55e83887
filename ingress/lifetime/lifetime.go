// Package lifetime has the context of something short, such as a request: one struct, and a channel only if somebody asks for it.
//
// A request that is over in a fraction of a millisecond spends a tenth of that on context.WithCancel and context.AfterFunc, which make a
// channel, a map and closures for each of the contexts in a row. Contexts of this package are tied to one another, and by
// context.AfterFunc and context.WithCancel to others, without.
package lifetime

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A Context ends with its parent, or when End is called. Begin must come before anything else. It must not be copied.
type Context struct {
	parent context.Context

	mu      sync.Mutex
	err     error
	done    chan struct{} // nil: nobody has asked
	first   func()        // to be called at the end; nil: none
	firsts  int           // how many first has been
	others  map[*func()]struct{}
	release func() bool // of the parent
}

// afterFuncer is a context that calls functions at its end at less cost than context.AfterFunc.
type afterFuncer interface {
	AfterFunc(f func()) (stop func() bool)
}

// AfterFunc is context.AfterFunc, at less cost where ctx is of this package or contains one that is.
func AfterFunc(ctx context.Context, f func()) (stop func() bool) {
	if c, ok := ctx.(afterFuncer); ok {
		return c.AfterFunc(f)
	}
	if ctx.Done() == nil {
		return func() bool { return true } // it never ends
	}
	return context.AfterFunc(ctx, f)
}

// Begin ties x to parent.
func (x *Context) Begin(parent context.Context) {
	x.parent = parent
	release := AfterFunc(parent, x.parentEnded)
	x.mu.Lock()
	x.release = release
	x.mu.Unlock()
}

// BeginAlone makes x end by End only. Values come from parent.
func (x *Context) BeginAlone(parent context.Context) { x.parent = parent }

func (x *Context) parentEnded() { x.End(context.Cause(x.parent)) }

// Canceled makes of any error one that is context.Canceled too.
func Canceled(cause error) error {
	if errors.Is(cause, context.Canceled) {
		return cause
	}
	return &canceled{cause}
}

type canceled struct{ cause error }

func (e *canceled) Error() string   { return e.cause.Error() }
func (e *canceled) Unwrap() []error { return []error{e.cause, context.Canceled} }

// End ends the context; the first cause counts. Err is the cause itself, so that it should be context.Canceled,
// context.DeadlineExceeded or wrap one of them; see [Canceled].
func (x *Context) End(cause error) {
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

// Deadline is the parent's: whoever ends x by a timer may yet call that off.
func (x *Context) Deadline() (time.Time, bool) { return x.parent.Deadline() }

// Err is the cause of the end.
func (x *Context) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

var closedChan = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Done makes the channel when it is first asked for; Err needs none.
func (x *Context) Done() <-chan struct{} {
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

// Value is the parent's.
func (x *Context) Value(key any) any { return x.parent.Value(key) }

// AfterFunc calls f on its own goroutine when the context has ended, as context.AfterFunc does, which uses this.
func (x *Context) AfterFunc(f func()) (stop func() bool) {
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
	other := new(func()) // not &f, which would be an allocation for the first as well
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

func (x *Context) dropFirst(n int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.first == nil || x.firsts != n {
		return false
	}
	x.first = nil
	return true
}
