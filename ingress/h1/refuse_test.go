package h1

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// Messages that two implementations could take for different ones, and what is
// answered. Each is followed by a request that would be smuggled if the refused
// message were taken to end somewhere.
func TestRefused(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	post := func(fields ...string) string {
		return "POST / HTTP/1.1\r\nHost: a\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
	}
	get := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: a\r\n\r\n" }
	for _, c := range []struct {
		name, send string
		status     int
	}{
		{"both lengths", post("Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n", 400},
		{"both lengths, other order", post("Transfer-Encoding: chunked", "Content-Length: 5") + "0\r\n\r\n", 400},
		{"differing lengths", post("Content-Length: 5", "Content-Length: 6") + "hello", 400},
		{"equal lengths twice", post("Content-Length: 5", "Content-Length: 5") + "hello", 400},
		{"list of lengths", post("Content-Length: 5,5") + "hello", 400},
		{"list of lengths with a space", post("Content-Length: 5, 5") + "hello", 400},
		{"signed length", post("Content-Length: +5") + "hello", 400},
		{"negative length", post("Content-Length: -5"), 400},
		{"empty length", post("Content-Length: "), 400},
		{"hexadecimal length", post("Content-Length: 0x5") + "hello", 400},
		{"length with an underscore", post("Content-Length: 1_0") + "hellohello", 400},
		{"length that overflows", post("Content-Length: 18446744073709551621") + "hello", 400},
		{"length with a space within", post("Content-Length: 1 0"), 400},
		{"length that is not a digit of ASCII", post("Content-Length: \xd9\xa5"), 400},

		{"coding that is almost chunked", post("Transfer-Encoding: xchunked") + "0\r\n\r\n", 400},
		{"chunked is not last", post("Transfer-Encoding: chunked, identity") + "0\r\n\r\n", 400},
		{"identity", post("Transfer-Encoding: identity"), 400},
		{"empty coding", post("Transfer-Encoding: "), 400},
		{"coding that is not known", post("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n", 501},
		{"chunked twice", post("Transfer-Encoding: chunked, chunked") + "0\r\n\r\n", 501},
		{"chunked in two lines", post("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n", 400},
		{"chunked and identity in two lines", post("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + "0\r\n\r\n", 400},
		{"chunked with a parameter", post("Transfer-Encoding: chunked;q=1") + "0\r\n\r\n", 400},
		{"quoted chunked", post(`Transfer-Encoding: "chunked"`) + "0\r\n\r\n", 400},
		{"chunked with a vertical tab", post("Transfer-Encoding: \x0bchunked") + "0\r\n\r\n", 400},
		{"chunked with a Kelvin sign", post("Transfer-Encoding: chun\u212aed") + "0\r\n\r\n", 400},
		{"vertical tab before the colon", post("Transfer-Encoding\x0b: chunked") + "0\r\n\r\n", 400},
		{"space before the colon", post("Transfer-Encoding : chunked") + "0\r\n\r\n", 400},
		{"tab before the colon", post("Content-Length\t: 5") + "hello", 400},
		{"folded coding", post("Transfer-Encoding:\r\n chunked") + "0\r\n\r\n", 400},
		{"folded field", post("X: a\r\n\tb"), 400},
		{"whitespace before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
		{"length announced for the trailer", post("Transfer-Encoding: chunked", "Trailer: X, content-length") + "0\r\n\r\n", 400},
		{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},

		{"bare LF after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
		{"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400},
		{"bare LF as the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		{"LF before the request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"CR before the request", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"two empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"bare CR in a value", post("X: a\rContent-Length: 5"), 400},
		{"bare CR at a value's end", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n", 400},
		{"bare CR in the request line", "GET / HTTP/1.1\rX: y\r\nHost: a\r\n\r\n", 400},
		{"NUL in a value", post("X: a\x00b"), 400},
		{"NUL in a name", post("X\x00: a"), 400},
		{"escape in a value", post("X: a\x1bb"), 400},
		{"DEL in a value", post("X: a\x7fb"), 400},
		{"field without a colon", post("X"), 400},
		{"field without a name", post(": x"), 400},
		{"name of 8-bit bytes", post("X-\xc3\xa4: x"), 400},
		{"name in parentheses", post("X(y): x"), 400},

		{"method that is none", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"no target", "GET HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"empty target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"no version", "GET /\r\n\r\n", 400},
		{"space in the target", get("/a b"), 400},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
		{"tabs for spaces", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400},
		{"control character in the target", get("/a\x01"), 400},
		{"fragment", get("/a#b"), 400},
		{"bad escape", get("/%zz"), 400},
		{"target without a slash", get("a"), 400},
		{"other scheme", get("ftp://a/"), 400},
		{"no authority", get("http:///x"), 400},
		{"userinfo", get("http://u@a/"), 400},
		{"userinfo and password", get("http://u:p@a/"), 400},
		{"asterisk of GET", get("*"), 400},
		{"lower-case version", "GET / http/1.1\r\nHost: a\r\n\r\n", 400},
		{"version of one digit", "GET / HTTP/1\r\nHost: a\r\n\r\n", 400},
		{"version of three digits", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400},
		{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
		{"HTTP/3.0", "GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505},
		{"preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"ClientHello", "\x16\x03\x01\x00\xf4\x01\x00\x00\xf0\x03\x03\r\n\r\n", 400},
		{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501},
		{"CONNECT with a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400},

		{"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
		{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		{"the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400},
		{"two Hosts and an absolute target", "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
		{"Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
		{"Host with userinfo", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400},
		{"Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		{"Host with a list", "GET / HTTP/1.1\r\nHost: a, b:x\r\n\r\n", 400},
		{"Host with a bad port", "GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", 400},
		{"Host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400},
		{"Host that is a port", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n", 400},
		{"Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400},
		{"Host with a name in brackets", "GET / HTTP/1.1\r\nHost: [a.example]\r\n\r\n", 400},
		{"Host of 8-bit bytes", "GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", 400},

		{"other expectation", post("Expect: a-miracle", "Content-Length: 5"), 417},
		{"two expectations", post("Expect: 100-continue", "Expect: 100-continue", "Content-Length: 5"), 417},
		{"long body", post("Content-Length: 1001"), 413},
		{"long target", get("/" + strings.Repeat("a", 17<<10)), 414},
		{"long target that does not end", "GET /" + strings.Repeat("a", 40<<10), 414},
		{"long header", post("X: " + strings.Repeat("a", 65<<10)), 431},
		{"long header that does not end", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 65<<10), 431},
		{"many fields", post(strings.Repeat("X: y\r\n", 100) + "X: y"), 431},
	} {
		t.Run(c.name, func(t *testing.T) {
			var handled atomic.Int32
			var told *RefusedError
			s := &Server{MaxBodyBytes: 1000, OnRefuse: func(_ Peer, err *RefusedError) { told = err }}
			addr := listen(t, func(nc net.Conn) {
				s.ServeConn(context.Background(), nc, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					handled.Add(1)
					io.Copy(io.Discard, r.Body)
				}))
			})
			got := talk(t, addr, c.send+smuggled)
			if want := fmt.Sprintf("HTTP/1.1 %d ", c.status); !strings.HasPrefix(got, want) {
				t.Fatalf("answer %q, want %d", got, c.status)
			}
			if strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("more than one answer: %q", got)
			}
			if !strings.Contains(got, "\r\nConnection: close\r\n") {
				t.Errorf("a refusal does not say that it ends the connection: %q", got)
			}
			if n := handled.Load(); n != 0 {
				t.Errorf("%d requests came to the handler", n)
			}
			if told == nil || told.Status != c.status {
				t.Errorf("OnRefuse was told %v", told)
			}
		})
	}
}

// Bodies that are broken: the handler reads an error, not an end, and nothing that
// comes behind is a request.
func TestBrokenBody(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
	long := strings.Repeat("x", 2<<10)
	for _, c := range []struct{ name, body string }{
		{"size with a prefix", "0x5\r\nhello\r\n0\r\n\r\n"},
		{"size with a sign", "+5\r\nhello\r\n0\r\n\r\n"},
		{"negative size", "-5\r\nhello\r\n0\r\n\r\n"},
		{"size with a space before", " 5\r\nhello\r\n0\r\n\r\n"},
		{"size with a space behind", "5 \r\nhello\r\n0\r\n\r\n"},
		{"size with a tab behind", "5\t\r\nhello\r\n0\r\n\r\n"},
		{"size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"},
		{"no size", "\r\nhello\r\n0\r\n\r\n"},
		{"no size but an extension", ";a=b\r\nhello\r\n0\r\n\r\n"},
		{"size that is none", "g\r\nhello\r\n0\r\n\r\n"},
		{"size of 64 bits", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
		{"size that wraps around", "10000000000000005\r\nhello\r\n0\r\n\r\n"},
		{"size of many zeros", strings.Repeat("0", 20) + "5\r\nhello\r\n0\r\n\r\n"},
		{"bare LF behind the size", "5\nhello\r\n0\r\n\r\n"},
		{"bare CR behind the size", "5\rhello\r\n0\r\n\r\n"},
		{"bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"},
		{"bare LF in an extension", "5;a\nhello\r\n0\r\n\r\n"},
		{"NUL in an extension", "5;a\x00\r\nhello\r\n0\r\n\r\n"},
		{"long extension", "5;" + long + "\r\nhello\r\n0\r\n\r\n"},
		{"many extensions", strings.Repeat("1;"+long[:1000]+"\r\nx\r\n", 20) + "0\r\n\r\n"},
		{"extension that does not end", "5;" + long},
		{"no CRLF behind the data", "5\r\nhelloX\r\n0\r\n\r\n"},
		{"LF behind the data", "5\r\nhello\n0\r\n\r\n"},
		{"CR behind the data", "5\r\nhello\r0\r\n\r\n"},
		{"data shorter than its size", "6\r\nhello\r\n0\r\n\r\n"},
		{"bare LF behind the last chunk", "5\r\nhello\r\n0\n\r\n"},
		{"bare LF behind the trailer", "5\r\nhello\r\n0\r\nX: y\r\n\n"},
		{"trailer Content-Length", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"},
		{"trailer Transfer-Encoding", "5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n"},
		{"trailer Host", "5\r\nhello\r\n0\r\nHost: b\r\n\r\n"},
		{"trailer Authorization", "5\r\nhello\r\n0\r\nAuthorization: b\r\n\r\n"},
		{"trailer Connection", "5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"},
		{"trailer that is none", "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n"},
		{"folded trailer", "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n"},
		{"NUL in a trailer", "5\r\nhello\r\n0\r\nX: a\x00\r\n\r\n"},
		{"long trailer", "5\r\nhello\r\n0\r\nX: " + strings.Repeat("a", 9<<10) + "\r\n\r\n"},
		{"many trailers", "5\r\nhello\r\n0\r\n" + strings.Repeat("X: y\r\n", 33) + "\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var handled atomic.Int32
			addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				handled.Add(1)
				if b, err := io.ReadAll(r.Body); err == nil {
					t.Errorf("body %q has come to an end, want an error", b)
				} else if _, err := r.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("the error does not last: %v", err)
				}
				w.WriteHeader(http.StatusBadRequest)
			}))
			got := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+c.body+smuggled)
			if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("answer %q", got)
			}
			if !strings.Contains(got, "\r\nConnection: close\r\n") {
				t.Errorf("the answer does not say that it ends the connection: %q", got)
			}
			if n := handled.Load(); n != 1 {
				t.Errorf("%d requests came to the handler", n)
			}
		})
	}
}
