package h1

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
)

// within calls f with the context of a request while that is served, and returns
// when it is over.
func within(t *testing.T, f func(ctx context.Context, leave func())) {
	t.Helper()
	type key struct{}
	left := make(chan net.Conn, 1)
	base := context.WithValue(t.Context(), key{}, "value")
	over := make(chan struct{})
	addr := serveContext(t, base, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		if r.Context().Value(key{}) != "value" {
			t.Error("the context has not the values of the server's")
		}
		c := <-left
		f(r.Context(), func() { c.Close() })
	}))
	c := dial(t, addr)
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	left <- c
	<-over
}

func TestRequestContext(t *testing.T) {
	t.Run("calls each function once", func(t *testing.T) {
		var calls atomic.Int32
		called := func() { calls.Add(1) }
		var stopped atomic.Int32
		within(t, func(ctx context.Context, leave func()) {
			first := ctx.(*requestContext).AfterFunc(func() { stopped.Add(1) })
			if !first() || first() {
				t.Error("stop should say once that it has stopped the function")
			}
			again := ctx.(*requestContext).AfterFunc(called)
			if first() {
				t.Error("stop of a function stops the one that took its place")
			}
			other := ctx.(*requestContext).AfterFunc(func() { stopped.Add(1) })
			context.AfterFunc(ctx, called)
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			if !other() || other() {
				t.Error("stop of the second function")
			}
			leave()
			<-child.Done()
			if err := context.Cause(child); !errors.Is(err, context.Canceled) {
				t.Errorf("cause %v", err)
			}
			eventually(t, "both functions are called", func() bool { return calls.Load() == 2 })
			if again() {
				t.Error("stop says to have stopped what was called")
			}
			late := make(chan struct{})
			if stop := ctx.(*requestContext).AfterFunc(func() { close(late) }); stop() {
				t.Error("stop says to have stopped what is called at once")
			}
			<-late
		})
		if calls.Load() != 2 || stopped.Load() != 0 {
			t.Errorf("%d calls, and %d of what was stopped", calls.Load(), stopped.Load())
		}
	})
	t.Run("ends with the handler", func(t *testing.T) {
		var kept context.Context
		ended := make(chan struct{})
		within(t, func(ctx context.Context, _ func()) {
			if ctx.Err() != nil {
				t.Error(ctx.Err())
			}
			if _, ok := ctx.Deadline(); ok {
				t.Error("a deadline out of nowhere")
			}
			kept = ctx
			context.AfterFunc(ctx, func() { close(ended) })
		})
		<-ended
		<-kept.Done()
		if !errors.Is(kept.Err(), context.Canceled) {
			t.Error(kept.Err())
		}
	})
	t.Run("asked for when it is over", func(t *testing.T) {
		var kept context.Context
		within(t, func(ctx context.Context, _ func()) { kept = ctx })
		eventually(t, "the end of the context", func() bool { return kept.Err() != nil })
		<-kept.Done()
	})
}
