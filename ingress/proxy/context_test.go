package proxy

import (
	"context"
	"net/http/httptrace"
	"net/textproto"
	"testing"
)

func TestContextCarriesTrace(t *testing.T) {
	x := new(exchangeContext)
	x.Begin(t.Context())
	defer x.End(errServed)
	if httptrace.ContextClientTrace(x) != nil {
		t.Error("a trace from nowhere")
	}
	y := new(exchangeContext)
	y.trace.Got1xxResponse = func(int, textproto.MIMEHeader) error { return nil }
	y.Begin(context.WithValue(t.Context(), traceKey, 1))
	defer y.End(errServed)
	child, cancel := context.WithCancel(y)
	defer cancel()
	if got := httptrace.ContextClientTrace(child); got != &y.trace {
		t.Errorf("trace %v", got)
	}
}
