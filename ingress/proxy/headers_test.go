package proxy

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitCookiesAreJoined(t *testing.T) {
	h := http.Header{"Cookie": {"a=1", "b=2; c=3"}}
	tr := transaction{r: &http.Request{Header: h}}
	tr.sift(false)
	if d := cmp.Diff(http.Header{"Cookie": {"a=1; b=2; c=3"}}, h); d != "" {
		t.Error(d)
	}
}

func TestHopByHopHeaders(t *testing.T) {
	h := http.Header{
		"Connection": {"close, X-Secret , TE", "keep-alive"}, "X-Secret": {"1"}, "Te": {"gzip, trailers;q=0.5"},
		"Keep-Alive": {"1"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"h2c"}, "Http2-Settings": {"x"},
		"Proxy-Authorization": {"x"}, "Proxy-Connection": {"x"}, "Trailer": {"x"}, "Proxy": {"http://evil"}, "Accept": {"*/*"},
	}
	removeHopByHop(h)
	if d := cmp.Diff(http.Header{"Accept": {"*/*"}}, drop(h, "Te")); d != "" {
		t.Error(d)
	}
	h = http.Header{"Connection": {"TE"}, "Te": {"trailers"}}
	removeHopByHop(h)
	if d := cmp.Diff(http.Header{"Te": {"trailers"}}, h); d != "" {
		t.Error(d)
	}
}

func TestClaimsOfStrangers(t *testing.T) {
	for name, want := range map[string]bool{
		"X-Forwarded-For": true, "X_forwarded_for": true, "X_Forwarded-For": true, "X-Forwarded_For": true, "X-Forwarded-Client-Cert": true,
		"X-Envoy-Internal": true, "X_envoy_internal": true, "X-Real-Ip": true, "X_real_ip": true, "X-Request-Id": true, "X_request_id": true, "X-Request_Id": true, "X-Real_ip": true, "X-Envoy_internal": true,
		"Forwarded": true, "X-Original-Url": true, "X-Requested-With": false, "X-Custom": false, "Accept": false, "X": false, "X-B3-Traceid": false,
	} {
		if got := isClaim(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNobodyElseTellsOfIdentities(t *testing.T) {
	h := http.Header{"X-Forwarded-Client-Cert": {"URI=spiffe://evil"}, "X-Forwarded_client_cert": {"1"}, "X_forwarded_client_cert": {"1"}, "X-Forwarded-Host": {"a"}}
	tr := transaction{r: &http.Request{Header: h}}
	tr.sift(true)
	if d := cmp.Diff(http.Header{"X-Forwarded-Host": {"a"}}, h); d != "" {
		t.Error("of a trusted proxy:", d)
	}
	c := HeaderChange{Set: []HeaderValue{{"X-Forwarded-Client-Cert", "URI=spiffe://evil"}}, Add: []HeaderValue{{"X-Forwarded-Client-Cert", "URI=spiffe://evil"}}}
	if c.apply(h); len(h) != 1 {
		t.Error("of a route's filter:", h)
	}
}

func TestClaimsInTrailers(t *testing.T) {
	got := announced(http.Header{"X-Forwarded-For": nil, "Content-Length": nil, "X-Checksum": nil})
	if d := cmp.Diff(http.Header{"X-Checksum": nil}, got); d != "" {
		t.Error(d)
	}
}

func drop(h http.Header, name string) http.Header {
	h = h.Clone()
	delete(h, name)
	return h
}

func TestHeaderChange(t *testing.T) {
	h := http.Header{"X-Set": {"a", "b"}, "X-Add": {"a"}, "X-Remove": {"a"}, "Content-Length": {"1"}}
	shared := h["X-Add"]
	c := HeaderChange{
		Set:    []HeaderValue{{"X-Set", "new"}, {"Transfer-Encoding", "chunked"}, {"X-Evil", "a\r\nb: c"}},
		Add:    []HeaderValue{{"X-Add", "b,c"}, {"X-Fresh", "d"}},
		Remove: []string{"X-Remove", "Content-Length"},
	}
	c.apply(h)
	want := http.Header{"X-Set": {"new"}, "X-Add": {"a", "b,c"}, "X-Fresh": {"d"}, "Content-Length": {"1"}}
	if d := cmp.Diff(want, h); d != "" {
		t.Error(d)
	}
	if len(shared) != 1 {
		t.Error("a shared value was changed")
	}
}

func TestUpgradeToken(t *testing.T) {
	for _, c := range []struct{ connection, upgrade, want string }{
		{"Upgrade", "websocket", "websocket"},
		{"keep-alive, upgrade", "SPDY/3.1", "SPDY/3.1"},
		{"keep-alive", "websocket", ""},
		{"Upgrade", "h2c", ""},
		{"Upgrade, HTTP2-Settings", "H2C", ""},
		{"Upgrade", "TLS/1.0", ""},
		{"Upgrade", "h2c, websocket", "websocket"},
		{"Upgrade", "", ""},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Connection", c.connection)
		if c.upgrade != "" {
			r.Header.Set("Upgrade", c.upgrade)
		}
		if got := upgradeToken(r); got != c.want {
			t.Errorf("%q %q: got %q, want %q", c.connection, c.upgrade, got, c.want)
		}
	}
	r := httptest.NewRequest("POST", "/", strings.NewReader("body"))
	r.Header.Set("Connection", "upgrade")
	r.Header.Set("Upgrade", "websocket")
	if got := upgradeToken(r); got != "" {
		t.Errorf("with a body: %q", got)
	}
}

func TestGRPCContentType(t *testing.T) {
	for ct, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/grpc;x=y": true,
		"application/grpc-web": false, "application/json": false, "": false,
	} {
		if got := isGRPC(http.Header{"Content-Type": {ct}}); got != want {
			t.Errorf("%q: %v", ct, got)
		}
	}
}
