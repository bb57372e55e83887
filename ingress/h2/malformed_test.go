package h2

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestMalformed sends requests that RFC 9113 section 8 calls malformed, or that
// HTTP/1.1 would take for something else, and checks that no handler sees them.
func TestMalformed(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path != "/ok" {
			t.Errorf("a handler saw %s %s", r.Method, r.RequestURI)
		}
	})
	p := dial(t, addr)
	base := func(m, s, a, path string) []string {
		return []string{":method", m, ":scheme", s, ":authority", a, ":path", path}
	}
	good := base("GET", "http", "example.com", "/x")
	for _, c := range []struct {
		name   string
		fields []string
	}{
		{"upper case", with(good, "X-Upper", "a")},
		{"empty name", with(good, "", "a")},
		{"space in a name", with(good, "a b", "a")},
		{"colon in a name", with(good, "a:b", "a")},
		{"CR in a name", with(good, "a\r\nb", "a")},
		{"CRLF in a value", with(good, "a", "b\r\nx: y")},
		{"LF in a value", with(good, "a", "b\nc")},
		{"CR in a value", with(good, "a", "b\rc")},
		{"NUL in a value", with(good, "a", "b\x00c")},
		{"DEL in a value", with(good, "a", "b\x7fc")},
		{"space before a value", with(good, "a", " b")},
		{"space after a value", with(good, "a", "b ")},
		{"tab after a value", with(good, "a", "b\t")},
		{"connection", with(good, "connection", "close")},
		{"connection: te", with(good, "connection", "te", "te", "trailers")},
		{"keep-alive", with(good, "keep-alive", "timeout=5")},
		{"proxy-connection", with(good, "proxy-connection", "keep-alive")},
		{"transfer-encoding", with(good, "transfer-encoding", "chunked")},
		{"upgrade", with(good, "upgrade", "websocket")},
		{"te: gzip", with(good, "te", "gzip")},
		{"te: trailers, gzip", with(good, "te", "trailers, gzip")},
		{"no method", good[2:]},
		{"no scheme", []string{":method", "GET", ":authority", "example.com", ":path", "/"}},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "example.com"}},
		{"no authority and no host", []string{":method", "GET", ":scheme", "http", ":path", "/"}},
		{"two methods", with(good, ":method", "GET")},
		{"two paths", with(good, ":path", "/admin")},
		{"two authorities", with(good, ":authority", "example.com")},
		{"pseudo after regular", with(with(good[:6], "a", "b"), ":path", "/")},
		{"pseudo after cookie", with(with(good[:6], "cookie", "b"), ":path", "/")},
		{"unknown pseudo", with(good, ":foo", "b")},
		{"status", with(good, ":status", "200")},
		{"empty path", base("GET", "http", "example.com", "")},
		{"empty authority", base("GET", "http", "", "/")},
		{"empty method", base("", "http", "example.com", "/")},
		{"method with a space", base("GET /x HTTP/1.1", "http", "example.com", "/")},
		{"method with CRLF", base("GET\r\n", "http", "example.com", "/")},
		{"method with a colon", base("GE:T", "http", "example.com", "/")},
		{"scheme ftp", base("GET", "ftp", "example.com", "/")},
		{"scheme with a path", base("GET", "http://x/", "example.com", "/")},
		{"path without slash", base("GET", "http", "example.com", "x")},
		{"absolute path", base("GET", "http", "example.com", "http://other.example/")},
		{"path with a space", base("GET", "http", "example.com", "/a b")},
		{"path with CRLF", base("GET", "http", "example.com", "/ HTTP/1.1\r\nX: y")},
		{"path with a tab", base("GET", "http", "example.com", "/a\tb")},
		{"path with NUL", base("GET", "http", "example.com", "/a\x00")},
		{"path with a fragment", base("GET", "http", "example.com", "/a#b")},
		{"path with a bad escape", base("GET", "http", "example.com", "/%zz")},
		{"asterisk and GET", base("GET", "http", "example.com", "*")},
		{"userinfo", base("GET", "http", "user@example.com", "/")},
		{"userinfo with password", base("GET", "http", "user:pass@example.com", "/")},
		{"authority with a path", base("GET", "http", "example.com/admin", "/")},
		{"authority with a space", base("GET", "http", "example.com x", "/")},
		{"authority with CRLF", base("GET", "http", "example.com\r\n", "/")},
		{"authority with a bad port", base("GET", "http", "example.com:8x", "/")},
		{"authority with two ports", base("GET", "http", "example.com:80:80", "/")},
		{"authority with a long port", base("GET", "http", "example.com:808080", "/")},
		{"authority with a zone", base("GET", "http", "[fe80::1%25eth0]", "/")},
		{"host differs", with(good, "host", "other.example")},
		{"host differs by port", with(good, "host", "example.com:81")},
		{"two hosts", with(good, "host", "example.com", "host", "example.com")},
		{"CONNECT with scheme", []string{":method", "CONNECT", ":scheme", "http", ":authority", "example.com:443"}},
		{"CONNECT with path", []string{":method", "CONNECT", ":authority", "example.com:443", ":path", "/"}},
		{"CONNECT without port", []string{":method", "CONNECT", ":authority", "example.com"}},
		{"CONNECT without authority", []string{":method", "CONNECT", "host", "example.com:443"}},
		{"protocol without CONNECT", with(good, ":protocol", "websocket")},
		{"protocol without path", []string{":method", "CONNECT", ":scheme", "http", ":authority", "example.com", ":protocol", "websocket"}},
		{"protocol without authority", []string{":method", "CONNECT", ":scheme", "http", ":path", "/", "host", "example.com", ":protocol", "websocket"}},
		{"protocol without scheme", []string{":method", "CONNECT", ":authority", "example.com", ":path", "/", ":protocol", "websocket"}},
		{"protocol with CRLF", []string{":method", "CONNECT", ":scheme", "http", ":authority", "example.com", ":path", "/", ":protocol", "web\r\nsocket"}},
		{"protocol like a version", []string{":method", "CONNECT", ":scheme", "http", ":authority", "example.com", ":path", "/", ":protocol", "HTTP/1.1"}},
		{"content-length with a sign", with(good, "content-length", "+0")},
		{"negative content-length", with(good, "content-length", "-1")},
		{"content-length in hex", with(good, "content-length", "0x0")},
		{"content-length list", with(good, "content-length", "0, 0")},
		{"empty content-length", with(good, "content-length", "")},
		{"long content-length", with(good, "content-length", "00000000000000000000000000")},
		{"two content-lengths", with(good, "content-length", "0", "content-length", "0")},
		{"content-length without a body", with(good, "content-length", "3")},
		{"unknown expectation", with(good, "expect", "200-ok")},
	} {
		id := p.open(true, c.fields...)
		t.Run(c.name, func(t *testing.T) {
			p.t = t
			p.wantReset(id, http2.ErrCodeProtocol)
		})
	}
	p.t = t
	id := p.open(true, base("GET", "http", "example.com", "/ok")...)
	p.wantStatus(id, "200")
}

