package hbone

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// Servers that answer a CONNECT as they should not, or as they may but seldom do.

// request is a CONNECT that a scripted server has read; 0 when the connection
// ended before one came.
func (p *peer) request() (id uint32) {
	p.await(func(f http2.Frame) bool {
		h, ok := f.(*http2.MetaHeadersFrame)
		if ok {
			id = h.StreamID
		}
		return ok
	})
	return id
}

// next reads a stream to its end and says how it ended.
func next(s *Stream) (string, error) {
	got, err := io.ReadAll(struct{ io.Reader }{s})
	return string(got), err
}

func TestDialRefuses(t *testing.T) {
	status := func(fields ...string) func(*peer, uint32) {
		return func(p *peer, id uint32) { p.headers(id, false, fields...) }
	}
	for _, tc := range []struct {
		name   string
		answer func(p *peer, id uint32)
		reset  http2.ErrCode // what the server is told
	}{
		{"DATA before the answer", func(p *peer, id uint32) {
			p.WriteData(id, false, []byte("early"))
			p.headers(id, false, ":status", "200")
		}, http2.ErrCodeProtocol},
		{"END_STREAM before the answer", func(p *peer, id uint32) { p.WriteData(id, true, nil) }, http2.ErrCodeProtocol},
		{"status 101", status(":status", "101"), http2.ErrCodeProtocol},
		{"no status", status("x", "y"), http2.ErrCodeProtocol},
		{"status abc", status(":status", "abc"), http2.ErrCodeProtocol},
		{"status 99", status(":status", "99"), http2.ErrCodeProtocol},
		{"status 20000", status(":status", "20000"), http2.ErrCodeProtocol},
		{"two statuses", status(":status", "200", ":status", "200"), http2.ErrCodeProtocol},
		{"a pseudo-header of a request", status(":status", "200", ":method", "CONNECT"), http2.ErrCodeProtocol},
		{"an interim answer that ends", func(p *peer, id uint32) { p.headers(id, true, ":status", "103") }, http2.ErrCodeProtocol},
		{"headers above the limit", func(p *peer, id uint32) {
			long := strings.Repeat("x", 5000)
			p.conn.Write(appendHeaders(nil, id, p.block(":status", "200", "a", long, "b", long, "c", long, "d", long), false))
		}, http2.ErrCodeProtocol},
		{"status 503, without end", status(":status", "503"), http2.ErrCodeCancel},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			told := make(chan http2.ErrCode, 1)
			pool, target := strangeServer(t, PoolConfig{}, func(_ int, p *peer) {
				p.greet()
				for first := true; ; first = false {
					id := p.request()
					if id == 0 {
						return
					}
					if !first { // the tunnel has to live on
						p.headers(id, true, ":status", "200")
						continue
					}
					tc.answer(p, id)
					p.await(func(f http2.Frame) bool {
						r, ok := f.(*http2.RSTStreamFrame)
						if ok && r.StreamID == id {
							told <- r.ErrCode
						}
						return ok && r.StreamID == id
					})
				}
			})
			if s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"}); err == nil {
				s.Close()
				t.Fatal("Dial took it")
			} else if de := (*DialError)(nil); !errors.As(err, &de) || de.Phase != PhaseConnect {
				t.Errorf("Dial: %v, want a DialError of phase connect", err)
			}
			if code := <-told; code != tc.reset {
				t.Errorf("the server was told %v, want %v", code, tc.reset)
			}
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatalf("the next stream: %v", err)
			}
			s.Close()
			if n := len(pool.Stats()); n != 1 {
				t.Errorf("%d tunnels, want the one that there was", n)
			}
		})
	}
}

