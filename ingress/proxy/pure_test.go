package proxy

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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

func TestChooseByWeight(t *testing.T) {
	bs := []Backend{{Weight: 3}, {Weight: 0}, {Weight: 1}, {Weight: -5}}
	var got [4]int
	for n := range shares(bs) {
		got[choose(bs, n)]++
	}
	if want := [4]int{3, 0, 1, 0}; got != want {
		t.Errorf("shares %v, want %v", got, want)
	}
	if shares([]Backend{{}, {}}) != 0 {
		t.Error("weights of zero make no share")
	}
	// The largest weights that Gateway API admits do not overflow.
	big := make([]Backend, 16)
	for i := range big {
		big[i].Weight = 1<<31 - 1
	}
	if i := choose(big, shares(big)-1); i != 15 {
		t.Errorf("last share goes to %d", i)
	}
}

func TestForwardedFor(t *testing.T) {
	peer := "10.0.0.9"
	lb := netip.MustParsePrefix("10.0.0.0/24")
	cdn := netip.MustParsePrefix("192.0.2.0/24")
	for _, c := range []struct {
		name   string
		lines  []string
		trust  Trust
		client string
		header string
	}{
		{"nothing came", nil, Trust{}, peer, peer},
		{"nobody is trusted", []string{"1.1.1.1"}, Trust{}, peer, peer},
		{"one hop", []string{"1.1.1.1"}, Trust{Hops: 1}, "1.1.1.1", "1.1.1.1, " + peer},
		{"one hop, and a client that lies", []string{"6.6.6.6, 1.1.1.1"}, Trust{Hops: 1}, "1.1.1.1", "1.1.1.1, " + peer},
		{"two hops", []string{"6.6.6.6, 1.1.1.1, 192.0.2.7"}, Trust{Hops: 2}, "1.1.1.1", "1.1.1.1, 192.0.2.7, " + peer},
		{"two hops over two lines", []string{"6.6.6.6, 1.1.1.1", "192.0.2.7"}, Trust{Hops: 2}, "1.1.1.1", "1.1.1.1, 192.0.2.7, " + peer},
		{"fewer than the hops", []string{"1.1.1.1"}, Trust{Hops: 2}, peer, peer},
		{"networks", []string{"6.6.6.6, 1.1.1.1, 192.0.2.7"}, Trust{CIDRs: []netip.Prefix{lb, cdn}}, "1.1.1.1", "1.1.1.1, 192.0.2.7, " + peer},
		{"peer of no trusted network", []string{"1.1.1.1"}, Trust{CIDRs: []netip.Prefix{cdn}}, peer, peer},
		{"all of trusted networks", []string{"192.0.2.8, 192.0.2.7"}, Trust{CIDRs: []netip.Prefix{lb, cdn}}, "192.0.2.8", "192.0.2.8, 192.0.2.7, " + peer},
		{"an unknown hop ends it", []string{"1.1.1.1, unknown, 192.0.2.7"}, Trust{CIDRs: []netip.Prefix{lb, cdn}}, "192.0.2.7", "192.0.2.7, " + peer},
		{"an empty entry ends it", []string{"1.1.1.1,"}, Trust{CIDRs: []netip.Prefix{lb}}, peer, peer},
		{"an unknown hop where one must be", []string{"garbage"}, Trust{Hops: 1}, peer, peer},
		{"with port", []string{"1.1.1.1:4711"}, Trust{Hops: 1}, "1.1.1.1", "1.1.1.1, " + peer},
		{"IPv6 with port", []string{"[2001:db8::1]:4711"}, Trust{Hops: 1}, "2001:db8::1", "2001:db8::1, " + peer},
		{"IPv6 in brackets", []string{"[2001:db8::1]"}, Trust{Hops: 1}, "2001:db8::1", "2001:db8::1, " + peer},
		{"IPv4 in IPv6", []string{"::ffff:192.0.2.7"}, Trust{Hops: 1}, "192.0.2.7", "192.0.2.7, " + peer},
		{"zone", []string{"fe80::1%eth0"}, Trust{Hops: 1}, peer, peer},
		{"line feed", []string{"1.1.1.1\r\nX: y"}, Trust{Hops: 1}, peer, peer},
	} {
		client, header := forwardedFor(c.lines, netip.MustParseAddr("::ffff:"+peer), c.trust)
		if client.String() != c.client || header != c.header {
			t.Errorf("%s: client %s, header %q; want %s, %q", c.name, client, header, c.client, c.header)
		}
	}
}

