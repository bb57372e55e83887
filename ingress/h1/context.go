package h1

import (
	"context"

	"github.com/adit-mesh/adit/ingress/lifetime"
)

// requestContext is a request's context. It ends when the handler has returned or
// the client is gone, of which it learns only if somebody wants to know: then the
// client is watched.
type requestContext struct {
	lifetime.Context
	c    *serverConn
	over bool // guarded by watch.mu
}

// stop ends the context.
func (x *requestContext) stop() { x.End(context.Canceled) }

// Done is closed at the end.
func (x *requestContext) Done() <-chan struct{} {
	x.c.watch.start(x)
	return x.Context.Done()
}

// AfterFunc calls f on its own goroutine when the context has ended; stop says
// whether it has kept that from happening.
func (x *requestContext) AfterFunc(f func()) (stop func() bool) {
	x.c.watch.start(x)
	return x.Context.AfterFunc(f)
}
