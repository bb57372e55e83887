package h2

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestFloods sends what costs and carries nothing until the connection is ended.
func TestFloods(t *testing.T) {
	addr := plain(t, &Server{MaxResets: 100}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			<-r.Context().Done()
		}
	})
	for _, c := range []struct {
		name string
		most int
		code http2.ErrCode
		send func(p *peer) error
	}{
		{"PING", 3 * maxPingsPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WritePing(false, [8]byte{}) }},
		{"PING ACK", 3 * maxOtherPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WritePing(true, [8]byte{}) }},
		{"SETTINGS", 3 * maxSettingsPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WriteSettings() }},
		{"SETTINGS ACK", 3 * maxOtherPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WriteSettingsAck() }},
		{"PRIORITY", 3 * maxOtherPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WritePriority(3, http2.PriorityParam{StreamDep: 1}) }},
		{"PRIORITY_UPDATE", 3 * maxOtherPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WriteRawFrame(0x10, 0, 0, []byte("\x00\x00\x00\x01u=1")) }},
		{"unknown frames", 3 * maxOtherPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error { return p.f.WriteRawFrame(0x77, 0, 0, []byte("x")) }},
		{"WINDOW_UPDATE", 1000, http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			var b []byte
			for range 10_000 {
				b = appendWindowUpdate(b, 0, 1)
			}
			_, err := p.c.Write(b)
			return err
		}},
		{"rapid reset", 20_000, http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			return p.f.WriteRSTStream(p.open(true, getRoot...), http2.ErrCodeCancel)
		}},
		{"malformed requests", 3 * maxOtherPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			p.open(true, with(getRoot, "connection", "close")...)
			return nil
		}},
		{"empty DATA", 3 * maxEmptyDataPerSecond, http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			if p.next == 1 {
				p.open(false, postRoot...)
			}
			return p.f.WriteData(1, false, nil)
		}},
		{"CONTINUATION", 2 * maxContinuations, http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			if p.next == 1 {
				p.next = 3
				return p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getRoot...)})
			}
			return p.f.WriteContinuation(1, false, nil)
		}},
		{"long header block", 100, http2.ErrCodeEnhanceYourCalm, func(p *peer) error {
			if p.next == 1 {
				p.next = 3
				return p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(getRoot...)})
			}
			return p.f.WriteContinuation(1, false, p.block("a", strings.Repeat("b", 10_000)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := dial(t, addr)
			p.f.AllowIllegalWrites = true
			gone := make(chan struct{})
			go func() { // reads on, so that answers do not pile up
				defer close(gone)
				p.wantGoAway(c.code)
			}()
			for i := 0; ; i++ {
				if i > c.most {
					t.Fatalf("%d were let pass", i)
				}
				if c.send(p) != nil {
					break
				}
				select {
				case <-gone:
					return
				default:
				}
				if i%50 == 49 {
					time.Sleep(time.Millisecond) // the answer takes its time
				}
			}
			<-gone
		})
	}
}

// TestHeldHandlers checks that handlers of streams that were reset count against
// the limit of streams.
func TestHeldHandlers(t *testing.T) {
	var running, most atomic.Int64
	release := make(chan struct{})
	addr := plain(t, &Server{MaxStreams: 10}, func(w http.ResponseWriter, r *http.Request) {
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-release // a backend that does not heed the client's leaving
		running.Add(-1)
	})
	p := dial(t, addr)
	for range 50 {
		p.f.WriteRSTStream(p.open(true, getRoot...), http2.ErrCodeCancel)
	}
	p.ping()
	if n := most.Load(); n > 10 {
		t.Errorf("%d handlers ran at once, the limit is 10", n)
	}
	p.wantReset(p.open(true, getRoot...), http2.ErrCodeRefusedStream)
	close(release)
	for deadline := time.Now().Add(5 * time.Second); running.Load() > 0; {
		if time.Now().After(deadline) {
			t.Fatal("handlers did not return")
		}
		time.Sleep(time.Millisecond)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		id := p.open(true, getRoot...)
		ok := false
		p.want("an answer", func(f http2.Frame) bool {
			_, ok = f.(*http2.MetaHeadersFrame)
			return f.Header().StreamID == id
		})
		if ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("streams are refused although no handler runs")
		}
	}
}

