package proxy

import (
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCORS(t *testing.T) {
	wild := []Origin{{Exact: "https://www.foo.com"}, {Exact: "http://plain.test:80"}, {Regex: regexp.MustCompile(`^https://(?:.+)\.bar\.com$`)}}
	listed := &CORS{Origins: wild, Methods: []string{"GET", "OPTIONS"}, Headers: []string{"x-1", "x-2"}, Expose: []string{"x-3"}, Credentials: true, MaxAge: time.Hour}
	all := &CORS{AnyOrigin: true, AnyMethod: true, AnyHeader: true, AnyExposeHdr: true}
	allCreds := &CORS{AnyOrigin: true, AnyMethod: true, AnyHeader: true, AnyExposeHdr: true, Credentials: true}
	for _, c := range []struct {
		name   string
		cors   *CORS
		origin string
		ask    http.Header
		want   http.Header // of a preflight
	}{
		{"listed", listed, "https://www.foo.com", nil, http.Header{
			"Access-Control-Allow-Origin": {"https://www.foo.com"}, "Access-Control-Allow-Credentials": {"true"}, "Access-Control-Expose-Headers": {"x-3"},
			"Access-Control-Allow-Methods": {"GET, OPTIONS"}, "Access-Control-Allow-Headers": {"x-1, x-2"}, "Access-Control-Max-Age": {"3600"}, "Vary": {"Origin"}}},
		{"any, without credentials", all, "https://a.test", http.Header{"Access-Control-Request-Headers": {"x-a, authorization"}}, http.Header{
			"Access-Control-Allow-Origin": {"*"}, "Access-Control-Expose-Headers": {"*"},
			"Access-Control-Allow-Methods": {"PUT"}, "Access-Control-Allow-Headers": {"x-a, authorization"}, "Access-Control-Max-Age": {"5"}}},
		{"any, with credentials", allCreds, "https://a.test:123", http.Header{"Access-Control-Request-Headers": {"x-a"}}, http.Header{
			"Access-Control-Allow-Origin": {"https://a.test:123"}, "Access-Control-Allow-Credentials": {"true"},
			"Access-Control-Allow-Methods": {"PUT"}, "Access-Control-Allow-Headers": {"x-a"}, "Access-Control-Max-Age": {"5"}, "Vary": {"Origin"}}},
	} {
		r := &http.Request{Header: http.Header{"Access-Control-Request-Method": {"PUT"}}}
		for k, v := range c.ask {
			r.Header[k] = v
		}
		h := http.Header{}
		c.cors.preflight(h, r)
		c.cors.mark(h, c.origin)
		if d := cmp.Diff(c.want, h); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	for origin, want := range map[string]bool{
		"https://www.foo.com": true, "https://www.foo.com:443": true, "https://www.foo.com:444": false, "http://www.foo.com": false,
		"http://plain.test": true, "https://www.bar.com": true, "https://a.b.bar.com": true, "https://a.bar.com:443": true,
		"https://bar.com": false, "https://xbar.com": false, "null": false, "": false, "HTTPS://WWW.FOO.COM": true,
	} {
		if got := listed.allows(origin); got != want {
			t.Errorf("origin %q: allowed %v, want %v", origin, got, want)
		}
	}
	h := http.Header{"Access-Control-Allow-Origin": {"*"}, "Vary": {"Accept-Encoding"}}
	listed.mark(h, "https://evil.test")
	if d := cmp.Diff(http.Header{"Vary": {"Accept-Encoding", "Origin"}}, h); d != "" {
		t.Errorf("a refused origin, for which the backend had another opinion:\n%s", d)
	}
}
