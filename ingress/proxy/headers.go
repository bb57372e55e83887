package proxy

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// removeHopByHop removes the header fields that are of one connection only
// (RFC 9110, 7.6.1). TE survives as "trailers" if it says so, which gRPC wants.
func removeHopByHop(h http.Header) {
	if lines := h["Connection"]; len(lines) > 0 {
		for _, line := range lines {
			for name := range strings.SplitSeq(line, ",") {
				if name = strings.Trim(name, " \t"); name != "" {
					if k := http.CanonicalHeaderKey(name); k != "Te" {
						delete(h, k)
					}
				}
			}
		}
		delete(h, "Connection")
	}
	for _, name := range hopByHop {
		if _, ok := h[name]; ok {
			delete(h, name)
		}
	}
	if te, ok := h["Te"]; ok {
		if httpguts.HeaderValuesContainsToken(te, "trailers") {
			h["Te"] = teTrailers
		} else {
			delete(h, "Te")
		}
	}
}

// Proxy-Connection and Keep-Alive are of old clients; Proxy is no header at all,
// but a variable of CGI that a client must not set; HTTP2-Settings is of an upgrade
// to HTTP/2 that would take the rest of the connection past us.
var hopByHop = [...]string{
	"Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization",
	"Transfer-Encoding", "Upgrade", "Trailer", "Proxy", "Http2-Settings", ":protocol",
}

var teTrailers = []string{"trailers"}

// framing are the headers that no filter may touch: what they say is true of a
// connection or a body, and only who writes those knows it.
func framing(name string) bool {
	switch name {
	case "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Trailer", "Te", "Host", "Keep-Alive":
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
		t.values = make([]string, 0, 12)
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