// TestForms checks what else a request may look like.
func TestForms(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, fmt.Sprintf("%s %s host=%s path=%s raw=%s query=%s urlhost=%s cookie=%q a=%q",
			r.Method, r.RequestURI, r.Host, r.URL.Path, r.URL.RawPath, r.URL.RawQuery, r.URL.Host, r.Header["Cookie"], r.Header["A"]))
	})
	p := dial(t, addr)
	for _, c := range []struct {
		fields []string
		want   string
	}{
		{[]string{":method", "GET", ":scheme", "https", ":path", "/", "host", "h.example:8080"}, `GET / host=h.example:8080 path=/ raw= query= urlhost= cookie=[] a=[]`},
		{with(getRoot, "host", "EXAMPLE.com"), `GET / host=example.com path=/ raw= query= urlhost= cookie=[] a=[]`},
		{with(getRoot, "cookie", "a=1", "a", "x", "cookie", "b=2", "a", "y", "a", ""), `GET / host=example.com path=/ raw= query= urlhost= cookie=["a=1; b=2"] a=["x" "y" ""]`},
		{[]string{":path", "/%2f?x=%20", ":authority", "[::1]:80", ":scheme", "http", ":method", "PATCH"}, `PATCH /%2f?x=%20 host=[::1]:80 path=// raw=/%2f query=x=%20 urlhost= cookie=[] a=[]`},
		{[]string{":path", "//a//b", ":authority", "x", ":scheme", "http", ":method", "GET"}, `GET //a//b host=x path=//a//b raw= query= urlhost= cookie=[] a=[]`},
		{[]string{":path", "*", ":authority", "x", ":scheme", "http", ":method", "OPTIONS"}, `OPTIONS * host=x path=* raw= query= urlhost= cookie=[] a=[]`},
		{[]string{":authority", "x:443", ":method", "CONNECT"}, `CONNECT x:443 host=x:443 path= raw= query= urlhost=x:443 cookie=[] a=[]`},
		{with(getRoot, "content-length", "0", "te", "Trailers"), `GET / host=example.com path=/ raw= query= urlhost= cookie=[] a=[]`},
	} {
		id := p.open(true, c.fields...)
		p.wantStatus(id, "200")
		if body, _ := p.wantEnd(id); string(body) != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.fields, body, c.want)
		}
	}
}

