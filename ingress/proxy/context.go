package proxy

import (
	"context"
	"net/http/httptrace"

	"github.com/adit-mesh/adit/ingress/lifetime"
)

// exchangeContext is the context of one attempt: what context.WithCancelCause and
// httptrace.WithClientTrace do, in one struct.
//
// Err is the cause itself: either context.Canceled or one that wraps it or
// context.DeadlineExceeded.
type exchangeContext struct {
	lifetime.Context
	trace httptrace.ClientTrace
}

func (x *exchangeContext) Value(key any) any {
	if key == traceKey && x.trace.Got1xxResponse != nil {
		return &x.trace
	}
	return x.Context.Value(key)
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
