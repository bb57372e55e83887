package h1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// What is accepted, and what the handler sees of it.
func TestRequest(t *testing.T) {
	for _, c := range []struct{ name, send, want string }{
		{"plain", "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\n\r\n",
			`GET "/a" "" "b=c" host=a.example uri=/a?b=c HTTP/1.1 length=0 map[] "" map[]`},
		{"empty line first", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
			`GET "/" "" "" host=a uri=/ HTTP/1.1 length=0 map[] "" map[]`},
		{"whitespace around values, names made canonical", "GET / HTTP/1.1\r\nhOST:\t a \r\nx-FORWARDED-for:1\r\nx_y: \r\nX-B: c d\t\r\nx-b:e\r\n\r\n",
			`GET "/" "" "" host=a uri=/ HTTP/1.1 length=0 map[X-B:[c d e] X-Forwarded-For:[1] X_y:[]] "" map[]`},
		{"escapes", "GET /a%2fb%20c?%20 HTTP/1.1\r\nHost: a\r\n\r\n",
			`GET "/a/b c" "/a%2fb%20c" "%20" host=a uri=/a%2fb%20c?%20 HTTP/1.1 length=0 map[] "" map[]`},
		{"two slashes", "GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n",
			`GET "//b/c" "" "" host=a uri=//b/c HTTP/1.1 length=0 map[] "" map[]`},
		{"absolute target wins", "GET http://b:81/x HTTP/1.1\r\nHost: a\r\n\r\n",
			`GET "/x" "" "" host=b:81 uri=http://b:81/x HTTP/1.1 length=0 map[] "" map[]`},
		{"absolute target without a path", "GET https://b?x HTTP/1.1\r\nHost: b\r\n\r\n",
			`GET "" "" "x" host=b uri=https://b?x HTTP/1.1 length=0 map[] "" map[]`},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
			`OPTIONS "*" "" "" host=a uri=* HTTP/1.1 length=0 map[] "" map[]`},
		{"IPv6", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n",
			`GET "/" "" "" host=[2001:db8::1]:80 uri=/ HTTP/1.1 length=0 map[] "" map[]`},
		{"port left empty", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n",
			`GET "/" "" "" host=a: uri=/ HTTP/1.1 length=0 map[] "" map[]`},
		{"own method", "BREW-X /pot HTTP/1.1\r\nHost: a\r\n\r\n",
			`BREW-X "/pot" "" "" host=a uri=/pot HTTP/1.1 length=0 map[] "" map[]`},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n",
			`GET "/" "" "" host= uri=/ HTTP/1.0 length=0 map[] "" map[]`},
		{"length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\nhello",
			`POST "/" "" "" host=a uri=/ HTTP/1.1 length=5 map[Content-Length:[005]] "hello" map[]`},
		{"length of GET", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
			`GET "/" "" "" host=a uri=/ HTTP/1.1 length=5 map[Content-Length:[5]] "hello" map[]`},
		{"length zero", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
			`POST "/" "" "" host=a uri=/ HTTP/1.1 length=0 map[Content-Length:[0]] "" map[]`},
		{"chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n006;a=\"b;c\"\r\n world\r\n0;x\r\n\r\n",
			`POST "/" "" "" host=a uri=/ HTTP/1.1 length=-1 map[] "hello world" map[]`},
		{"trailer", "POST / HTTP/1.1\r\nHost: a\r\nTrailer: x-sum, Host\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
			`POST "/" "" "" host=a uri=/ HTTP/1.1 length=-1 map[] "0123456789" map[X-More:[2] X-Sum:[1]]`},
		{"100 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", 99) + "\r\n",
			`GET "/" "" "" host=a uri=/ HTTP/1.1 length=0 map[X:[y` + strings.Repeat(" y", 98) + `]] "" map[]`},
		{"header of 40 KiB", "GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("v", 40<<10) + "\r\n\r\n",
			`GET "/" "" "" host=a uri=/ HTTP/1.1 length=0 map[X:[` + strings.Repeat("v", 40<<10) + `]] "" map[]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got string
			addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got = fmt.Sprintf("%s %q %q %q host=%s uri=%s %s length=%d %v %q %v", r.Method, r.URL.Path, r.URL.RawPath,
					r.URL.RawQuery, r.Host, r.RequestURI, r.Proto, r.ContentLength, r.Header, b, r.Trailer)
				if r.RemoteAddr == "" {
					t.Error("no RemoteAddr")
				}
			}))
			// The next request must begin where this one ends.
			answer := talk(t, addr, c.send+"GET /next HTTP/1.0\r\n\r\n")
			if strings.HasPrefix(c.want, `GET "/" "" "" host= `) {
				if strings.Count(answer, "HTTP/1.1 200 OK\r\n") != 1 {
					t.Errorf("answer %q", answer)
				}
			} else if strings.Count(answer, "HTTP/1.1 200 OK\r\n") != 2 || !strings.Contains(got, "/next") {
				t.Errorf("the request behind it was not found: %q", answer)
			}
		})
		t.Run(c.name+", byte by byte", func(t *testing.T) {
			var got string
			addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				got = fmt.Sprintf("%s %q %q %q host=%s uri=%s %s length=%d %v %q %v", r.Method, r.URL.Path, r.URL.RawPath,
					r.URL.RawQuery, r.Host, r.RequestURI, r.Proto, r.ContentLength, r.Header, b, r.Trailer)
				w.Header().Set("Connection", "close")
			}))
			c1 := dial(t, addr)
			step := max(1, len(c.send)/200)
			for s := c.send; s != ""; s = s[min(step, len(s)):] {
				io.WriteString(c1, s[:min(step, len(s))])
			}
			if b, err := io.ReadAll(c1); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 OK\r\n") {
				t.Errorf("answer %q, %v", b, err)
			}
			if got != c.want {
				t.Errorf("got  %.300s\nwant %.300s", got, c.want)
			}
		})
	}
}

func TestPipelining(t *testing.T) {
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "<%s %s>", r.URL.Path, b)
	}))
	var send, want strings.Builder
	for i := range 200 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&send, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
			fmt.Fprintf(&want, "</%d >", i)
		case 1:
			fmt.Fprintf(&send, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", i)
			fmt.Fprintf(&want, "</%d abc>", i)
		case 2:
			fmt.Fprintf(&send, "POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", i)
			fmt.Fprintf(&want, "</%d abc>", i)
		}
	}
	got := talk(t, addr, send.String()+"GET /last HTTP/1.0\r\n\r\n")
	var bodies strings.Builder
	for part := range strings.SplitSeq(got, "\r\n\r\n") {
		if i := strings.IndexByte(part, '<'); i == 0 {
			bodies.WriteString(part[:strings.IndexByte(part, '>')+1])
		}
	}
	if want.WriteString("</last >"); bodies.String() != want.String() {
		t.Errorf("answers in another order than the requests:\n%s\n%s", bodies.String(), want.String())
	}
}

func TestConnect(t *testing.T) {
	addr := serve(t, &Server{Connect: true}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "CONNECT" || r.Host != "b:443" || r.URL.Host != "b:443" || r.URL.Path != "" {
			t.Errorf("%s %s %v", r.Method, r.Host, r.URL)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	if got := talk(t, addr, "CONNECT b:443 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Error(got)
	}
}

func TestPreface(t *testing.T) {
	const frames = "SM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	s := &Server{OnPreface: func(ctx context.Context, c net.Conn, h http.Handler) {
		defer c.Close()
		b := make([]byte, len(preface)+len(frames))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != preface+frames {
			t.Errorf("read %q, %v", b, err)
		}
		io.WriteString(c, "two")
	}}
	addr := serve(t, s, nil)
	if got := talk(t, addr, preface+frames); got != "two" {
		t.Errorf("got %q", got)
	}
	// Only at the beginning of a connection.
	addr = serve(t, s, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"+preface); !strings.Contains(got, "HTTP/1.1 505 ") {
		t.Errorf("got %q", got)
	}
}

func TestBytesReadAhead(t *testing.T) {
	addr := listen(t, func(c net.Conn) {
		var b [20]byte
		io.ReadFull(c, b[:])
		(&Server{}).ServePeer(context.Background(), c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.RemoteAddr)
		}), Peer{RemoteAddr: "192.0.2.1:5", Read: b[:]})
	})
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\n192.0.2.1:5") {
		t.Errorf("got %q", got)
	}
}

func TestPanic(t *testing.T) {
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(errors.New("x")) }))
	if got := talk(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); got != "" {
		t.Errorf("got %q", got)
	}
}
