package proxy

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// Config is what a Proxy is made of.
type Config struct {
	// Set has the clusters that rules refer to.
	Set *upstream.Set
	// Begin is called for each request when Serve or Refuse begins. nil = nobody
	// wants to know.
	Begin func(*Exchange)
	// Record is called once for each request, after its last byte, on the
	// goroutine that served it. The Exchange, and the headers in it, are reused
	// as soon as it returns: it keeps nothing of them but strings. nil = nobody
	// wants to know.
	Record func(*Exchange)
	Logger *slog.Logger // nil = slog.DiscardHandler
	// ServerName is the server header of all answers. "" = "adit".
	ServerName string
	// TunnelIdle is how long an upgraded connection (WebSocket) may be silent in
	// both directions. Zero means one hour, negative for ever.
	TunnelIdle time.Duration
	// MaxMirrors bounds the mirrored requests that are under way: what is beyond
	// is not mirrored. Zero means 256.
	MaxMirrors int
	// MirrorTimeout bounds one mirrored request. Zero means 30 s.
	MirrorTimeout time.Duration
}

// Proxy carries out rules. Its methods may be used by many goroutines.
type Proxy struct {
	set    *upstream.Set
	begun  func(*Exchange)
	record func(*Exchange)
	log    *slog.Logger
	server []string
	clock  clock

	tunnelIdle time.Duration

	// mirrors holds a token for each mirrored request that is under way; ctx ends
	// them, wg waits for them.
	mirrors       chan struct{}
	mirrorTimeout time.Duration
	ctx           context.Context
	stop          context.CancelFunc
	wg            sync.WaitGroup
}

// New returns a Proxy. Close ends what it does in the background.
func New(c Config) *Proxy {
	p := &Proxy{set: c.Set, begun: c.Begin, record: c.Record, log: c.Logger, server: []string{c.ServerName},
		tunnelIdle: c.TunnelIdle, mirrorTimeout: c.MirrorTimeout}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if c.ServerName == "" {
		p.server = []string{"adit"}
	}
	if p.tunnelIdle == 0 {
		p.tunnelIdle = time.Hour
	}
	if p.mirrorTimeout == 0 {
		p.mirrorTimeout = 30 * time.Second
	}
	if c.MaxMirrors == 0 {
		c.MaxMirrors = 256
	}
	p.mirrors = make(chan struct{}, c.MaxMirrors)
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// Close gives mirrored requests that are under way until ctx ends, and then aborts
// them. Requests being served are the servers' to wait for, before.
func (p *Proxy) Close(ctx context.Context) {
	defer p.stop()
	defer context.AfterFunc(ctx, p.stop)()
	p.wg.Wait()
}

// Serve carries out rule for a request and records it. It changes r in place, and
// takes x over, of which the caller has filled in Client.
//
// The path that the rule was found by is that of r.URL, and is what the backend is
// asked for. r.Context ends when the client is gone.
//
// If an answer has begun and cannot be completed, Serve panics with
// http.ErrAbortHandler: the caller resets the stream, or closes the connection.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, rule *Rule, x *Exchange) {
	t := p.begin(w, r, rule, x)
	defer t.end()
	t.serve()
}

// Refuse answers a request that has no rule, for the reason in flags and detail,
// and records it. It takes x over as Serve does.
func (p *Proxy) Refuse(w http.ResponseWriter, r *http.Request, x *Exchange, status int, flags, detail string) {
	t := p.begin(w, r, nil, x)
	defer t.end()
	t.x.Flags, t.x.Detail = "", ""
	t.refuse(status, flags, detail)
}

func (t *transaction) serve() {
	r, rule := t.r, t.rule
	if !t.admit() {
		return
	}
	t.cors, t.origin = rule.Filters.CORS, headerValue(r.Header, "Origin")
	if t.filtered(&rule.Filters) {
		return
	}
	if len(rule.Backends) == 0 {
		t.refuse(http.StatusInternalServerError, "", "the rule has no backends")
		return
	}
	t.backend = t.chooseBackend()
	b := t.backend
	if b == nil {
		t.refuse(http.StatusInternalServerError, "", "all backends of the rule have weight 0")
		return
	}
	if b.Cluster == "" {
		status := b.Status
		if status == 0 {
			status = http.StatusInternalServerError
		}
		t.refuse(status, "", b.Reason)
		return
	}
	t.x.Cluster = b.Cluster
	if b.Filters.CORS != nil {
		t.cors = b.Filters.CORS
	}
	if t.filtered(&b.Filters) {
		return
	}
	cluster := t.p.set.Cluster(b.Cluster)
	if cluster == nil {
		t.refuse(http.StatusServiceUnavailable, flagNoCluster, "cluster "+b.Cluster+" is not configured")
		return
	}
	if !t.connect && !t.takeBody() {
		return
	}
	t.outgoing()
	t.forwardTo(cluster)
}

// takeBody readies the request's body, if it has one.
func (t *transaction) takeBody() bool {
	src, err := bodyOf(t.r)
	if err != nil {
		t.clientFailed(err)
		return false
	}
	if src == nil {
		t.x.RequestTime = 1
		return true
	}
	t.body = &clientBody{src: src, start: t.x.Start, keep: t.rule.Retry != nil && t.rule.Retry.Attempts > 0}
	if t.r.ProtoMajor == 1 {
		// The backend may answer, and we pass it on, before the upload is over.
		_ = http.NewResponseController(t.w).EnableFullDuplex()
	}
	return true
}