// TestBodyLength checks content-length against DATA.
func TestBodyLength(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			w.Header().Set("X-Got", string(b))
		}
	})
	p := dial(t, addr)
	for _, c := range []struct {
		name, length string
		data         []string
		good         bool
	}{
		{"fits", "4", []string{"ab", "cd"}, true},
		{"too much", "3", []string{"ab", "cd"}, false},
		{"too little", "5", []string{"ab", "cd"}, false},
		{"nothing", "5", []string{""}, false},
		{"none promised", "0", []string{"a"}, false},
	} {
		id := p.open(false, with(postRoot, "content-length", c.length)...)
		for i, d := range c.data {
			p.f.WriteData(id, i == len(c.data)-1, []byte(d))
		}
		if c.good {
			if got := p.wantStatus(id, "200"); !strings.Contains(fmt.Sprint(got.Fields), strings.Join(c.data, "")) {
				t.Errorf("%s: %v", c.name, got.Fields)
			}
		} else {
			p.wantReset(id, http2.ErrCodeProtocol)
		}
	}
}

// TestTrailerRules checks what may come behind a body.
func TestTrailerRules(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			return
		}
		w.Header().Set("X-Got", fmt.Sprint(r.Trailer))
	})
	p := dial(t, addr)
	send := func(end bool, fields ...string) uint32 {
		id := p.open(false, postRoot...)
		p.f.WriteData(id, false, []byte("x"))
		p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
		return id
	}
	for _, c := range [][]string{
		{":path", "/"}, {"content-length", "1"}, {"transfer-encoding", "chunked"}, {"host", "x"},
		{"authorization", "x"}, {"te", "trailers"}, {"Upper", "x"}, {"a", "b\r\nc: d"}, {"connection", "close"}, {"cookie", "a"},
	} {
		p.wantReset(send(true, c...), http2.ErrCodeProtocol)
	}
	p.wantReset(send(false, "a", "b"), http2.ErrCodeProtocol)
	got := p.wantStatus(send(true, "a", "b", "a", "c"), "200")
	if !strings.Contains(fmt.Sprint(got.Fields), "map[A:[b c]]") {
		t.Errorf("answered %v", got.Fields)
	}
}

// TestTooLarge checks that headers over the limits are answered, and the connection
// goes on.
func TestTooLarge(t *testing.T) {
	addr := plain(t, &Server{MaxHeaderBytes: 8 << 10, MaxTarget: 1 << 10}, func(w http.ResponseWriter, r *http.Request) {})
	p := dial(t, addr)
	var many []string
	for i := range 101 {
		many = append(many, fmt.Sprintf("x-%d", i), "")
	}
	for _, c := range []struct {
		fields []string
		status string
	}{
		{with(getRoot, "a", strings.Repeat("b", 8<<10)), "431"},
		{with(getRoot, "a", strings.Repeat("\xff", 15<<10)), "431"},
		{with(getRoot, "a", strings.Repeat("0", 20<<10)), "431"},
		{with(getRoot, many...), "431"},
		{with(getRoot[:6], ":path", "/"+strings.Repeat("a", 1<<10)), "414"},
		{with(getRoot, "a", strings.Repeat("b", 7<<10)), "200"},
	} {
		p.wantStatus(p.open(true, c.fields...), c.status)
	}
	// An HPACK bomb: one large field, named by an index again and again.
	bomb := []string{}
	for range 3000 {
		bomb = append(bomb, "bomb", strings.Repeat("b", 3000))
	}
	p.wantStatus(p.open(true, with(getRoot, bomb...)...), "431")
	p.wantStatus(p.open(true, getRoot...), "200")
}