func FuzzForwardedFor(f *testing.F) {
	f.Add("1.1.1.1, 10.0.0.1", "10.0.0.2", 1)
	f.Add("unknown,[::1]:80", "", 3)
	f.Fuzz(func(t *testing.T, first, second string, hops int) {
		lines := []string{first, second}
		before := append([]string(nil), lines...)
		peer := netip.MustParseAddr("10.0.0.9")
		trust := Trust{Hops: hops % 20, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		client, header := forwardedFor(lines, peer, trust)
		if !cmp.Equal(lines, before) {
			t.Fatal("the request's header was changed")
		}
		entries := strings.Split(header, ", ")
		if entries[len(entries)-1] != peer.String() {
			t.Fatalf("%q does not end with the peer", header)
		}
		if entries[0] != client.String() {
			t.Fatalf("%q does not begin with the client %s", header, client)
		}
		for i, e := range entries {
			a, err := netip.ParseAddr(e)
			if err != nil || a.String() != e {
				t.Fatalf("%q is no address", e)
			}
			// Everyone right of the client is one that somebody trusted named.
			if hop := len(entries) - 1 - i; i > 0 && hop >= trust.Hops && !inAny(trust.CIDRs, a) {
				t.Fatalf("%q: %s vouches for what is left of it, and nobody trusts it (hops %d)", header, e, trust.Hops)
			}
		}
	})
}

func TestRequestID(t *testing.T) {
	re := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for range 1000 {
		id := newRequestID()
		if !re.MatchString(id) || seen[id] {
			t.Fatalf("%s is no fresh UUID of version 4", id)
		}
		seen[id] = true
	}
}

func TestTrace(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	run := func(h http.Header) http.Header {
		tr := transaction{r: &http.Request{Header: h}}
		tr.sift(true)
		tr.trace()
		return h
	}
	w3c := "00-" + id + "-" + span + "-01"
	t.Run("made", func(t *testing.T) {
		h := run(http.Header{"Tracestate": {"x=y"}})
		if h["Tracestate"] != nil {
			t.Error("tracestate of no trace was kept")
		}
		tid, sid := h.Get("X-B3-Traceid"), h.Get("X-B3-Spanid")
		if len(tid) != 32 || len(sid) != 16 || h.Get("X-B3-Parentspanid") != tid[16:] || h.Get("X-B3-Sampled") != "0" {
			t.Errorf("B3: %v", h)
		}
		if got, want := h.Get("Traceparent"), "00-"+tid+"-"+sid+"-00"; got != want {
			t.Errorf("traceparent %s, want %s", got, want)
		}
	})
	b3 := http.Header{"X-B3-Traceid": {id}, "X-B3-Spanid": {span}, "X-B3-Sampled": {"1"}, "Traceparent": {w3c}}
	for _, c := range []struct {
		name     string
		in, want http.Header
	}{
		{"from W3C", http.Header{"Traceparent": {w3c}, "Tracestate": {"x=y"}},
			with(b3, "Tracestate", "x=y")},
		{"from B3", http.Header{"X-B3-Traceid": {id}, "X-B3-Spanid": {span}, "X-B3-Sampled": {"1"}, "X-B3-Parentspanid": {"1111111111111111"}},
			with(b3, "X-B3-Parentspanid", "1111111111111111")},
		{"from the single header", http.Header{"B3": {id + "-" + span + "-1-1111111111111111"}}, b3},
		{"both, in agreement", b3.Clone(), b3},
		{"both, of two traces: W3C counts", with(b3, "X-B3-Traceid", "ffffffffffffffffffffffffffffffff"), b3},
		{"64 bits", http.Header{"X-B3-Traceid": {id[16:]}, "X-B3-Spanid": {span}},
			http.Header{"X-B3-Traceid": {id[16:]}, "X-B3-Spanid": {span}, "Traceparent": {"00-0000000000000000" + id[16:] + "-" + span + "-00"}}},
		{"a later version", http.Header{"Traceparent": {"cc-" + id + "-" + span + "-01-what-comes"}},
			with(b3, "Traceparent", "cc-"+id+"-"+span+"-01-what-comes")},
	} {
		if d := cmp.Diff(c.want, run(c.in)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	for _, bad := range []string{
		"", "00", "ff-" + id + "-" + span + "-01", "00-" + id + "-" + span + "-01-x", "00-" + strings.Repeat("0", 32) + "-" + span + "-01",
		"00-" + strings.ToUpper(id) + "-" + span + "-01", "00-" + id + "-0000000000000000-01", "00-" + id + "-" + span + "-0g", w3c + "x",
	} {
		if _, ok := parseTraceparent(bad); ok {
			t.Errorf("%q was taken for a traceparent", bad)
		}
	}
}

func FuzzTrace(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "1")
	f.Add("", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90", "", "", "")
	f.Add("", "", "8448eb211c80319c", "b7ad6b7169203331", "d")
	f.Fuzz(func(t *testing.T, parent, single, id, span, sampled string) {
		h := http.Header{}
		for name, v := range map[string]string{"Traceparent": parent, "B3": single, "X-B3-Traceid": id, "X-B3-Spanid": span, "X-B3-Sampled": sampled} {
			if v != "" {
				h[name] = []string{v}
			}
		}
		tr := transaction{r: &http.Request{Header: h}}
		tr.sift(false)
		tr.trace()
		w3c, ok := parseTraceparent(h.Get("Traceparent"))
		if !ok || len(h["Traceparent"]) != 1 {
			t.Fatalf("traceparent %q", h["Traceparent"])
		}
		b3, ok := parseB3(h)
		if !ok || !sameTrace(b3.id, w3c.id) {
			t.Fatalf("B3 %v tells of another trace than %q", h, h.Get("Traceparent"))
		}
		if b3.span != w3c.span || b3.sampled != w3c.sampled {
			t.Fatalf("B3 %v and %q differ", h, h.Get("Traceparent"))
		}
	})
}

func TestSplitCookiesAreJoined(t *testing.T) {
	h := http.Header{"Cookie": {"a=1", "b=2; c=3"}}
	tr := transaction{r: &http.Request{Header: h}}
	tr.sift(false)
	if d := cmp.Diff(http.Header{"Cookie": {"a=1; b=2; c=3"}}, h); d != "" {
		t.Error(d)
	}
}

func with(h http.Header, name, value string) http.Header {
	h = h.Clone()
	h[name] = []string{value}
	return h
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
		"X-Envoy-Internal": true, "X_envoy_internal": true, "X-Real-Ip": true, "X_real_ip": true, "X-Request-Id": true, "X_request_id": true, "X-Request_Id": true,
		"Forwarded": true, "X-Original-Url": true, "X-Requested-With": false, "X-Custom": false, "Accept": false, "X": false, "X-B3-Traceid": false,
	} {
		if got := isClaim(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
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

func TestBackoff(t *testing.T) {
	for n := 1; n < 40; n++ {
		d := backoff(100*time.Millisecond, n)
		if d < 100*time.Millisecond || d > 2*time.Second {
			t.Errorf("before attempt %d: %v", n+1, d)
		}
	}
	if d := backoff(0, 1); d <= 0 || d > time.Second {
		t.Errorf("default: %v", d)
	}
}

func TestMirrorShare(t *testing.T) {
	count := func(m Mirror) (n int) {
		for range 10000 {
			if m.takes() {
				n++
			}
		}
		return n
	}
	if n := count(Mirror{}); n != 10000 {
		t.Errorf("unsaid share: %d of 10000", n)
	}
	if n := count(Mirror{Numerator: 0, Denominator: 100}); n != 0 {
		t.Errorf("0 per cent: %d", n)
	}
	if n := count(Mirror{Numerator: 1, Denominator: 4}); n < 2200 || n > 2800 {
		t.Errorf("a quarter: %d of 10000", n)
	}
}

func TestSessionToken(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := makeToken("ns/svc:80", "10.0.0.1:8080", now, now.Add(time.Minute))
	cluster, ep, begun, used, ok := parseToken(s)
	if !ok || cluster != "ns/svc:80" || ep != "10.0.0.1:8080" || !begun.Equal(now) || !used.Equal(now.Add(time.Minute)) {
		t.Errorf("came back as %q %q %v %v %v", cluster, ep, begun, used, ok)
	}
}

func FuzzSessionToken(f *testing.F) {
	f.Add(makeToken("a", "b", time.Unix(1, 0), time.Unix(2, 0)))
	f.Add("MSAgIA")
	f.Fuzz(func(t *testing.T, s string) {
		cluster, ep, begun, used, ok := parseToken(s)
		if ok && makeToken(cluster, ep, begun, used) == "" {
			t.Fatal("no token")
		}
	})
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
