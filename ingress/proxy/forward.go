package proxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// spareEndpoints is how many further endpoints are tried without being told to
// retry, if a connection to the first cannot be had: nothing was sent, so nothing
// can happen twice.
const spareEndpoints = 2

// forwardTo sends the request to an endpoint of cluster, again to another one as
// the rule's retries say, and the answer to the client.
func (t *transaction) forwardTo(cluster *upstream.Cluster) {
	lim := limitsOf(t.rule, t.grpc)
	ctx := t.r.Context()
	if lim.request > 0 {
		whole := new(exchangeContext)
		whole.Begin(ctx)
		defer whole.End(errServed)
		d := deadline{ctx: whole, cause: errRequestTimeout}
		d.start(lim.request)
		defer d.stop()
		ctx = whole
	}
	t.mirror()
	var avoid []*upstream.Host
	for n := 1; ; n++ {
		host, err := cluster.Pick(upstream.Pick{Prefer: t.sticky.endpoint, Avoid: avoid})
		if err != nil {
			t.refuse(http.StatusServiceUnavailable, flagNoHealthy, err.Error())
			return
		}
		a := &attempt{t: t, n: n, host: host}
		res, err := a.send(ctx, cluster, lim)
		if err == nil && !t.retriesStatus(res.StatusCode, n) {
			t.answered(a, res)
			a.end(errServed)
			return
		}
		if err != nil && !t.retriesError(err, n) {
			t.failed(&a.ctx, err, n)
			a.end(errServed)
			return
		}
		if res != nil {
			_ = res.Body.Close()
		}
		a.end(errAttemptOver)
		avoid = append(avoid, host)
		if t.rule.Retry != nil && !wait(ctx, backoff(t.rule.Retry.Backoff, n)) {
			t.failed(ctx, context.Cause(ctx), n)
			return
		}
	}
}

// attempt is one request to one endpoint. It is one allocation, and not used
// again: connections may hold on to parts of it after it was given up.
type attempt struct {
	t    *transaction
	n    int
	host *upstream.Host
	sent time.Time

	// ctx is the attempt's own, so that giving it up is no more than ending that.
	ctx exchangeContext
	req http.Request
	// try is the time of the whole attempt, header that of waiting for an answer.
	try, header deadline
	hints       hints
	body        attemptBody
}

// send returns the header of the endpoint's answer.
func (a *attempt) send(ctx context.Context, cluster *upstream.Cluster, lim limits) (*http.Response, error) {
	t := a.t
	t.x.Attempts = a.n
	t.x.Upstream = a.host.String()
	t.x.UpstreamTime, t.x.ResponseTime = 0, 0
	a.ctx.Begin(ctx)
	if lim.backend > 0 {
		a.try = deadline{ctx: &a.ctx, cause: errBackendTimeout}
		a.try.start(lim.backend)
	}
	a.header = deadline{ctx: &a.ctx, cause: errHeaderTimeout}
	a.hints.w = t.w
	if t.upgrade == "" && t.r.ProtoAtLeast(1, 1) {
		a.ctx.trace.Got1xxResponse = a.hints.pass
	}
	a.req = *t.r.WithContext(&a.ctx)
	a.req.Close = false // is of the client's connection
	if a.n > 1 {
		// A connection may still be writing the header of the attempt before.
		a.req.Header = a.req.Header.Clone()
		if _, told := a.req.Header["X-Envoy-Attempt-Count"]; told {
			a.req.Header["X-Envoy-Attempt-Count"] = []string{strconv.Itoa(a.n)}
		}
	}
	if t.connect {
		t.asUpgrade(&a.req)
	}
	switch {
	case t.body != nil:
		var sent func()
		if lim.header > 0 {
			sent = func() { a.header.start(lim.header) }
		}
		t.body.begin(sent)
		a.body.b, a.body.from, a.body.to = t.body, t.r, &a.req
		a.req.Trailer = announced(t.r.Trailer)
		a.req.Body = &a.body
	case lim.header > 0:
		a.header.start(lim.header)
	}
	a.sent = time.Now()
	res, err := cluster.RoundTrip(&a.req, a.host)
	a.hints.close()
	if err != nil {
		return nil, err
	}
	t.x.UpstreamMesh = a.host.InMesh()
	now := time.Now()
	t.x.UpstreamTime = now.Sub(a.sent)
	t.x.ResponseTime = now.Sub(t.x.Start)
	a.header.stop()
	return res, nil
}

