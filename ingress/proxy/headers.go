package proxy

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// isHopByHop says whether a header field is of one connection only (RFC 9110,
// 7.6.1), or must not be passed on for other reasons: Proxy is no header at all, but
// a variable of CGI that a client must not set; HTTP2-Settings is of an upgrade to
// HTTP/2 that would take the rest of the connection past us. Connection and TE are
// looked at besides.
func isHopByHop(name string) bool {
	switch name {
	case "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
		"Transfer-Encoding", "Upgrade", "Trailer", "Proxy", "Http2-Settings", ":protocol":
		return true
	}
	return false
}

// removeHopByHop removes what is of one connection only.
func removeHopByHop(h http.Header) {
	dropNamed(h)
	for name := range h {
		if isHopByHop(name) {
			delete(h, name)
		}
	}
	keepTrailersOnly(h)
}

// dropNamed removes Connection, and the fields that it names.
func dropNamed(h http.Header) {
	lines, ok := h["Connection"]
	if !ok {
		return
	}
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			if k := http.CanonicalHeaderKey(strings.Trim(name, " \t")); k != "Te" {
				delete(h, k)
			}
		}
	}
	delete(h, "Connection")
}

// keepTrailersOnly leaves of TE what a backend may be told: that the client
// understands trailers. gRPC servers insist on it.
func keepTrailersOnly(h http.Header) {
	te, ok := h["Te"]
	switch {
	case !ok:
	case httpguts.HeaderValuesContainsToken(te, "trailers"):
		h["Te"] = teTrailers
	default:
		delete(h, "Te")
	}
}

// Values that many messages share. Their capacity is their length, so appending to
// one makes another.
var (
	teTrailers = []string{"trailers"}
	valueZero  = []string{"0"}
	valueOne   = []string{"1"}
	valueTrue  = []string{"true"}
	valueHTTP  = []string{"http"}
	valueHTTPS = []string{"https"}
	value15000 = []string{"15000"}
)

// sift removes from a request what is of its connection only, and what an
// untrusted peer claims of the client, in one pass; it notes whether the request
// is part of a trace. A trusted peer is believed about addresses, not about
// identities: most balancers pass on whatever X-Forwarded-Client-Cert they get.
func (t *transaction) sift(trusted bool) {
	h := t.r.Header
	dropNamed(h)
	te := false
	for name := range h {
		switch {
		case name == "Te":
			te = true
		case name == "Cookie" && len(h[name]) > 1:
			// HTTP/2 and HTTP/3 may split it (RFC 9113, 8.2.3); HTTP/1.1 must not.
			h[name] = []string{strings.Join(h[name], "; ")}
		case isHopByHop(name), !trusted && isClaim(name), len(name) == len(clientCert) && dashed(name) == clientCert:
			delete(h, name)
		case isTrace(name):
			t.traced = true
		}
	}
	if te {
		keepTrailersOnly(h)
	}
}

// isClaim says whether a header is one by which a proxy in front of us would tell
// of the client, or we the backend of it: only who is trusted may send it.
func isClaim(name string) bool {
	if len(name) < 7 {
		return false
	}
	if name[0] != 'X' {
		return name == "Forwarded"
	}
	name = dashed(name)
	return name[1] == '-' && (strings.HasPrefix(name, "X-Forwarded") || strings.HasPrefix(name, "X-Envoy-") ||
		strings.HasPrefix(name, "X-Original-") || name == "X-Real-Ip" || name == "X-Request-Id")
}

// dashed is a name as those backends see it that do not tell an underscore from a
// dash.
func dashed(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// clientCert is who is at the two ends of a tunnel of the mesh: what
// ingress/upstream says of its own connection, and nobody else can know.
const clientCert = "X-Forwarded-Client-Cert"

func isTrace(name string) bool {
	switch name {
	case "Traceparent", "Tracestate", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags":
		return true
	}
	return false
}

// framing are the headers that no filter may touch: what they say is true of a
// connection or a body, and only who writes those knows it.
func framing(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Trailer", "Te", "Host", "Keep-Alive", clientCert:
		return true
	}
	return false
}

// apply changes h. Values that could not be sent are left out: one line of a
// configuration must not become two of a message.
func (c *HeaderChange) apply(h http.Header) {
	for i := range c.Set {
		if v := &c.Set[i]; !framing(v.Name) && httpguts.ValidHeaderFieldValue(v.Value) {
			h[v.Name] = []string{v.Value}
		}
	}
	for i := range c.Add {
		if v := &c.Add[i]; !framing(v.Name) && httpguts.ValidHeaderFieldValue(v.Value) {
			old := h[v.Name]
			h[v.Name] = append(old[:len(old):len(old)], v.Value)
		}
	}
	for _, name := range c.Remove {
		if !framing(name) {
			delete(h, name)
		}
	}
}

// set gives h a value without an allocation of its own: all values of a request
// share one array. It is not pooled, because a connection may still be writing the
// header of an attempt that was given up.
func (t *transaction) set(h http.Header, name, value string) {
	if len(t.values) == cap(t.values) {
		t.values = make([]string, 0, 10)
	}
	n := len(t.values)
	t.values = append(t.values, value)
	h[name] = t.values[n : n+1 : n+1]
}

// isGRPC says whether a content-type is gRPC's (not gRPC-Web's, whose clients do
// not know trailers).
func isGRPC(h http.Header) bool {
	ct, ok := strings.CutPrefix(headerValue(h, "Content-Type"), "application/grpc")
	return ok && (ct == "" || ct[0] == '+' || ct[0] == ';')
}

// upgradeToken returns the protocol that an HTTP/1.1 request wants to change to, or
// "". HTTP/2 in the clear and TLS are never passed on: they would hide all further
// requests on the connection from the routes.
func upgradeToken(r *http.Request) string {
	lines := r.Header["Upgrade"]
	if len(lines) == 0 || r.ProtoMajor != 1 || r.ProtoMinor < 1 || hasBody(r) ||
		!httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	for _, line := range lines {
		for tok := range strings.SplitSeq(line, ",") {
			tok = strings.Trim(tok, " \t")
			if tok == "" || !httpguts.ValidHeaderFieldValue(tok) || strings.EqualFold(tok, "h2c") ||
				len(tok) >= 4 && strings.EqualFold(tok[:4], "TLS/") {
				continue
			}
			return tok
		}
	}
	return ""
}

func hasBody(r *http.Request) bool {
	return r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0
}

// sendable says whether s may be the value of a header field.
func sendable(s string) bool { return httpguts.ValidHeaderFieldValue(s) }

func equalFold(a, b string) bool { return strings.EqualFold(strings.Trim(a, " \t"), b) }