// A server that breaks the connection's rules loses the tunnel and is told why.
func TestClientEndsTheTunnelOf(t *testing.T) {
	for _, tc := range []struct {
		name string
		send func(p *peer, id uint32)
		want http2.ErrCode
	}{
		{"PUSH_PROMISE", func(p *peer, id uint32) {
			p.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: p.block(":method", "GET"), EndHeaders: true})
		}, http2.ErrCodeProtocol},
		{"HEADERS on a stream never opened", func(p *peer, id uint32) { p.headers(id+2, false, ":status", "200") }, http2.ErrCodeProtocol},
		{"HEADERS on an even stream", func(p *peer, id uint32) { p.headers(2, false, ":status", "200") }, http2.ErrCodeProtocol},
		{"DATA on a stream never opened", func(p *peer, id uint32) { p.WriteData(id+2, false, []byte("x")) }, http2.ErrCodeProtocol},
		{"RST_STREAM on a stream never opened", func(p *peer, id uint32) { p.WriteRSTStream(id+2, http2.ErrCodeCancel) }, http2.ErrCodeProtocol},
		{"a SETTINGS that makes a window too large", func(p *peer, id uint32) {
			p.WriteWindowUpdate(id, maxWindow-defaultWindow)
			p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
		}, http2.ErrCodeFlowControl},
		{"HPACK rubbish", func(p *peer, id uint32) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, id, []byte{0xff, 0xff, 0xff})
		}, http2.ErrCodeCompression},
		{"a frame above MAX_FRAME_SIZE", func(p *peer, id uint32) {
			p.conn.Write(appendFrameHeader(nil, MaxFrame+1, frameData, 0, id))
		}, http2.ErrCodeFrameSize},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			told := make(chan http2.ErrCode, 1)
			pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
				p.greet()
				id := p.request()
				if n > 0 {
					p.headers(id, false, ":status", "200")
					p.drain()
					return
				}
				tc.send(p, id)
				p.await(func(f http2.Frame) bool {
					g, ok := f.(*http2.GoAwayFrame)
					if ok {
						told <- g.ErrCode
					}
					return ok
				})
			})
			if s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"}); err == nil {
				s.Close()
				t.Fatal("Dial succeeded on a tunnel that is broken")
			}
			if code := <-told; code != tc.want {
				t.Errorf("GOAWAY said %v, want %v", code, tc.want)
			}
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatalf("Dial after the broken tunnel: %v", err)
			}
			s.Close()
		})
	}
}

// A server whose first bytes are no HTTP/2 fails the dial in phase h2.
func TestDialWantsSettingsFirst(t *testing.T) {
	for name, hello := range map[string]string{
		"HTTP/1.1":   "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
		"PING first": string(appendPing(nil, false, [8]byte{})),
		"GOAWAY":     string(appendGoAway(nil, 0, http2.ErrCodeEnhanceYourCalm, "not now")),
		"nothing":    "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, target := strangeServer(t, PoolConfig{}, func(_ int, p *peer) {
				io.WriteString(p.conn, hello)
				if hello != "" {
					p.drain()
				}
			})
			_, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			var de *DialError
			if !errors.As(err, &de) || de.Phase != PhaseH2 {
				t.Errorf("Dial: %v, want a DialError of phase h2", err)
			}
		})
	}
}

