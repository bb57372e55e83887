package proxy

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var exchanges = sync.Pool{New: func() any { return new(Exchange) }}

// NewExchange returns an empty Exchange. Serve and Refuse take it over and give it
// back when they have recorded it: who made it does not touch it again.
func NewExchange() *Exchange { return exchanges.Get().(*Exchange) }

// transaction is one request while it is served. Only the goroutine that serves it
// uses it.
type transaction struct {
	p    *Proxy
	w    http.ResponseWriter
	r    *http.Request
	rule *Rule // nil with Refuse
	x    *Exchange

	backend *Backend
	cors    *CORS
	origin  string
	body    *clientBody // nil: none
	upgrade string      // the protocol that the client wants to change to
	// connect says that upgrade came by extended CONNECT (RFC 8441, RFC 9220).
	connect bool
	grpc    bool
	// started says that the header of an answer was sent, torn that the answer
	// cannot be brought to its end.
	started, torn bool
	traced        bool // the request has headers of tracing
	values        []string
	sticky        sticky
}

var transactions = sync.Pool{New: func() any { return new(transaction) }}

func (p *Proxy) begin(w http.ResponseWriter, r *http.Request, rule *Rule, x *Exchange) *transaction {
	t := transactions.Get().(*transaction)
	*t = transaction{p: p, w: w, r: r, rule: rule, x: x}
	if x.Start.IsZero() {
		x.Start = time.Now()
	}
	x.Rule = rule
	x.Method, x.Host = r.Method, r.Host
	x.Path = r.RequestURI
	if !strings.HasPrefix(x.Path, "/") {
		x.Path = r.URL.RequestURI() // absolute form, or none
	}
	x.Proto = protoName(r)
	if !hasBody(r) {
		x.RequestTime = 1 // at once
	}
	t.grpc = isGRPC(r.Header)
	if p.begun != nil {
		p.begun(x)
	}
	return t
}

// end records the request and lets everything of it go. It runs also if a server's
// ResponseWriter panics.
func (t *transaction) end() {
	x := t.x
	if t.body != nil {
		t.body.giveUp()
		x.Received = t.body.received.Load()
		if ended := t.body.ended.Load(); ended > 0 {
			x.RequestTime = time.Duration(ended)
		}
	}
	x.Duration = time.Since(x.Start)
	x.RequestHeader = t.r.Header
	x.RespHeader = t.w.Header()
	torn := t.torn
	if t.p.record != nil {
		t.p.record(x)
	}
	*x = Exchange{}
	exchanges.Put(x)
	*t = transaction{}
	transactions.Put(t)
	if torn {
		panic(http.ErrAbortHandler)
	}
}

// protoName does not use r.Proto, which is another protocol's with extended
// CONNECT.
func protoName(r *http.Request) string {
	switch {
	case r.ProtoMajor == 3:
		return "HTTP/3"
	case r.ProtoMajor == 2:
		return "HTTP/2"
	case r.ProtoMinor == 0:
		return "HTTP/1.0"
	}
	return "HTTP/1.1"
}

// clock gives the Date header of the current second without formatting it for each
// answer.
type clock struct{ now atomic.Pointer[second] }

type second struct {
	unix int64
	text []string
}

func (c *clock) date(now time.Time) []string {
	unix := now.Unix()
	if s := c.now.Load(); s != nil && s.unix == unix {
		return s.text
	}
	s := &second{unix, []string{now.UTC().Format(http.TimeFormat)}}
	c.now.Store(s)
	return s.text[:1:1]
}