// TestSlowReaders checks what a connection holds whose client asks for a lot and
// reads nothing.
func TestSlowReaders(t *testing.T) {
	var blocked atomic.Int64
	chunk := make([]byte, 1<<20)
	addr := plain(t, &Server{MaxStreams: 200}, func(w http.ResponseWriter, r *http.Request) {
		blocked.Add(1)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	var before, after runtime.MemStats
	p := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
	p.f.WriteWindowUpdate(0, maxWindow-defaultWindow)
	p.ping()
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 200 {
		p.open(true, getRoot...)
	}
	for deadline := time.Now().Add(10 * time.Second); blocked.Load() < 200; {
		if time.Now().After(deadline) {
			t.Fatal("not all handlers have started")
		}
		time.Sleep(time.Millisecond)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
		t.Errorf("200 stalled answers hold %d KiB", grown>>10)
	}
}

// TestUnreadBodies checks that streams whose handlers do not read hold their window
// at most, and do not keep others from being read.
func TestUnreadBodies(t *testing.T) {
	var s Server
	release := make(chan struct{})
	addr := plain(t, &s, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
			return
		}
		io.Copy(w, r.Body)
	})
	defer close(release)
	p := dial(t, addr)
	frame := make([]byte, 16<<10)
	for range 40 { // more than the connection's window
		id := p.open(false, ":method", "POST", ":scheme", "http", ":authority", "example.com", ":path", "/slow")
		for range (64 << 10) / len(frame) {
			if err := p.f.WriteData(id, false, frame); err != nil {
				t.Fatal(err)
			}
		}
		p.ping()
	}
	if got, want := s.unread.Load(), int64(40*64<<10); got != want {
		t.Errorf("%d bytes are held, want %d", got, want)
	}
	id := p.open(false, postRoot...)
	p.f.WriteData(id, true, []byte("quick"))
	p.wantStatus(id, "200")
	if body, _ := p.wantEnd(id); string(body) != "quick" {
		t.Errorf("answered %q", body)
	}
	// More than the window is the stream's end.
	p.f.WriteData(1, false, []byte("x"))
	p.wantReset(1, http2.ErrCodeFlowControl)
	if got, want := s.unread.Load(), int64(39*64<<10); got != want {
		t.Errorf("%d bytes are held after one was reset, want %d", got, want)
	}
}

// TestUnreadBudget checks that a server that holds too much returns credit as
// handlers read.
func TestUnreadBudget(t *testing.T) {
	s := Server{MaxUnread: 1, StreamWindow: 1 << 20}
	addr := plain(t, &s, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	p := dial(t, addr)
	want := bytes.Repeat([]byte("0123456789abcdef"), 200_000) // thrice the connection's window
	c := client(t, addr, false)
	res, err := c.Post("http://example.com/", "", bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d came back: %v", len(got), len(want), err)
	}
	p.ping()
	for deadline := time.Now().Add(5 * time.Second); s.unread.Load() != 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are held at the end", s.unread.Load())
		}
		time.Sleep(time.Millisecond)
	}
}

// TestUnreadAnswers checks that a client that makes us answer and does not read is
// not read either.
func TestUnreadAnswers(t *testing.T) {
	var handled atomic.Int64
	s := &Server{}
	a, done := pipeServer(t, context.Background(), s, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1000)+fmt.Sprint(handled.Add(1)))
		w.WriteHeader(http.StatusNoContent)
	})
	defer func() { a.Close(); <-done }()
	p := greet(t, a)
	a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
	for range 2000 {
		if err := p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: p.next, BlockFragment: p.block(getRoot...), EndStream: true, EndHeaders: true}); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				if n := handled.Load(); n > 1000 {
					t.Errorf("%d requests were handled of a client that does not read", n)
				}
				return
			}
			t.Fatal(err)
		}
		p.next += 2
	}
	t.Error("all requests were read of a client that does not read")
}
