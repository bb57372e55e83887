package h1

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// connect makes a ClientConn to a peer who is played by hand.
func connect(t testing.TB, opt ClientOptions) (*ClientConn, *rawPeer) {
	t.Helper()
	peer := make(chan net.Conn, 1)
	addr := listen(t, func(c net.Conn) {
		peer <- c
		<-t.Context().Done()
	})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	cc := NewClientConn(c, opt)
	t.Cleanup(func() { cc.Close() })
	p := <-peer
	p.SetDeadline(time.Now().Add(patience))
	return cc, newRawPeer(t, p)
}

// request makes a request that does not wait for ever.
func request(t testing.TB, method, body string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, "http://a.example/p?q", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// What is sent.
func TestRequestWritten(t *testing.T) {
	for _, c := range []struct {
		name string
		req  func(r *http.Request)
		want string
	}{
		{"plain", func(r *http.Request) {}, "GET /p?q HTTP/1.1|Host: a.example"},
		{"Host", func(r *http.Request) { r.Host = "b:81"; r.Header.Set("Host", "c") }, "GET /p?q HTTP/1.1|Host: b:81"},
		{"header", func(r *http.Request) { r.Header["X-A"] = []string{"1", "2"} }, "GET /p?q HTTP/1.1|Host: a.example|X-A: 1|X-A: 2"},
		{"framing is its own", func(r *http.Request) {
			r.Header.Set("Content-Length", "5")
			r.Header.Set("Transfer-Encoding", "chunked")
			r.Header.Set("Trailer", "x")
		}, "GET /p?q HTTP/1.1|Host: a.example"},
		{"escaped path", func(r *http.Request) { r.URL.Path, r.URL.RawPath, r.URL.RawQuery = "/a/b c", "/a%2fb%20c", "" }, "GET /a%2fb%20c HTTP/1.1|Host: a.example"},
		{"path that has to be escaped", func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "/a b\r\n", "" }, "GET /a%20b%0D%0A HTTP/1.1|Host: a.example"},
		{"no path", func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "", "" }, "GET / HTTP/1.1|Host: a.example"},
		{"asterisk", func(r *http.Request) { r.Method, r.URL.Path, r.URL.RawQuery = "OPTIONS", "*", "" }, "OPTIONS * HTTP/1.1|Host: a.example"},
		{"two slashes", func(r *http.Request) { r.URL.Path, r.URL.RawQuery = "//p", "" }, "GET //p HTTP/1.1|Host: a.example"},
		{"empty query", func(r *http.Request) { r.URL.RawQuery, r.URL.ForceQuery = "", true }, "GET /p? HTTP/1.1|Host: a.example"},
		{"close", func(r *http.Request) { r.Close = true }, "GET /p?q HTTP/1.1|Connection: close|Host: a.example"},
		{"POST of nothing", func(r *http.Request) { r.Method = "POST" }, "POST /p?q HTTP/1.1|Content-Length: 0|Host: a.example"},
		{"DELETE of nothing", func(r *http.Request) { r.Method, r.Body, r.ContentLength = "DELETE", http.NoBody, 0 }, "DELETE /p?q HTTP/1.1|Host: a.example"},
		{"body", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("hello")), 5
		},
			"PUT /p?q HTTP/1.1|Content-Length: 5|Host: a.example||hello"},
		{"body of unknown length", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("hello")), -1
		},
			"PUT /p?q HTTP/1.1|Host: a.example|Transfer-Encoding: chunked||5\r\nhello\r\n0\r\n\r\n"},
		{"trailer", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("hello")), -1
			r.Trailer = http.Header{"X-Sum": {"1"}, "Host": {"b"}}
		}, "PUT /p?q HTTP/1.1|Host: a.example|Trailer: X-Sum|Transfer-Encoding: chunked||5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"nothing of unknown length", func(r *http.Request) {
			r.Method, r.Body, r.ContentLength = "PUT", io.NopCloser(strings.NewReader("")), -1
		},
			"PUT /p?q HTTP/1.1|Host: a.example|Transfer-Encoding: chunked||0\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc, p := connect(t, ClientOptions{})
			req := request(t, "GET", "")
			c.req(req)
			_, body, _ := strings.Cut(c.want, "||")
			var got string
			done := make(chan struct{})
			go func() {
				defer close(done)
				got = readable(strings.Join(p.head(), "\r\n") + "\r\n\r\n")
				p.expect(body)
				p.send("HTTP/1.1 204 No Content\r\n\r\n")
			}()
			if _, err := cc.RoundTrip(req); err != nil {
				t.Error(err)
			}
			<-done
			if got = strings.TrimSuffix(got, "||"); got != strings.TrimSuffix(c.want, "||"+body) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if cc.Reusable() == req.Close {
				t.Errorf("reusable: %v", !req.Close)
			}
		})
	}
	for name, spoil := range map[string]func(r *http.Request){
		"method":         func(r *http.Request) { r.Method = "GET /x HTTP/1.1\r\nX:" },
		"host":           func(r *http.Request) { r.Host = "a\r\nX: y" },
		"query":          func(r *http.Request) { r.URL.RawQuery = "a b" },
		"opaque":         func(r *http.Request) { r.URL.Opaque = "/a HTTP/1.1\r\n" },
		"header name":    func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"a"} },
		"header value":   func(r *http.Request) { r.Header["X"] = []string{"a\r\nY: b"} },
		"NUL in a value": func(r *http.Request) { r.Header["X"] = []string{"a\x00b"} },
		"CONNECT":        func(r *http.Request) { r.Method = "CONNECT" },
	} {
		cc, _ := connect(t, ClientOptions{})
		req := request(t, "GET", "")
		spoil(req)
		var cerr *ClientError
		if resp, err := cc.RoundTrip(req); !errors.As(err, &cerr) || cerr.Wrote {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
}

// A connection that the peer ends, or speaks on unasked, is not used again; and if
// it is used before that shows, the error says that nobody answered.
func TestPeerClosesIdle(t *testing.T) {
	for name, act := range map[string]func(p *rawPeer){
		"close":      func(p *rawPeer) { p.Close() },
		"half-close": func(p *rawPeer) { p.Conn.(*net.TCPConn).CloseWrite() },
		"reset":      func(p *rawPeer) { p.Conn.(*net.TCPConn).SetLinger(0); p.Close() },
		"speak":      func(p *rawPeer) { p.send("HTTP/1.1 408 Request Timeout\r\n\r\n") },
	} {
		cc, p := connect(t, ClientOptions{})
		for range 2 {
			go func() { p.head(); p.send("HTTP/1.1 204 No Content\r\n\r\n") }()
			if _, err := cc.RoundTrip(request(t, "GET", "")); err != nil {
				t.Fatal(err)
			}
			if !cc.Reusable() {
				t.Fatal("a good connection would not be used again")
			}
		}
		act(p)
		eventually(t, name+" of the peer is noticed", func() bool { return !cc.Reusable() })
	}
	cc, p := connect(t, ClientOptions{})
	p.Close()
	eventually(t, "the end arrives", func() bool { return peerClosed(cc.sock) })
	_, err := cc.RoundTrip(request(t, "GET", ""))
	var cerr *ClientError
	if !errors.As(err, &cerr) || cerr.Received {
		t.Errorf("got %v", err)
	}
}

func TestClientContext(t *testing.T) {
	cause := errors.New("enough")
	t.Run("before", func(t *testing.T) {
		cc, _ := connect(t, ClientOptions{})
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(cause)
		_, err := cc.RoundTrip(request(t, "GET", "").WithContext(ctx))
		var cerr *ClientError
		if !errors.As(err, &cerr) || cerr.Wrote || !errors.Is(err, cause) || !cc.Reusable() {
			t.Errorf("%v; reusable %v", err, cc.Reusable())
		}
	})
	t.Run("before the answer", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() { p.head(); cancel(cause) }()
		_, err := cc.RoundTrip(request(t, "GET", "").WithContext(ctx))
		var cerr *ClientError
		if !errors.As(err, &cerr) || !cerr.Wrote || cerr.Received || !errors.Is(err, cause) || cc.Reusable() {
			t.Errorf("%v", err)
		}
		if _, err := p.in.ReadByte(); err == nil {
			t.Error("the peer does not see the end")
		}
	})
	t.Run("within the answer", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() { p.head(); p.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello") }()
		resp, err := cc.RoundTrip(request(t, "GET", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(resp.Body, make([]byte, 5))
		cancel(cause)
		if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, cause) {
			t.Errorf("%v", err)
		}
		resp.Body.Close()
	})
	t.Run("after the answer", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		ctx, cancel := context.WithCancelCause(context.Background())
		go func() { p.head(); p.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") }()
		resp, err := cc.RoundTrip(request(t, "GET", "").WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		io.ReadAll(resp.Body)
		cancel(cause)
		if !cc.Reusable() {
			t.Error("a context that ended after its exchange took the connection with it")
		}
	})
	t.Run("while the body waits", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		ctx, cancel := context.WithCancelCause(context.Background())
		pr, pw := io.Pipe()
		defer pw.Close()
		req := request(t, "POST", "").WithContext(ctx)
		req.Body, req.ContentLength = pr, -1
		go func() { p.head(); cancel(cause) }()
		if _, err := cc.RoundTrip(req); !errors.Is(err, cause) {
			t.Errorf("%v", err)
		}
	})
}

func TestInformation(t *testing.T) {
	cc, p := connect(t, ClientOptions{})
	go func() {
		p.head()
		p.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
	}()
	var got string
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			got += fmt.Sprint(code, h)
			return nil
		},
	})
	if _, err := cc.RoundTrip(request(t, "GET", "").WithContext(ctx)); err != nil {
		t.Fatal(err)
	}
	if got != "103 map[Link:[<x>]]" {
		t.Errorf("told of %s", got)
	}
}