// announced returns the trailers that are to come, without those that must not, and
// without claims: some backends merge them into the header.
func announced(trailer http.Header) http.Header {
	if len(trailer) == 0 {
		return nil
	}
	own := make(http.Header, len(trailer))
	for name := range trailer {
		if !forbiddenTrailer(name) && !isClaim(name) {
			own[name] = nil
		}
	}
	return own
}

// end lets go of the attempt: what is still under way is reset.
func (a *attempt) end(cause error) {
	a.header.stop()
	a.try.stop()
	a.body.over.Store(true)
	a.ctx.End(cause)
}

// retriesStatus says whether an answer is dropped for another attempt.
func (t *transaction) retriesStatus(status, n int) bool {
	rt := t.rule.Retry
	if rt == nil || status < 400 || !slices.Contains(rt.Codes, status) {
		return false
	}
	if n > rt.Attempts {
		if n > 1 {
			t.x.Flags = flagRetriesExhausted
		}
		return false
	}
	return t.resendable()
}

// retriesError says whether the request is sent again after err. A request that the
// backend may have acted upon is, only if that does no harm (RFC 9110, 9.2.2).
func (t *transaction) retriesError(err error, n int) bool {
	rt := t.rule.Retry
	if t.r.Context().Err() != nil || t.body != nil && t.body.failure.Load() != nil {
		return false
	}
	var ue *upstream.Error
	if !errors.As(err, &ue) {
		return false
	}
	switch ue.Kind {
	case upstream.Invalid, upstream.RequestBody, upstream.BadRequest:
		return false // would be the same again
	}
	if rt == nil {
		unreached := ue.Kind == upstream.Connect || ue.Kind == upstream.ConnectTimeout
		return n <= spareEndpoints && !ue.Sent && unreached && t.resendable()
	}
	if n > rt.Attempts || errors.Is(err, errRequestTimeout) {
		return false
	}
	return t.resendable() && (!ue.Processed || idempotent(t.r.Method))
}

// resendable says whether what the request was is still there.
func (t *transaction) resendable() bool { return t.body == nil || t.body.replayable() }

func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// backoff is the time before attempt n+1: at least least, doubled each time up to
// tenfold, and up to as much again by chance, so that many clients do not come back
// at once.
func backoff(least time.Duration, n int) time.Duration {
	if least <= 0 {
		least = 25 * time.Millisecond // Envoy's
	}
	least = min(least, time.Hour) // which no client waits for, and tenfold is a duration
	d := least << min(n-1, 4)
	d = min(d, 10*least)
	return d + rand.N(d)
}

// wait returns false if ctx ended before.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// failed answers for a backend that did not.
func (t *transaction) failed(ctx context.Context, err error, n int) {
	if t.body != nil {
		if f := t.body.failure.Load(); f != nil {
			t.clientFailed(*f)
			return
		}
	}
	if t.r.Context().Err() != nil {
		t.x.Detail = "the client left before the answer"
		t.clientGone()
		return
	}
	var ue *upstream.Error
	status, flags := http.StatusServiceUnavailable, flagUpstreamClosed
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		status, flags = http.StatusGatewayTimeout, flagTimeout
	case errors.As(err, &ue) && ue.Kind == upstream.RequestBody:
		// Not the client's fault, or it were told above: the body grew longer than
		// what is kept while another attempt was begun.
		flags = flagLocalReset
	case errors.As(err, &ue):
		status, flags = ue.Status(), ue.Flag()
	}
	if n > 1 && t.rule.Retry != nil && n > t.rule.Retry.Attempts {
		t.x.Flags = flagRetriesExhausted
	}
	t.refuse(status, flags, err.Error())
}

// clientFailed notes a body that the client did not bring to its end.
func (t *transaction) clientFailed(err error) {
	t.x.Detail = "request body: " + err.Error()
	var tooLarge *http.MaxBytesError
	var slow interface{ Timeout() bool }
	switch {
	case errors.As(err, &tooLarge):
		t.refuse(http.StatusRequestEntityTooLarge, flagClientProtocol, "")
	case errors.As(err, &slow) && slow.Timeout() && t.r.Context().Err() == nil:
		t.refuse(http.StatusRequestTimeout, flagIdle, "")
	case t.r.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.Canceled):
		t.clientGone()
	default:
		t.refuse(http.StatusBadRequest, flagClientProtocol, "")
	}
}
