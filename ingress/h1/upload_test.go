package h1

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestClientContinue(t *testing.T) {
	post := func() *http.Request {
		req := request(t, "POST", "hello")
		req.Header.Set("Expect", "100-continue")
		return req
	}
	t.Run("let", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{ContinueTimeout: time.Hour})
		go func() {
			p.head()
			p.send("HTTP/1.1 100 Continue\r\n\r\n")
			p.expect("hello")
			p.send("HTTP/1.1 204 No Content\r\n\r\n")
		}()
		if _, err := cc.RoundTrip(post()); err != nil || !cc.Reusable() {
			t.Error(err, cc.Reusable())
		}
	})
	t.Run("not let", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{ContinueTimeout: time.Hour})
		go func() { p.head(); p.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n") }()
		resp, err := cc.RoundTrip(post())
		if err != nil || resp.StatusCode != 417 || cc.Reusable() {
			t.Error(resp, err, cc.Reusable())
		}
		if rest, _ := io.ReadAll(p.in); len(rest) > 0 {
			t.Errorf("sent %q", rest)
		}
	})
	t.Run("no word", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{ContinueTimeout: time.Millisecond})
		go func() { p.head(); p.expect("hello"); p.send("HTTP/1.1 204 No Content\r\n\r\n") }()
		if _, err := cc.RoundTrip(post()); err != nil || !cc.Reusable() {
			t.Error(err, cc.Reusable())
		}
	})
}

// An answer that comes before the request's body is at its end.
func TestEarlyAnswer(t *testing.T) {
	t.Run("and the rest is not wanted", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		pr, pw := io.Pipe()
		defer pw.Close()
		req := request(t, "POST", "")
		req.Body, req.ContentLength = pr, -1
		go func() { p.head(); p.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nlong") }()
		resp, err := cc.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "long" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if cc.Reusable() {
			t.Error("a connection with half a request on it would be used again")
		}
		if _, err := pw.Write([]byte("x")); err == nil {
			t.Error("the request's body is still read")
		}
	})
	t.Run("and both go on", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		pr, pw := io.Pipe()
		req := request(t, "POST", "")
		req.Body, req.ContentLength = pr, -1
		go func() {
			p.head()
			p.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for range 3 {
				p.expect("5\r\nhello\r\n")
				p.send("5\r\nworld\r\n")
			}
			p.expect("0\r\n\r\n")
			p.send("0\r\n\r\n")
		}()
		resp, err := cc.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			io.WriteString(pw, "hello")
			b := make([]byte, 5)
			if _, err := io.ReadFull(resp.Body, b); string(b) != "world" {
				t.Fatalf("read %q, %v", b, err)
			}
		}
		pw.Close()
		if b, err := io.ReadAll(resp.Body); len(b) != 0 || err != nil || !cc.Reusable() {
			t.Errorf("read %q, %v; reusable %v", b, err, cc.Reusable())
		}
	})
	t.Run("and the connection is reset", func(t *testing.T) {
		cc, p := connect(t, ClientOptions{})
		req := request(t, "POST", "")
		req.Body, req.ContentLength = io.NopCloser(neverEnding{}), -1
		go func() {
			p.head()
			p.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			p.Close()
		}()
		// The answer may be lost with the reset; the exchange must end anyway.
		resp, err := cc.RoundTrip(req)
		if err == nil && resp.StatusCode != 413 || cc.Reusable() {
			t.Error(resp, err)
		}
	})
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// A body that is not what was promised, or that breaks, breaks the request: it must
// not look whole to the peer.
func TestBrokenRequestBody(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name   string
		body   io.Reader
		length int64
		want   error
	}{
		{"short", strings.NewReader("hell"), 5, errBodyShort},
		{"long", strings.NewReader("hello!"), 5, errBodyLong},
		{"broken", io.MultiReader(strings.NewReader("hell"), errReader{broken}), 5, broken},
		{"streamed and short", strings.NewReader("hell"), inlineBody + 1, errBodyShort},
		{"streamed and long", bytes.NewReader(make([]byte, inlineBody+2)), inlineBody + 1, errBodyLong},
		{"chunked and broken", io.MultiReader(strings.NewReader("hell"), errReader{broken}), -1, broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc, p := connect(t, ClientOptions{})
			req := request(t, "POST", "")
			closed := &closeCounter{Reader: c.body}
			req.Body, req.ContentLength = closed, c.length
			_, err := cc.RoundTrip(req)
			var berr *BodyError
			if !errors.As(err, &berr) || !errors.Is(err, c.want) || cc.Reusable() {
				t.Errorf("%v", err)
			}
			if closed.n == 0 {
				t.Error("the body was not closed")
			}
			if got, _ := io.ReadAll(p.in); strings.HasSuffix(string(got), "0\r\n\r\n") {
				t.Errorf("half a body looks whole: %q", got)
			}
		})
	}
}

type errReader struct{ error }

func (e errReader) Read([]byte) (int, error) { return 0, e.error }

type closeCounter struct {
	io.Reader
	n int
}

func (c *closeCounter) Close() error { c.n++; return nil }
