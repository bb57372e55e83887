package hbone

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// What a peer costs that sends and does not read.

// only is the server's one tunnel.
func (r *rig) only() *conn {
	r.t.Helper()
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	if n := len(r.server.conns); n != 1 {
		r.t.Fatalf("the server has %d tunnels, want one", n)
	}
	for c := range r.server.conns {
		return c
	}
	return nil
}

// What handlers answer waits for the peer like what the reader answers: a peer
// that asks on and reads nothing is cut when as much waits as may.
func TestAnswersOfHandlersThatAreNotReadAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const round, answer = 10, 8 << 10
		r := newBubble(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
			filler := Header{"x", strings.Repeat("x", answer)}
			sc.Handler = func(_ context.Context, s *Stream) { s.Reject(503, filler) }
		})
		p := r.client()
		p.conn.SetDeadline(noDeadline)
		c := r.only()
		connect := p.block(":method", "CONNECT", ":authority", "refuse:1")
		ended := func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.draining
		}
		id := uint32(1)
		for most := 0; !ended(); {
			var all []byte
			for range round {
				all = appendHeaders(all, id, connect, false)
				id += 2
			}
			p.conn.Write(all)
			synctest.Wait() // every handler has answered
			c.w.mu.Lock()
			most = len(c.w.prio)
			c.w.mu.Unlock()
			if limit := maxControl + (round+1)*(answer+1<<10); most > limit {
				t.Fatalf("%d bytes of answers wait for a peer that reads nothing, want at most %d", most, limit)
			}
		}
		if least := maxControl / (answer + 1<<10); int(id/2) < least {
			t.Errorf("cut after %d requests, want no complaint before %d", id/2, least)
		}
		p.wantGoAway("a peer that makes us answer and does not read", http2.ErrCodeEnhanceYourCalm)
	})
}

// A stream that ends leaves the line for the tunnel's credit, which a peer may
// hold back for as long as it likes.
func TestStreamsThatEndLeaveTheLineForCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubble(t)
		p := r.client(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		p.conn.SetDeadline(noDeadline)
		c := r.only()
		p.connect(1, "source:1")
		p.wantData("all the tunnel's credit", 1, defaultWindow)
		go p.drain()
		inLine := func() int {
			synctest.Wait()
			c.w.mu.Lock()
			defer c.w.mu.Unlock()
			return len(c.w.starved)
		}
		for id := uint32(3); id < 100; id += 2 {
			p.connect(id, "source:1")
			if n := inLine(); n != 2 {
				t.Fatalf("%d streams in the line for credit, want both that have something to send", n)
			}
			p.WriteRSTStream(id, http2.ErrCodeCancel)
			if n := inLine(); n != 1 {
				t.Fatalf("%d streams in the line for credit after one of two was reset", n)
			}
		}
	})
}

// A peer whose PINGs show that it lives, but which reads nothing, holds whoever
// writes to it no longer than one that is dead.
func TestPeerThatReadsNothingIsClosedAfterPingTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, target := strangeBubble(t, PoolConfig{}, func(_ int, p *peer) {
			p.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: maxWindow})
			p.WriteWindowUpdate(0, 1<<30)
			greeted, asked := false, false
			p.await(func(f http2.Frame) bool {
				switch f := f.(type) {
				case *http2.SettingsFrame:
					greeted = greeted || f.IsAck()
				case *http2.MetaHeadersFrame:
					asked = true
				}
				return greeted && asked
			})
			p.headers(1, false, ":status", "200")
			for range 300 {
				time.Sleep(time.Second) // the stream is the first to write, and so to wait
				if p.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		})
		s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
		if err != nil {
			t.Fatal(err)
		}
		app, c := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			chunk := make([]byte, 64<<10)
			for {
				if _, err := app.Write(chunk); err != nil {
					return
				}
			}
		})
		start := time.Now()
		var spliced time.Duration
		wg.Go(func() {
			Splice(s, c)
			spliced = time.Since(start)
		})
		synctest.Wait() // Splice writes to the peer, and neither its stream nor its socket can call that off
		s.Reset(http2.ErrCodeConnect)
		c.Close()
		wg.Wait()
		o := Limits{}.options(true)
		within(t, "Splice returned", spliced, o.pingTimeout, o.pingTimeout+o.pingInterval+10*time.Millisecond)
		synctest.Wait()
		if n := len(pool.Stats()); n != 0 {
			t.Errorf("the pool still has %d tunnels to a peer that reads nothing", n)
		}
	})
}
