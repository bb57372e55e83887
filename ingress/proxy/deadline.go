package proxy

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// DefaultTimeout is how long a backend may take to begin its answer after the
// request has been sent wholly, if the rule says nothing of timeouts.
const DefaultTimeout = 15 * time.Second

// The causes of a context that ended by time.
var (
	errHeaderTimeout  = fmt.Errorf("no answer within the default timeout of %v: %w; set timeouts.request in the route if the backend needs longer", DefaultTimeout, context.DeadlineExceeded)
	errRequestTimeout = fmt.Errorf("timeouts.request of the route is over: %w", context.DeadlineExceeded)
	errBackendTimeout = fmt.Errorf("timeouts.backendRequest of the route is over: %w", context.DeadlineExceeded)
	errServed         = fmt.Errorf("the exchange is over: %w", context.Canceled)
)

// deadline ends a context at a time that may be set later, or called off.
type deadline struct {
	ctx   *exchangeContext
	cause error

	mu    sync.Mutex
	alarm *alarm
	off   bool
}

// alarm is a timer that is used again: nearly all are stopped long before their
// time.
type alarm struct {
	timer *time.Timer
	d     *deadline
}

var alarms = sync.Pool{New: func() any {
	a := new(alarm)
	a.timer = time.AfterFunc(time.Hour, a.ring)
	a.timer.Stop()
	return a
}}

func (a *alarm) ring() { a.d.ctx.End(a.d.cause) }

// start sets the time, once.
func (d *deadline) start(after time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.off && d.alarm == nil {
		d.alarm = alarms.Get().(*alarm)
		d.alarm.d = d
		d.alarm.timer.Reset(after)
	}
}

// stop calls it off. The zero value is off.
func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.off = true
	if a := d.alarm; a != nil && a.timer.Stop() {
		// It has not rung, and will not.
		a.d, d.alarm = nil, nil
		alarms.Put(a)
	}
}

// limits are the timeouts of a rule: zero is none.
type limits struct {
	request, backend time.Duration
	header           time.Duration // until the answer begins, from when the request is sent
}

// limitsOf says which timeouts hold for a rule (GEP-1742). The default is for
// rules that say nothing. gRPC has deadlines of its own, and streams on which the
// server may be silent for long before its first message.
func limitsOf(rule *Rule, grpc bool) limits {
	l := limits{request: max(rule.RequestTimeout, 0), backend: max(rule.BackendTimeout, 0)}
	if rule.RequestTimeout == 0 && rule.BackendTimeout == 0 && !grpc && !rule.GRPC {
		l.header = DefaultTimeout
	}
	return l
}

// expected is what X-Envoy-Expected-Rq-Timeout-Ms tells the backend: the time of
// one attempt. Zero is no timeout.
func (l limits) expected() time.Duration {
	switch {
	case l.backend > 0:
		return l.backend
	case l.request > 0:
		return l.request
	}
	return l.header
}