func TestInterimAnswersAreNotTheAnswer(t *testing.T) {
	pool, target := strangeServer(t, PoolConfig{}, func(_ int, p *peer) {
		p.greet()
		id := p.request()
		p.headers(id, false, ":status", "103", "link", "x")
		p.headers(id, false, ":status", "100")
		p.headers(id, false, ":status", "200", "baggage", "service.name=s")
		p.WriteData(id, true, []byte("hello"))
		p.drain()
	})
	s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if h := s.ResponseHeader(); len(h) != 1 || h[0] != (Header{"baggage", "service.name=s"}) {
		t.Errorf("headers of the answer: %v", h)
	}
	if got, err := next(s); got != "hello" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestTrailersResetTheStream(t *testing.T) {
	pool, target := strangeServer(t, PoolConfig{}, func(_ int, p *peer) {
		p.greet()
		id := p.request()
		p.headers(id, false, ":status", "200")
		p.WriteData(id, false, []byte("hello"))
		p.headers(id, true, "grpc-status", "0")
		p.wantReset("trailers on a CONNECT stream", id, http2.ErrCodeProtocol)
		p.drain()
	})
	s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var re *ResetError
	if _, err := next(s); !errors.As(err, &re) {
		t.Errorf("a stream that ended in trailers reads as %v, want a reset", err)
	}
}

// How the end of a stream reads, whatever the server does after it.
func TestEnds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		end   func(p *peer, id uint32)
		clean bool
	}{
		{"END_STREAM", func(p *peer, id uint32) { p.WriteData(id, true, nil) }, true},
		{"END_STREAM and NO_ERROR: the server wants no more", func(p *peer, id uint32) {
			p.WriteData(id, true, nil)
			p.WriteRSTStream(id, http2.ErrCodeNo)
		}, true},
		{"NO_ERROR without END_STREAM", func(p *peer, id uint32) { p.WriteRSTStream(id, http2.ErrCodeNo) }, false},
		{"CANCEL", func(p *peer, id uint32) { p.WriteRSTStream(id, http2.ErrCodeCancel) }, false},
		{"END_STREAM and CONNECT_ERROR", func(p *peer, id uint32) {
			p.WriteData(id, true, nil)
			p.WriteRSTStream(id, http2.ErrCodeConnect)
		}, false},
		{"the connection's end", func(p *peer, id uint32) { p.conn.Close() }, false},
		{"GOAWAY above the stream, then the connection's end", func(p *peer, id uint32) {
			p.WriteGoAway(id, http2.ErrCodeNo, nil)
			p.conn.Close()
		}, false},
		{"GOAWAY below the stream", func(p *peer, id uint32) { p.WriteGoAway(0, http2.ErrCodeNo, nil) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pool, target := strangeServer(t, PoolConfig{}, func(_ int, p *peer) {
				p.greet()
				id := p.request()
				p.headers(id, false, ":status", "200")
				p.WriteData(id, false, []byte("hello"))
				tc.end(p, id)
				p.drain()
			})
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			got, err := next(s)
			if clean := err == nil; clean != tc.clean || clean && got != "hello" {
				t.Errorf("read %q, %v; want a clean end: %v", got, err, tc.clean)
			}
		})
	}
}

// Streams that a server has promised not to have begun are offered elsewhere.
func TestRetries(t *testing.T) {
	for _, tc := range []struct {
		name   string
		refuse func(p *peer, id uint32)
	}{
		{"GOAWAY", func(p *peer, id uint32) { p.WriteGoAway(0, http2.ErrCodeNo, nil) }},
		{"REFUSED_STREAM and GOAWAY", func(p *peer, id uint32) {
			p.WriteRSTStream(id, http2.ErrCodeRefusedStream)
			p.WriteGoAway(id, http2.ErrCodeNo, nil)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
				p.greet()
				id := p.request()
				if n < openTries-1 {
					tc.refuse(p, id)
				} else {
					p.headers(id, false, ":status", "200")
				}
				p.drain()
			})
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatalf("Dial with two tunnels that refuse and a third that does not: %v", err)
			}
			s.Close()
		})
	}
	t.Run("REFUSED_STREAM on the same tunnel", func(t *testing.T) {
		pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
			p.greet()
			p.WriteRSTStream(p.request(), http2.ErrCodeRefusedStream)
			p.headers(p.request(), false, ":status", "200")
			p.drain()
		})
		s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
	t.Run("not for ever", func(t *testing.T) {
		pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
			p.greet()
			for id := p.request(); id != 0; id = p.request() {
				p.WriteRSTStream(id, http2.ErrCodeRefusedStream)
			}
		})
		_, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
		var re *ResetError
		if !errors.As(err, &re) || re.Code != http2.ErrCodeRefusedStream {
			t.Fatalf("Dial to a server that refuses every stream: %v", err)
		}
	})
	t.Run("never what may have begun", func(t *testing.T) {
		var mu sync.Mutex
		requests := 0
		pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
			p.greet()
			for id := p.request(); id != 0; id = p.request() {
				mu.Lock()
				requests++
				mu.Unlock()
				p.WriteRSTStream(id, http2.ErrCodeCancel)
			}
		})
		if _, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"}); err == nil {
			t.Fatal("Dial succeeded")
		}
		mu.Lock()
		defer mu.Unlock()
		if requests != 1 {
			t.Errorf("the CONNECT was sent %d times though the server may have served it", requests)
		}
	})
}

