package h1

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"testing"
	"time"
)

// memConn is a connection on which everything has come already, in pieces.
type memConn struct {
	in      []byte
	piece   int
	out     bytes.Buffer
	expired bool
}

func (c *memConn) Read(p []byte) (int, error) {
	switch {
	case c.expired:
		return 0, os.ErrDeadlineExceeded
	case len(c.in) == 0:
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.piece)], c.in)
	c.in = c.in[n:]
	return n, nil
}
func (c *memConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *memConn) Close() error                     { return nil }
func (c *memConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memConn) SetReadDeadline(t time.Time) error {
	c.expired = t.Equal(longAgo)
	return nil
}

// message is what two parsers have to agree on.
func message(r *http.Request, body []byte) string {
	delete(r.Header, "Trailer") // which net/http keeps if there cannot be one
	return fmt.Sprintf("%s %s %s %q %v %v", r.Method, r.RequestURI, r.Proto, body, r.Header, r.Trailer)
}

// FuzzRequest: whatever sequence of requests is accepted, net/http reads the same
// one: nobody behind can find another request in it.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		benchRequest,
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.0\r\n\r\n",
		"GET http://b/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: 1\r\nx-a:2\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"\r\nOPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding : chunked\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(1<<15))
		f.Add([]byte(s), uint16(1))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint16) {
		theirs := bufio.NewReaderSize(bytes.NewReader(in), 1<<17)
		c := &memConn{in: in, piece: int(piece) + 1}
		(&Server{}).ServeConn(context.Background(), c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if b, _ := theirs.Peek(2); string(b) == "\r\n" {
				theirs.Discard(2) // the empty line that net/http does not let pass
			}
			other, err := http.ReadRequest(theirs)
			if err != nil {
				t.Fatalf("net/http refuses: %v", err)
			}
			otherBody, err := io.ReadAll(other.Body)
			if err != nil {
				t.Fatalf("net/http refuses the body: %v", err)
			}
			if got, want := message(r, body), message(other, otherBody); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		}))
	})
}

// FuzzResponse: whatever answer is accepted, net/http reads the same, and as much
// of the connection.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"HTTP/1.0 200 \r\nConnection: keep-alive\r\n\r\nhello",
		"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), uint16(1<<15), false)
		f.Add([]byte(s), uint16(1), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint16, head bool) {
		req, _ := http.NewRequest("GET", "http://a/", nil)
		if head {
			req.Method = "HEAD"
		}
		c := &memConn{in: in, piece: int(piece) + 1}
		cc := NewClientConn(c, ClientOptions{})
		defer cc.Close()
		resp, err := cc.RoundTrip(req)
		if err != nil {
			return
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return
		}
		theirs := bufio.NewReaderSize(bytes.NewReader(in), 1<<17)
		var other *http.Response
		for {
			if other, err = http.ReadResponse(theirs, req); err != nil {
				t.Fatalf("net/http refuses: %v", err)
			}
			if other.StatusCode >= 200 || other.StatusCode == 101 {
				break
			}
		}
		otherBody, err := io.ReadAll(other.Body)
		if err != nil {
			t.Fatalf("net/http refuses the body: %v", err)
		}
		got := fmt.Sprintf("%d %q %v %v", resp.StatusCode, body, resp.Header, resp.Trailer)
		want := fmt.Sprintf("%d %q %v %v", other.StatusCode, otherBody, other.Header, other.Trailer)
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if left := theirs.Buffered(); cc.Free() && len(c.in) != left {
			t.Errorf("%d bytes are left, of which net/http has left %d", len(c.in), left)
		}
	})
}

// FuzzChunked: a chunked body is the same however it is cut, and to net/http.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), uint16(0), uint16(0))
	f.Add([]byte("5;a=b\r\nhello\r\nA\r\n0123456789\r\n00\r\nX: y\r\n\r\nmore"), uint16(3), uint16(7))
	f.Add([]byte("fffffffffffffff\r\nhello"), uint16(100), uint16(100))
	f.Fuzz(func(t *testing.T, in []byte, piece, size uint16) {
		read := func(piece, size int) (string, int, error) {
			c := &memConn{in: in, piece: piece}
			var r reader
			r.init(c)
			defer r.free()
			var b messageBody
			b.start(&r, lengthChunked)
			var got strings.Builder
			p := make([]byte, size)
			for {
				n, err := b.read(p)
				got.Write(p[:n])
				if err != nil {
					return got.String(), len(c.in) + r.buffered(), err
				}
			}
		}
		got, left, err := read(int(piece)+1, int(size)+1)
		all, allLeft, allErr := read(1<<20, 1<<16)
		if got != all || (err == io.EOF) != (allErr == io.EOF) || err == io.EOF && left != allLeft {
			t.Errorf("in pieces %q, %v, %d left; at once %q, %v, %d left", got, err, left, all, allErr, allLeft)
		}
		if err != io.EOF {
			return
		}
		other, err := io.ReadAll(httputil.NewChunkedReader(bufio.NewReaderSize(bytes.NewReader(in), 1<<17)))
		if err != nil || string(other) != got {
			t.Errorf("got %q, net/http %q, %v", got, other, err)
		}
	})
}
