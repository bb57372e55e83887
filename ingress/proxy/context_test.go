package proxy

import (
	"context"
	"errors"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
	"testing"
)

func newContext(t testing.TB, parent context.Context) *exchangeContext {
	t.Helper()
	x := new(exchangeContext)
	x.begin(parent)
	t.Cleanup(func() { x.cancel(errServed) })
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
	x.cancel(errHeaderTimeout)
	x.cancel(errServed)
	receive(t, done)
	receive(t, child.Done())
	if x.Err() != errHeaderTimeout || context.Cause(x) != errHeaderTimeout || !errors.Is(context.Cause(child), context.DeadlineExceeded) {
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
	x.cancel(errServed)
	receive(t, done)
	if ran.Load() != 0 {
		t.Error("a stopped function ran")
	}
}

func TestContextCarriesTrace(t *testing.T) {
	x := newContext(t, t.Context())
	if httptrace.ContextClientTrace(x) != nil {
		t.Error("a trace from nowhere")
	}
	y := new(exchangeContext)
	y.trace.Got1xxResponse = func(int, textproto.MIMEHeader) error { return nil }
	y.begin(context.WithValue(t.Context(), traceKey, 1))
	defer y.cancel(errServed)
	child, cancel := context.WithCancel(y)
	defer cancel()
	if got := httptrace.ContextClientTrace(child); got != &y.trace {
		t.Errorf("trace %v", got)
	}
}