// The streams of a tunnel whose server goes away go on below the last id.
func TestGoAwayKeepsStreamsBelowTheLast(t *testing.T) {
	goAway := make(chan struct{})
	pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
		p.greet()
		id := p.request()
		p.headers(id, false, ":status", "200")
		if n == 0 {
			<-goAway
			p.WriteGoAway(id, http2.ErrCodeNo, []byte("drain"))
		}
		p.await(func(f http2.Frame) bool {
			d, ok := f.(*http2.DataFrame)
			if ok {
				p.WriteData(id, true, d.Data())
			}
			return ok
		})
		p.drain()
	})
	old, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
	if err != nil {
		t.Fatal(err)
	}
	close(goAway)
	eventually(t, "the tunnel drains", func() bool { st := pool.Stats(); return len(st) == 1 && st[0].Draining })
	s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Stream{old, s} {
		wantEcho(t, s, "goes on")
	}
}

func TestMaxConcurrentStreamsOfOne(t *testing.T) {
	pool, target := strangeServer(t, PoolConfig{}, func(n int, p *peer) {
		p.greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		open := 0
		for {
			f, err := p.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.MetaHeadersFrame:
				if open++; open > 1 {
					p.t.Error("a second stream on a tunnel that allows one")
				}
				p.headers(f.StreamID, false, ":status", "200")
			case *http2.DataFrame:
				if f.StreamEnded() {
					open--
					p.WriteData(f.StreamID, true, nil)
				}
			}
		}
	})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range 3 {
				s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
				if err != nil {
					t.Error(err)
					return
				}
				s.CloseWrite()
				if _, err := next(s); err != nil {
					t.Error(err)
				}
				s.Close()
			}
		})
	}
	wg.Wait()
	if n := len(pool.Stats()); n > 5 {
		t.Errorf("%d tunnels for 5 streams at a time", n)
	}
}