func TestUpgrade(t *testing.T) {
	cc, p := connect(t, ClientOptions{})
	go func() {
		p.head()
		p.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nahead")
		p.expect("hello")
		p.send("world")
		if _, err := p.in.ReadByte(); err != io.EOF {
			t.Error("the half-close did not arrive")
		}
		p.send("!")
		p.Close()
	}()
	req := request(t, "GET", "")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := cc.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	rwc, ok := resp.Body.(interface {
		io.ReadWriteCloser
		CloseWrite() error
	})
	if resp.StatusCode != 101 || !ok {
		t.Fatalf("%v with %T", resp, resp.Body)
	}
	b := make([]byte, 10)
	io.ReadFull(rwc, b[:5])
	io.WriteString(rwc, "hello")
	if _, err := io.ReadFull(rwc, b[5:]); string(b) != "aheadworld" {
		t.Errorf("read %q, %v", b, err)
	}
	if err := rwc.CloseWrite(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(rwc); string(rest) != "!" || err != nil {
		t.Errorf("read %q, %v", rest, err)
	}
	rwc.Close()
	if cc.Reusable() {
		t.Error("the connection would be used again")
	}
}

// Closing a body keeps the connection if the rest of it is there, and ends it
// otherwise, also while a Read waits.
func TestCloseBody(t *testing.T) {
	for _, c := range []struct {
		name, rest string
		reusable   bool
	}{
		{"all is there", "Content-Length: 10\r\n\r\nhelloworld", true},
		{"all chunks are there", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", true},
		{"not all", "Content-Length: 11\r\n\r\nhelloworld", false},
		{"not all chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n", false},
	} {
		cc, p := connect(t, ClientOptions{})
		go func() { p.head(); p.send("HTTP/1.1 200 OK\r\n" + c.rest) }()
		resp, err := cc.RoundTrip(request(t, "GET", ""))
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(resp.Body, make([]byte, 2))
		eventually(t, "the answer is read ahead", func() bool { return resp.Body.(Source).Buffered() >= 3 })
		resp.Body.Close()
		if cc.Reusable() != c.reusable {
			t.Errorf("%s: reusable %v", c.name, !c.reusable)
		}
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("%s: Read after Close: %v", c.name, err)
		}
	}
	cc, p := connect(t, ClientOptions{})
	go func() { p.head(); p.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello") }()
	resp, err := cc.RoundTrip(request(t, "GET", ""))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := io.ReadAll(resp.Body)
		done <- err
	}()
	resp.Body.Close()
	if err := <-done; err == nil {
		t.Error("half a body came to an end")
	}
}
