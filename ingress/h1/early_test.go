package h1

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// there is a body of which so many bytes are there.
type there struct {
	io.Reader
	n int
}

func (b *there) Buffered() int { return b.n }

func (b *there) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.n = max(0, b.n-n)
	return n, err
}

func (b *there) Close() error { return nil }

// deaf is a body whose Close does not wake its Read.
type deaf struct {
	woken  chan struct{}
	closed sync.Once
	close  chan struct{}
}

func newDeaf(t *testing.T) *deaf {
	d := &deaf{woken: make(chan struct{}), close: make(chan struct{})}
	t.Cleanup(func() { close(d.woken) })
	return d
}

func (d *deaf) Read([]byte) (int, error) {
	<-d.woken
	return 0, io.ErrUnexpectedEOF
}

func (d *deaf) Close() error {
	d.closed.Do(func() { close(d.close) })
	return nil
}

// The head of a request is not held back for a body that is not there: who sends
// it may be waiting for an answer to the head.
func TestHeadGoesAhead(t *testing.T) {
	for _, c := range []struct {
		name   string
		length int64
	}{{"short", 10}, {"long", inlineBody + 1}, {"unknown", -1}} {
		t.Run(c.name, func(t *testing.T) {
			cc, p := connect(t, ClientOptions{})
			body := newDeaf(t)
			req := request(t, "POST", "")
			req.Body, req.ContentLength = body, c.length
			go func() {
				p.head()
				p.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
			}()
			resp, err := cc.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "no" || err != nil {
				t.Errorf("read %q, %v", b, err)
			}
			if cc.Reusable() {
				t.Error("a connection with half a request on it would be used again")
			}
			<-body.close
		})
	}
}

// A body that nobody can be woken from does not keep the caller either.
func TestErrorBesideBody(t *testing.T) {
	cc, p := connect(t, ClientOptions{})
	body := newDeaf(t)
	req := request(t, "POST", "")
	req.Body, req.ContentLength = body, 10
	go func() { p.head(); p.Close() }()
	_, err := cc.RoundTrip(req)
	var cerr *ClientError
	if !errors.As(err, &cerr) || !cerr.Wrote || !cerr.BodyRead || cerr.Received {
		t.Errorf("%+v", cerr)
	}
	<-body.close
}

// A short body that is there goes in one piece with its head.
func TestInline(t *testing.T) {
	t.Run("whole", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		req := request(t, "POST", "")
		req.Body, req.ContentLength = &there{strings.NewReader("hello"), 5}, 5
		go func() { p.head(); p.expect("hello"); p.send("HTTP/1.1 204 No Content\r\n\r\n") }()
		if _, err := cc.RoundTrip(req); err != nil || !cc.Reusable() || cc.upload != nil {
			t.Error(err, cc.Reusable())
		}
	})
	t.Run("without its end", func(t *testing.T) {
		// As of an HTTP/2 client who sends END_STREAM when he has the answer.
		cc, p := connect(t, ClientOptions{})
		body := newDeaf(t)
		req := request(t, "POST", "")
		req.Body, req.ContentLength = &there{io.MultiReader(strings.NewReader("hello"), body), 5}, 5
		go func() {
			p.head()
			p.expect("hello")
			p.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}()
		resp, err := cc.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		body io.Reader
		want error
	}{
		{"short", strings.NewReader("hell"), errBodyShort},
		{"long", strings.NewReader("hello!"), errBodyLong},
		{"broken", io.MultiReader(strings.NewReader("hell"), errReader{broken}), broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc, p := connect(t, ClientOptions{})
			req := request(t, "POST", "")
			req.Body, req.ContentLength = &there{c.body, 5}, 5
			_, err := cc.RoundTrip(req)
			var cerr *ClientError
			if !errors.As(err, &cerr) || !errors.Is(err, c.want) || cerr.Wrote || !cerr.BodyRead {
				t.Errorf("%+v", err)
			}
			if got, _ := io.ReadAll(p.in); len(got) > 0 {
				t.Errorf("sent %q", got)
			}
		})
	}
}

// What cannot be written is told apart from what a connection made of it, and its
// body is left alone.
func TestRequestError(t *testing.T) {
	for _, c := range []struct {
		name string
		req  func(*http.Request)
		want error
	}{
		{"CONNECT", func(r *http.Request) { r.Method = "CONNECT" }, errConnectMethod},
		{"method", func(r *http.Request) { r.Method = "GE T" }, errMethod},
		{"host", func(r *http.Request) { r.Host = "a b" }, errHost},
		{"target", func(r *http.Request) { r.URL.Opaque = "/a b" }, errTarget},
		{"name", func(r *http.Request) { r.Header["A b"] = []string{"c"} }, errName},
		{"value", func(r *http.Request) { r.Header["A"] = []string{"b\r\nc: d"} }, errValue},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc, _ := connect(t, ClientOptions{})
			req := request(t, "POST", "")
			body := &closeCounter{Reader: strings.NewReader("hello")}
			req.Body, req.ContentLength = body, 5
			c.req(req)
			_, err := cc.RoundTrip(req)
			var rerr *RequestError
			var cerr *ClientError
			if !errors.As(err, &rerr) || !errors.As(err, &cerr) || !errors.Is(err, c.want) || cerr.Wrote || cerr.BodyRead {
				t.Errorf("%+v", err)
			}
			if body.n > 0 {
				t.Error("the body was closed: it cannot be sent elsewhere")
			}
		})
	}
}

// The end of a body is told by Read, not by SpliceTo.
func TestSpliceAfterTheEnd(t *testing.T) {
	cc, p := connect(t, ClientOptions{})
	go func() { p.head(); p.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") }()
	req := request(t, "GET", "")
	req.Body = http.NoBody
	resp, err := cc.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	if n, err := resp.Body.(Spliceable).SpliceTo(nil, spliceMin); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read ends with %v", err)
	}
}