// A peer that says nothing about windows and frames gets at most what RFC 9113
// gives it at first, and one that changes its mind is followed, in both
// directions and below zero.
func TestWindowsOfThePeer(t *testing.T) {
	const total = 300 << 10
	want := noise(7, total)
	check := func(t *testing.T, p *peer, rest func(got []byte, id uint32) []byte) {
		id := p.request()
		p.headers(id, false, ":status", "200")
		got := rest(nil, id)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes of %d, or other ones", len(got), len(want))
		}
		p.WriteData(id, true, nil)
		p.drain()
	}
	// read takes DATA until n bytes are there or, if n < 0, END_STREAM is.
	read := func(t *testing.T, p *peer, got []byte, n, frame int) []byte {
		p.await(func(f http2.Frame) bool {
			d, ok := f.(*http2.DataFrame)
			if !ok {
				return false
			}
			if len(d.Data()) > frame {
				t.Errorf("a frame of %d bytes, with a MAX_FRAME_SIZE of %d", len(d.Data()), frame)
			}
			got = append(got, d.Data()...)
			if n >= 0 && len(got) > n {
				t.Errorf("%d bytes, with a window of %d", len(got), n)
			}
			return d.StreamEnded() || len(got) == n
		})
		return got
	}
	// idle shows that nothing more comes: a PING is answered after all DATA.
	idle := func(t *testing.T, p *peer) {
		time.Sleep(time.Second) // of the bubble: everything else has stopped
		p.WritePing(false, [8]byte{9})
		p.await(func(f http2.Frame) bool {
			if d, ok := f.(*http2.DataFrame); ok {
				t.Errorf("%d bytes beyond the window", len(d.Data()))
			}
			q, ok := f.(*http2.PingFrame)
			return ok && q.IsAck() && q.Data[0] == 9
		})
	}
	initial := func(n uint32) http2.Setting {
		return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
	}
	for name, serve := range map[string]func(t *testing.T, p *peer){
		"the defaults": func(t *testing.T, p *peer) {
			p.greet()
			check(t, p, func(got []byte, id uint32) []byte {
				got = read(t, p, got, defaultWindow, minFrameSize)
				idle(t, p)
				p.WriteWindowUpdate(id, total) // the connection's window is still shut
				idle(t, p)
				p.WriteWindowUpdate(0, 1000)
				got = read(t, p, got, defaultWindow+1000, minFrameSize)
				idle(t, p)
				p.WriteWindowUpdate(0, total)
				return read(t, p, got, -1, minFrameSize)
			})
		},
		"large frames": func(t *testing.T, p *peer) {
			p.greet(initial(1<<20), http2.Setting{ID: http2.SettingMaxFrameSize, Val: 40000})
			p.WriteWindowUpdate(0, 1<<20)
			check(t, p, func(got []byte, id uint32) []byte { return read(t, p, got, -1, 40000) })
		},
		"no window at first": func(t *testing.T, p *peer) {
			p.greet(initial(0))
			p.WriteWindowUpdate(0, total)
			check(t, p, func(got []byte, id uint32) []byte {
				idle(t, p)
				p.WriteWindowUpdate(id, 1)
				got = read(t, p, got, 1, minFrameSize)
				idle(t, p)
				p.WriteSettings(initial(1000))
				got = read(t, p, got, 1001, minFrameSize)
				idle(t, p)
				p.WriteSettings(initial(0)) // now 1000 below
				p.WriteWindowUpdate(id, 1000)
				idle(t, p)
				p.WriteWindowUpdate(id, 5)
				got = read(t, p, got, 1006, minFrameSize)
				idle(t, p)
				p.WriteSettings(initial(total))
				return read(t, p, got, -1, minFrameSize)
			})
		},
		"byte by byte": func(t *testing.T, p *peer) {
			p.greet(initial(0))
			p.WriteWindowUpdate(0, total)
			check(t, p, func(got []byte, id uint32) []byte {
				for n := 1; n <= 200; n++ {
					p.WriteWindowUpdate(id, 1)
					got = read(t, p, got, n, minFrameSize)
				}
				p.WriteWindowUpdate(id, total)
				return read(t, p, got, -1, minFrameSize)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, target := strangeBubble(t, PoolConfig{}, func(_ int, p *peer) { serve(t, p) })
				s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
				if err != nil {
					t.Fatal(err)
				}
				if n, err := s.Write(want); n != len(want) || err != nil {
					t.Errorf("Write: %d, %v", n, err)
				}
				s.CloseWrite()
				if _, err := next(s); err != nil {
					t.Errorf("end: %v", err)
				}
				s.Close()
			})
		})
	}
}

// Window that a stream did not use when it was reset is the tunnel's again.
func TestCreditOfResetStreamsComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, target := strangeBubble(t, PoolConfig{}, func(_ int, p *peer) {
			p.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
			for {
				f, err := p.ReadFrame()
				if err != nil {
					return
				}
				switch f := f.(type) {
				case *http2.MetaHeadersFrame:
					p.headers(f.StreamID, false, ":status", "200")
				case *http2.DataFrame: // credit for all that came, and no more
					if n := len(f.Data()); n > 0 {
						p.WriteWindowUpdate(0, uint32(n))
					}
				}
			}
		})
		var c *conn
		for i := range 200 {
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatal(err)
			}
			c = s.c
			var wg sync.WaitGroup
			wg.Go(func() { s.Write(make([]byte, 1000*i)) })
			if i%3 > 0 {
				s.Reset(http2.ErrCodeCancel)
			}
			wg.Wait()
			s.Close()
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if out, _ := c.credits(); out != defaultWindow {
			t.Errorf("the tunnel has %d bytes of credit, want %d", out, defaultWindow)
		}
	})
}