// admit answers requests that no proxy like this one may forward, and notes
// upgrades.
func (t *transaction) admit() bool {
	r := t.r
	if r.Method == http.MethodConnect {
		switch protocol := connectProtocol(r); protocol {
		case "":
			t.w.Header()["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
			t.refuse(http.StatusMethodNotAllowed, "", "CONNECT: this is no forward proxy")
			return false
		case "websocket":
			t.upgrade, t.connect = protocol, true
		default:
			t.refuse(http.StatusNotImplemented, "", "extended CONNECT is for websocket only")
			return false
		}
	} else {
		t.upgrade = upgradeToken(r)
	}
	if e := r.Header["Expect"]; len(e) > 0 {
		if len(e) > 1 || !equalFold(e[0], "100-continue") {
			t.refuse(http.StatusExpectationFailed, "", "Expect other than 100-continue")
			return false
		}
		// The server says 100 when the body is first read, and that is when there
		// is a connection to a backend to send it on.
		delete(r.Header, "Expect")
	}
	return true
}

// filtered carries out those filters that answer themselves.
func (t *transaction) filtered(f *Filters) bool {
	if f.Invalid != "" {
		t.refuse(http.StatusInternalServerError, "", f.Invalid)
		return true
	}
	if f.CORS != nil && isPreflight(t.r) {
		t.preflight(f.CORS)
		return true
	}
	if rd := f.Redirect; rd != nil {
		t.redirect(rd)
		return true
	}
	return false
}

func (t *transaction) preflight(c *CORS) {
	if !c.allows(t.origin) {
		t.refuse(http.StatusForbidden, "", "CORS: the route does not allow the origin of this preflight")
		return
	}
	c.preflight(t.w.Header(), t.r)
	t.empty(http.StatusNoContent)
}

func (t *transaction) redirect(rd *Redirect) {
	to := rd.location(t.r, &t.x.Client, t.rule.Prefix)
	if !sendable(to) {
		t.refuse(http.StatusBadRequest, flagClientProtocol, "the redirect's Location would be malformed")
		return
	}
	status := rd.Status
	if status == 0 {
		status = http.StatusFound
	}
	t.w.Header()["Location"] = []string{to}
	t.empty(status)
}

// chooseBackend returns the session's backend, or one by weight; nil if nobody has
// any weight.
func (t *transaction) chooseBackend() *Backend {
	bs := t.rule.Backends
	if t.rule.Persistence != nil {
		if b := t.resume(); b != nil {
			return b
		}
	}
	if len(bs) == 1 && bs[0].Weight > 0 {
		return &bs[0]
	}
	sum := shares(bs)
	if sum == 0 {
		return nil
	}
	return &bs[choose(bs, rand.Uint64N(sum))]
}

// outgoing makes of the client's request the backend's.
func (t *transaction) outgoing() {
	r, h := t.r, t.r.Header
	trusted := t.x.Client.Trust.trustsPeer(t.x.Client.Remote.Addr())
	t.sift(trusted)
	t.forward(trusted)
	t.trace()
	switch d := limitsOf(t.rule, t.grpc).expected(); {
	case d == DefaultTimeout:
		h["X-Envoy-Expected-Rq-Timeout-Ms"] = value15000
	case d > 0:
		t.set(h, "X-Envoy-Expected-Rq-Timeout-Ms", strconv.FormatInt(d.Milliseconds(), 10))
	case trusted:
		delete(h, "X-Envoy-Expected-Rq-Timeout-Ms")
	}
	h["X-Envoy-Attempt-Count"] = valueOne
	if t.x.Client.Early {
		h["Early-Data"] = valueOne // RFC 8470, 5.1: the backend may answer 425
	}
	rule, backend := &t.rule.Filters, &t.backend.Filters
	rule.RequestHeaders.apply(h)
	backend.RequestHeaders.apply(h)
	if rule.Rewrite != nil || backend.Rewrite != nil {
		t.rewrite(rule.Rewrite)
		t.rewrite(backend.Rewrite)
	}
	if t.body == nil && !t.connect {
		r.Body, r.ContentLength = http.NoBody, 0
		delete(h, "Content-Length")
	}
	if t.upgrade != "" {
		t.set(h, "Connection", "Upgrade")
		t.set(h, "Upgrade", t.upgrade)
	}
}

// rewrite changes host and path, and tells the backend what they were.
func (t *transaction) rewrite(rw *Rewrite) {
	if rw == nil {
		return
	}
	r := t.r
	if rw.Host != "" {
		if _, told := r.Header["X-Forwarded-Host"]; !told && sendable(r.Host) {
			t.set(r.Header, "X-Forwarded-Host", r.Host)
		}
		r.Host = rw.Host
	}
	if rw.Path.isZero() {
		return
	}
	if was := t.x.Path; sendable(was) {
		t.set(r.Header, "X-Envoy-Original-Path", was)
	}
	setPath(r.URL, rw.Path.replaced(rooted(r.URL.EscapedPath()), t.rule.Prefix))
}
