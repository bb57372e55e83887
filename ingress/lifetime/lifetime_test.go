package lifetime

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

var (
	errOver    = fmt.Errorf("over: %w", context.Canceled)
	errTooLong = fmt.Errorf("too long: %w", context.DeadlineExceeded)
)

func receive(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came in 10 s")
	}
}

func newContext(t testing.TB, parent context.Context) *Context {
	t.Helper()
	x := new(Context)
	x.Begin(parent)
	t.Cleanup(func() { x.End(errOver) })
	return x
}

func TestContextEndsWithItsParent(t *testing.T) {
	cause := errors.New("gone")
	for name, wrap := range map[string]func(context.Context) context.Context{
		"of the standard library": func(c context.Context) context.Context { return c },
		"of this package":         func(c context.Context) context.Context { return newContext(t, c) },
	} {
		parent, cancel := context.WithCancelCause(t.Context())
		x := newContext(t, wrap(parent))
		child, stop := context.WithCancel(x)
		defer stop()
		ran := make(chan struct{})
		context.AfterFunc(x, func() { close(ran) })
		if x.Err() != nil {
			t.Fatal("ended from the beginning")
		}
		cancel(cause)
		receive(t, x.Done())
		receive(t, child.Done())
		receive(t, ran)
		if context.Cause(x) != cause || context.Cause(child) != cause {
			t.Errorf("%s: causes %v, %v", name, context.Cause(x), context.Cause(child))
		}
	}
}

func TestContextIsCancelledOnce(t *testing.T) {
	x := newContext(t, t.Context())
	child, stop := context.WithCancel(x)
	defer stop()
	done := x.Done()
	x.End(errTooLong)
	x.End(errOver)
	receive(t, done)
	receive(t, child.Done())
	if x.Err() != errTooLong || context.Cause(x) != errTooLong || !errors.Is(context.Cause(child), context.DeadlineExceeded) {
		t.Errorf("%v, %v, child %v", x.Err(), context.Cause(x), context.Cause(child))
	}
	late := newContext(t, x)
	receive(t, late.Done())
	ran := make(chan struct{})
	if stop := x.AfterFunc(func() { close(ran) }); stop() {
		t.Error("what runs was stopped")
	}
	receive(t, ran)
}

func TestContextFunctionsThatAreStopped(t *testing.T) {
	x := newContext(t, t.Context())
	var ran atomic.Int32
	f := func() { ran.Add(1) }
	stop1 := x.AfterFunc(f)
	if !stop1() {
		t.Error("not stopped")
	}
	done := make(chan struct{})
	x.AfterFunc(func() { close(done) })
	if stop1() { // of a place that is another's now
		t.Error("stopped twice")
	}
	stop2 := x.AfterFunc(f)
	if !stop2() || stop2() {
		t.Error("the second function")
	}
	x.End(errOver)
	receive(t, done)
	if ran.Load() != 0 {
		t.Error("a stopped function ran")
	}
}

// A context alone ends by End and has its parent's values, and nothing of a parent that ends.
func TestContextAlone(t *testing.T) {
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	var x Context
	x.BeginAlone(context.WithoutCancel(parent))
	cancel()
	if x.Err() != nil || x.Value(key{}) != "value" {
		t.Errorf("%v, value %v", x.Err(), x.Value(key{}))
	}
	ran := make(chan struct{})
	AfterFunc(&x, func() { close(ran) })
	x.End(context.Canceled)
	receive(t, ran)
	receive(t, x.Done())
	if context.Cause(&x) != context.Canceled {
		t.Errorf("cause %v", context.Cause(&x))
	}
}

func TestCanceled(t *testing.T) {
	cause := errors.New("the client is gone")
	err := Canceled(cause)
	if !errors.Is(err, cause) || !errors.Is(err, context.Canceled) || err.Error() != cause.Error() {
		t.Errorf("%v is not both", err)
	}
	if Canceled(errOver) != errOver {
		t.Error("wrapped twice")
	}
}
