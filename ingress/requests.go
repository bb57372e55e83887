package ingress

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"github.com/quic-go/quic-go"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

// requests is the http.Handler of one connection, whatever its version of HTTP.
// It keeps what the connection was let in with, and looks the rest up for each
// request in what the port serves at that moment.
type requests struct {
	lp            *livePort
	remote, local netip.AddrPort
	// secure is what TLS let in: with SNI sni, under policy. tls may be nil if each
	// request brings its own.
	secure bool
	sni    string
	policy *policy
	tls    *tls.ConnectionState
	quic   *quic.Conn // nil over TCP
	active atomic.Int64
	turns  atomic.Int64
}

// turn differs from the last one unless the connection was idle meanwhile.
func (h *requests) turn() int64 {
	if h.active.Load() > 0 {
		return h.turns.Add(1)
	}
	return h.turns.Load()
}

// handler is what c's requests go to.
func (c *conn) handler(state *tls.ConnectionState) *requests {
	return &requests{
		lp: c.lp, remote: c.remote, local: c.local,
		secure: state != nil, sni: c.sni, policy: c.policy, tls: state,
	}
}

// refusal is an answer without a rule.
type refusal struct {
	status        int
	flags, detail string
}

var (
	badHost      = &refusal{http.StatusBadRequest, "DPE", "the host is not valid"}
	badPath      = &refusal{http.StatusBadRequest, "DPE", "the path is not valid"}
	noProxy      = &refusal{http.StatusMethodNotAllowed, "DPE", "CONNECT: this is no forward proxy"}
	noListener   = &refusal{http.StatusNotFound, "NR", "no listener has this host"}
	noRule       = &refusal{http.StatusNotFound, "NR", "no rule matches"}
	misdirected  = &refusal{http.StatusMisdirectedRequest, "NR", "the host belongs to another listener than the server name of the connection"}
	otherDemands = &refusal{http.StatusMisdirectedRequest, "NR", "the listener asks more of clients than it did when the connection was made"}
)

// siteFor finds the one listener that serves host: the most specific of the port
// that fits, and no other. On TLS it has to be the one that the handshake was for,
// or a client would get around another listener's certificate, or its demand for
// one (RFC 9110 section 15.5.20). was is the policy of the handshake.
func (x *index) siteFor(host string, secure bool, sni string, was *policy) (*site, *refusal) {
	table := &x.plain
	if secure {
		table = &x.secure
	}
	s, ok := table.get(host)
	if !ok {
		return nil, noListener
	}
	if !secure {
		return s, nil
	}
	if host != sni {
		if by, ok := table.get(sni); !ok || by != s {
			return s, misdirected
		}
	}
	switch {
	case s.Protocol != HTTPS || s.policy == nil:
		return s, misdirected // the listener is another since the handshake
	case !s.policy.satisfiedBy(was):
		return s, otherDemands
	}
	return s, nil
}

// ServeHTTP finds listener and rule, and hands over.
func (h *requests) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.active.Add(1)
	defer h.done()
	x := h.lp.index.Load()
	if h.quic != nil {
		if !h.ready(x, r) {
			return
		}
		delete(r.Header, "Host") // which agrees with :authority; h1 and h2 leave it out
		if g := h.lp.srv.limits.guard(w, r); g != nil {
			defer g.end()
			w = g
		}
	}
	host, ok := normaliseHost(r.Host)
	var (
		s  *site
		no *refusal = badHost
	)
	if ok {
		s, no = x.siteFor(host, h.secure, h.sni, h.policy)
	}
	e := proxy.NewExchange()
	h.fill(&e.Client, x, s, r)
	if no == nil {
		no = tidy(r)
	}
	if no == nil {
		rule, ok := x.match(s, host, r)
		if ok {
			h.lp.srv.cfg.Proxy.Serve(w, r, rule, e)
			return
		}
		no = noRule
	}
	if no.status == http.StatusMisdirectedRequest && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close") // the next one can be let in anew
	}
	h.lp.srv.cfg.Proxy.Refuse(w, r, e, no.status, no.flags, no.detail)
}

// done ends a request. A panic ends the connection or stream, and nothing else.
func (h *requests) done() {
	h.turns.Add(1)
	h.active.Add(-1)
	p := recover()
	if p == nil {
		return
	}
	if p != http.ErrAbortHandler {
		h.lp.srv.log.Error("a request panicked", "bind", h.lp.bind, "client", h.remote, "panic", p, "stack", string(debug.Stack()))
	}
	panic(http.ErrAbortHandler)
}

// match finds the rule of a request whose listener is s.
func (x *index) match(s *site, host string, r *http.Request) (*proxy.Rule, bool) {
	q := routeRequest(host, r)
	entry, ok := s.Routes.Match(&q)
	if !ok {
		return nil, false
	}
	return entry.Value, true
}

func routeRequest(host string, r *http.Request) route.Request {
	return route.Request{
		Host:     host,
		Path:     r.URL.EscapedPath(),
		RawQuery: r.URL.RawQuery,
		Method:   r.Method,
		Header:   r.Header,
	}
}

// fill tells of the connection and, if there is one, of the listener.
func (h *requests) fill(c *proxy.Client, x *index, s *site, r *http.Request) {
	if s != nil {
		*c = s.client
	} else {
		c.Gateway, c.Port, c.Trust = x.port.Gateway, x.port.Public, x.port.ClientIP.Trust
	}
	c.Remote, c.Local = h.remote, h.local
	c.TLS = h.tls
	if h.secure {
		c.AltSvc = x.altSvc(h.lp.serving.Load())
	}
	if h.quic != nil {
		c.TLS = r.TLS
		c.Remote = quicAddr(h.quic.RemoteAddr()) // it may have moved
		c.Early = !handshaken(h.quic)
	}
}

// validQuery says whether q ends where everybody takes it to end: quic-go lets
// through what would end a request line of HTTP/1.1, or a query.
func validQuery(q string) bool {
	for i := range len(q) {
		if c := q[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// tidy makes r.URL the path that routes are compared with, so that the backend is
// asked for what was decided on.
func tidy(r *http.Request) *refusal {
	if r.Method == http.MethodConnect && strings.HasPrefix(r.Proto, "HTTP/") && r.Header[":protocol"] == nil {
		return noProxy
	}
	if r.URL.Path == "*" {
		return noRule // OPTIONS * is for a server, and this one is many
	}
	escaped := r.URL.EscapedPath()
	path, ok := route.Normalise(escaped)
	if !ok || !validQuery(r.URL.RawQuery) {
		return badPath
	}
	if path == escaped && path == r.URL.Path && r.URL.RawPath == "" {
		return nil
	}
	plain, err := url.PathUnescape(path)
	if err != nil {
		return badPath
	}
	r.URL.Path, r.URL.RawPath = plain, path
	return nil
}
