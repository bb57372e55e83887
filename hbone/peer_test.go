package hbone

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/adit-mesh/adit/identity/identitytest"
)

// peer speaks HTTP/2 frame by frame over TLS: what a stranger may do.
type peer struct {
	t testing.TB
	*http2.Framer
	conn net.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

func newPeer(t testing.TB, c net.Conn) *peer {
	p := &peer{t: t, conn: c, Framer: http2.NewFramer(c, c)}
	p.AllowIllegalWrites = true
	p.SetMaxReadFrameSize(1<<24 - 1)
	p.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	p.enc = hpack.NewEncoder(&p.buf)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return p
}

// client is a stranger's connection to the rig's server, SETTINGS exchanged.
func (r *rig) client(settings ...http2.Setting) *peer {
	r.t.Helper()
	p := r.silent()
	io.WriteString(p.conn, http2.ClientPreface)
	p.WriteSettings(settings...)
	p.until("the server's SETTINGS", func(f http2.Frame) bool { return f.Header().Type == http2.FrameSettings })
	p.WriteSettingsAck()
	return p
}

// silent is a TLS connection to the rig's server that has said nothing.
func (r *rig) silent() *peer {
	r.t.Helper()
	c, err := r.target.Dial(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	tc := tls.Client(c, tunnelTLS(r.target.TLS))
	if err := tc.Handshake(); err != nil {
		r.t.Fatal(err)
	}
	return newPeer(r.t, tc)
}

// strangeServer serves every tunnel of the pool that it returns by script, in
// a goroutine for each; n counts the tunnels from 0.
func strangeServer(t testing.TB, pc PoolConfig, script func(n int, p *peer)) (*Pool, Target) {
	t.Helper()
	mesh := identitytest.New(t, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	cfg := tunnelTLS(mesh.ServerTLS(server))
	l := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				tc := tls.Server(c, cfg)
				if err := tc.Handshake(); err != nil {
					return
				}
				script(n, newPeer(t, tc))
			})
		}
	})
	pool := NewPool(pc)
	t.Cleanup(func() {
		l.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		pool.Shutdown(ctx)
		wg.Wait()
	})
	return pool, Target{
		Key: "stranger",
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
		TLS: mesh.ClientTLS(client, server),
	}
}

// greet is a server's side of the preface. Errors show in what follows.
func (p *peer) greet(settings ...http2.Setting) {
	io.ReadFull(p.conn, make([]byte, len(http2.ClientPreface)))
	p.WriteSettings(settings...)
}

// drain reads, and answers nothing, until the peer closes.
func (p *peer) drain() {
	for {
		if _, err := p.ReadFrame(); err != nil {
			if _, ok := err.(http2.StreamError); !ok {
				return
			}
		}
	}
}

// await reads frames until one matches; false when the connection ends first.
func (p *peer) await(match func(http2.Frame) bool) bool {
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return false
		}
		if match(f) {
			return true
		}
	}
}

// until is await for tests that cannot go on without the frame.
func (p *peer) until(why string, match func(http2.Frame) bool) {
	p.t.Helper()
	var seen []string
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("want %s; the connection ended with %v after %v", why, err, seen)
		}
		if match(f) {
			return
		}
		if len(seen) < 20 {
			seen = append(seen, fmt.Sprint(f.Header()))
		}
	}
}

func (p *peer) wantGoAway(why string, codes ...http2.ErrCode) {
	p.t.Helper()
	p.until(fmt.Sprintf("GOAWAY %v: %s", codes, why), func(f http2.Frame) bool {
		g, ok := f.(*http2.GoAwayFrame)
		if !ok {
			return false
		}
		for _, c := range codes {
			if g.ErrCode == c {
				return true
			}
		}
		p.t.Errorf("%s: GOAWAY with %v (%q), want %v", why, g.ErrCode, g.DebugData(), codes)
		return true
	})
	for {
		if _, err := p.ReadFrame(); err != nil {
			if isTimeout(err) {
				p.t.Errorf("%s: still connected after the GOAWAY", why)
			}
			return
		}
	}
}

func (p *peer) wantReset(why string, id uint32, code http2.ErrCode) {
	p.t.Helper()
	p.until(fmt.Sprintf("RST_STREAM %v on %d: %s", code, id, why), func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			p.t.Fatalf("%s: GOAWAY %v (%q), want only stream %d reset", why, f.ErrCode, f.DebugData(), id)
		case *http2.RSTStreamFrame:
			if f.StreamID == id && f.ErrCode != code {
				p.t.Errorf("%s: stream %d reset with %v, want %v", why, id, f.ErrCode, code)
			}
			return f.StreamID == id
		}
		return false
	})
}

func (p *peer) wantStatus(why string, id uint32, status string) {
	p.t.Helper()
	p.until(fmt.Sprintf("status %s on %d: %s", status, id, why), func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if !ok || h.StreamID != id {
			return false
		}
		if got := h.PseudoValue("status"); got != status {
			p.t.Errorf("%s: status %s, want %s", why, got, status)
		}
		return true
	})
}

// wantData reads n bytes of DATA on stream id and returns them.
func (p *peer) wantData(why string, id uint32, n int) []byte {
	p.t.Helper()
	var got []byte
	for len(got) < n {
		p.until(fmt.Sprintf("%d bytes on %d (%d so far): %s", n, id, len(got), why), func(f http2.Frame) bool {
			d, ok := f.(*http2.DataFrame)
			if !ok || d.StreamID != id {
				return false
			}
			got = append(got, d.Data()...)
			return true
		})
	}
	return got
}

// block encodes fields given as name, value, name, value.
func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

func (p *peer) headers(id uint32, end bool, fields ...string) {
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

// connect opens a stream toward one of the destinations of script.
func (p *peer) connect(id uint32, authority string) {
	p.headers(id, false, ":method", "CONNECT", ":authority", authority)
}

// alive shows that the tunnel still serves: a new stream echoes.
func (p *peer) alive(why string, id uint32) {
	p.t.Helper()
	p.connect(id, "echo:1")
	p.wantStatus("the tunnel lives on: "+why, id, "200")
	p.WriteData(id, true, []byte("alive?"))
	if got := p.wantData("the tunnel lives on: "+why, id, 6); string(got) != "alive?" {
		p.t.Errorf("%s: echo was %q", why, got)
	}
}

var sourced = noise(1, 100<<10)

// scripted makes the rig's server behave as the authority says, without sockets.
func scripted(_ *rig, _ *PoolConfig, sc *ServerConfig) {
	sc.Handler = func(ctx context.Context, s *Stream) {
		switch s.Request().Authority {
		case "echo:1": // until the end of what is sent
			s.Accept()
			if _, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{s}); err == nil {
				s.CloseWrite()
			}
		case "sink:1": // read to the end, then end
			s.Accept()
			io.Copy(io.Discard, struct{ io.Reader }{s})
		case "source:1": // 100 KiB, then read to the end
			s.Accept()
			s.Write(sourced)
			s.CloseWrite()
			io.Copy(io.Discard, struct{ io.Reader }{s})
		case "hold:1": // never read
			s.Accept()
			<-ctx.Done()
		case "wait:1": // never answer
			<-ctx.Done()
		case "refuse:1":
			s.Reject(503)
		default:
			s.Reject(400)
		}
	}
}

func maxStreams(n uint32) rigOption {
	return func(_ *rig, _ *PoolConfig, sc *ServerConfig) { sc.Limits.MaxStreams = n }
}
