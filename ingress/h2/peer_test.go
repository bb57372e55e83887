package h2

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// peer is a client that sends what a test wants, frame by frame.
type peer struct {
	t    testing.TB
	c    net.Conn
	f    *http2.Framer
	enc  *hpack.Encoder
	buf  bytes.Buffer
	next uint32
	// seen are frames that were read while another kind was wanted.
	patience time.Duration
}

// dial connects a peer that has exchanged SETTINGS.
func dial(t testing.TB, addr string, settings ...http2.Setting) *peer {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return greet(t, c, settings...)
}

func greet(t testing.TB, c net.Conn, settings ...http2.Setting) *peer {
	t.Helper()
	t.Cleanup(func() { c.Close() })
	p := &peer{t: t, c: c, f: http2.NewFramer(c, c), next: 1, patience: 10 * time.Second}
	p.f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.buf)
	if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	if err := p.f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	p.want("the server's SETTINGS", func(f http2.Frame) bool {
		st, ok := f.(*http2.SettingsFrame)
		return ok && !st.IsAck()
	})
	p.f.WriteSettingsAck()
	return p
}

// want reads up to the first frame that fits.
func (p *peer) want(what string, fits func(http2.Frame) bool) http2.Frame {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(p.patience))
	var seen []string
	for {
		f, err := p.f.ReadFrame()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v; seen: %v", what, err, seen)
		}
		if fits(f) {
			return f
		}
		seen = append(seen, fmt.Sprint(f))
	}
}

// block encodes a header list: name, value, name, value...
func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

var getRoot = []string{":method", "GET", ":scheme", "http", ":authority", "example.com", ":path", "/"}

// open sends a request's header and returns its stream.
func (p *peer) open(end bool, fields ...string) uint32 {
	p.t.Helper()
	id := p.next
	p.next += 2
	if err := p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true}); err != nil {
		p.t.Fatal(err)
	}
	return id
}

func with(fields []string, more ...string) []string {
	return append(append([]string(nil), fields...), more...)
}

var postRoot = []string{":method", "POST", ":scheme", "http", ":authority", "example.com", ":path", "/"}

func (p *peer) wantReset(id uint32, code http2.ErrCode) {
	p.t.Helper()
	p.want(fmt.Sprintf("RST_STREAM(%v) of stream %d", code, id), func(f http2.Frame) bool {
		rst, ok := f.(*http2.RSTStreamFrame)
		if ok && rst.StreamID == id && rst.ErrCode != code {
			p.t.Fatalf("stream %d was reset with %v, want %v", id, rst.ErrCode, code)
		}
		return ok && rst.StreamID == id
	})
}

func (p *peer) wantGoAway(code http2.ErrCode) *http2.GoAwayFrame {
	p.t.Helper()
	return p.want(fmt.Sprintf("GOAWAY(%v)", code), func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		if ok && g.ErrCode != code {
			p.t.Fatalf("GOAWAY with %v (%s), want %v", g.ErrCode, g.DebugData(), code)
		}
		return ok
	}).(*http2.GoAwayFrame)
}

func (p *peer) wantStatus(id uint32, status string) *http2.MetaHeadersFrame {
	p.t.Helper()
	return p.want(fmt.Sprintf("status %s of stream %d", status, id), func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == id && f.PseudoValue("status") != status {
				p.t.Fatalf("stream %d was answered with %s, want %s", id, f.PseudoValue("status"), status)
			}
			return f.StreamID == id
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				p.t.Fatalf("stream %d was reset with %v, want status %s", id, f.ErrCode, status)
			}
		case *http2.GoAwayFrame:
			p.t.Fatalf("GOAWAY %v %s, want status %s of stream %d", f.ErrCode, f.DebugData(), status, id)
		}
		return false
	}).(*http2.MetaHeadersFrame)
}

// wantEnd waits for END_STREAM, and returns the DATA before it.
func (p *peer) wantEnd(id uint32) (body []byte, trailer *http2.MetaHeadersFrame) {
	p.t.Helper()
	p.want(fmt.Sprintf("the end of stream %d", id), func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.DataFrame:
			if f.StreamID == id {
				body = append(body, f.Data()...)
				return f.StreamEnded()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id && f.StreamEnded() {
				trailer = f
				return true
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				p.t.Fatalf("stream %d was reset with %v", id, f.ErrCode)
			}
		}
		return false
	})
	return body, trailer
}

// ping waits until the server has handled all that was sent before.
func (p *peer) ping() {
	p.t.Helper()
	p.f.WritePing(false, [8]byte{'t'})
	p.want("PONG", func(f http2.Frame) bool {
		pf, ok := f.(*http2.PingFrame)
		return ok && pf.IsAck()
	})
}

// wantClosed reads to the end of the connection.
func (p *peer) wantClosed() {
	p.t.Helper()
	p.c.SetReadDeadline(time.Now().Add(p.patience))
	for {
		if _, err := p.f.ReadFrame(); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				p.t.Fatal("the connection was not closed")
			}
			return
		}
	}
}

// pipeServer serves one end of a pipe in memory, for tests with a clock of their
// own; the other end is the peer's.
func pipeServer(t testing.TB, ctx context.Context, s *Server, h http.HandlerFunc) (net.Conn, chan struct{}) {
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ServePeer(ctx, b, h, Peer{RemoteAddr: "pipe"})
	}()
	return a, done
}
