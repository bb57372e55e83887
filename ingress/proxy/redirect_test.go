package proxy

import (
	"crypto/tls"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func ptr[T any](v T) *T { return &v }

func TestReplacedPath(t *testing.T) {
	for _, c := range []struct{ path, prefix, replacement, want string }{
		// The table of HTTPPathModifier.
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		// And what it leaves open.
		{"/foo", "/foo/", "/xyz", "/xyz"},
		{"/foo", "/foo", "/xyz/", "/xyz/"},
		{"/a/b", "/", "/xyz", "/xyz/a/b"},
		{"/", "/", "/xyz", "/xyz/"},
		{"/a", "/", "/", "/a"},
		{"/foo/bar", "/foo", "xyz", "/xyz/bar"},
		{"/foo%2Fbar/x%20y", "/foo%2Fbar", "/xyz", "/xyz/x%20y"},
		{"/foobar", "/foo", "/xyz", "/foobar"}, // no whole segment: the match was not this
		{"/foo//bar", "/foo", "/xyz", "/xyz//bar"},
	} {
		if got := (Path{Prefix: &c.replacement}).replaced(c.path, c.prefix); got != c.want {
			t.Errorf("%s with prefix %s replaced by %q: got %s, want %s", c.path, c.prefix, c.replacement, got, c.want)
		}
	}
	if got := (Path{Full: "/one"}).replaced("/any/thing", "/any"); got != "/one" {
		t.Errorf("full path: got %s", got)
	}
	if got := (Path{}).replaced("/any/thing", "/any"); got != "/any/thing" {
		t.Errorf("no replacement: got %s", got)
	}
}

func TestSetPathKeepsEscapes(t *testing.T) {
	for _, p := range []string{"/", "/a b%2Fc", "/a%20b", "/a%2Fb/c", "/%E4%B8%96", "/a+b", "/100%", "/a;b=c", "/*"} {
		u := &url.URL{Path: "/old", RawPath: "/old", RawQuery: "q=1"}
		setPath(u, p)
		want := p
		if strings.Contains(p, " ") || p == "/100%" {
			continue // not escaped paths: it is enough that they do not go out as they are
		}
		if got := u.EscapedPath(); got != want {
			t.Errorf("%s came out as %s", p, got)
		}
	}
	u := new(url.URL)
	setPath(u, "/100%")
	if got := u.RequestURI(); got != "/100%25" {
		t.Errorf("a lone per cent sign came out as %s", got)
	}
}

func TestRedirectLocation(t *testing.T) {
	type on struct {
		port uint16
		tls  bool
	}
	plain, secure, odd, oddTLS := on{80, false}, on{443, true}, on{8080, false}, on{8443, true}
	for _, c := range []struct {
		name   string
		rd     Redirect
		on     on
		host   string
		uri    string
		prefix string
		want   string
	}{
		{"host", Redirect{Host: "example.org"}, plain, "a.test", "/x", "", "http://example.org/x"},
		{"port 80 on 80", Redirect{Host: "example.org", Port: 80}, plain, "a.test", "/", "", "http://example.org/"},
		{"port 8080 on 80", Redirect{Host: "example.org", Port: 8080}, plain, "a.test", "/", "", "http://example.org:8080/"},
		{"https on 80", Redirect{Scheme: "https", Host: "example.org"}, plain, "a.test", "/", "", "https://example.org/"},
		{"https 443 on 80", Redirect{Scheme: "https", Port: 443}, plain, "a.test", "/", "", "https://a.test/"},
		{"https 8443 on 80", Redirect{Scheme: "https", Port: 8443}, plain, "a.test", "/", "", "https://a.test:8443/"},
		{"nothing on 8080", Redirect{Host: "example.org"}, odd, "a.test:8080", "/", "", "http://example.org:8080/"},
		{"port 80 on 8080", Redirect{Host: "example.org", Port: 80}, odd, "a.test", "/", "", "http://example.org/"},
		{"https on 8080", Redirect{Scheme: "https"}, odd, "a.test:8080", "/", "", "https://a.test/"},
		{"http on 8080", Redirect{Scheme: "http"}, odd, "a.test:8080", "/", "", "http://a.test/"},
		{"nothing on 443", Redirect{Host: "example.org"}, secure, "a.test", "/", "", "https://example.org/"},
		{"port 443 on 443", Redirect{Port: 443}, secure, "a.test", "/", "", "https://a.test/"},
		{"port 8443 on 443", Redirect{Port: 8443}, secure, "a.test", "/", "", "https://a.test:8443/"},
		{"http on 443", Redirect{Scheme: "http"}, secure, "a.test", "/", "", "http://a.test/"},
		{"http 80 on 443", Redirect{Scheme: "http", Port: 80}, secure, "a.test", "/", "", "http://a.test/"},
		{"http 8080 on 443", Redirect{Scheme: "http", Port: 8080}, secure, "a.test", "/", "", "http://a.test:8080/"},
		{"nothing on 8443", Redirect{}, oddTLS, "a.test", "/", "", "https://a.test:8443/"},
		{"http on port 443", Redirect{Port: 443}, plain, "a.test", "/", "", "http://a.test:443/"},
		{"prefix", Redirect{Path: Path{Prefix: ptr("/new")}}, plain, "a.test", "/old/lemon?q=1&q=2", "/old", "http://a.test/new/lemon?q=1&q=2"},
		{"full", Redirect{Path: Path{Full: "/new"}}, plain, "a.test", "/old/lemon?q", "/old", "http://a.test/new?q"},
		{"escapes", Redirect{Scheme: "https"}, plain, "a.test", "/a%2Fb%20c?x=%0a", "", "https://a.test/a%2Fb%20c?x=%0a"},
		{"IPv6", Redirect{Scheme: "https"}, plain, "[::1]:80", "/", "", "https://[::1]/"},
		{"IPv6 without port", Redirect{Port: 8080}, plain, "[::1]", "/", "", "http://[::1]:8080/"},
	} {
		u, err := url.ParseRequestURI(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		cl := Client{Port: c.on.port}
		if c.on.tls {
			cl.TLS = new(tls.ConnectionState)
		}
		if got := c.rd.location(&http.Request{Host: c.host, URL: u}, &cl, c.prefix); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}
