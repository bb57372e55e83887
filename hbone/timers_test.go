package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

var noDeadline time.Time

// within checks that a moment in the bubble's time is where it must be.
func within(t testing.TB, what string, got, from, to time.Duration) {
	t.Helper()
	if got < from || got > to {
		t.Errorf("%s after %v, want between %v and %v", what, got, from, to)
	}
}

// serveRaw answers every CONNECT with 200 and does nothing else; PINGs are
// answered while alive says so.
func serveRaw(p *peer, alive func() bool) {
	p.greet()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			return
		}
		if !alive() {
			continue
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			p.headers(f.StreamID, false, ":status", "200")
		case *http2.PingFrame:
			if !f.IsAck() {
				p.WritePing(true, f.Data)
			}
		}
	}
}

func always() bool { return true }

func TestDeadPeerIsClosedAfterPingTimeout(t *testing.T) {
	for _, lim := range []Limits{
		{},
		{PingInterval: 10 * time.Second, PingTimeout: time.Second},
		{PingInterval: time.Second, PingTimeout: 15 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var dead atomic.Bool
			pool, target := strangeBubble(t, PoolConfig{Limits: lim}, func(_ int, p *peer) { serveRaw(p, func() bool { return !dead.Load() }) })
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatal(err)
			}
			// An hour of silence is no trouble while PINGs are answered.
			s.SetReadDeadline(time.Now().Add(time.Hour + 500*time.Millisecond))
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("an hour with a live but silent peer ended with %v", err)
			}
			s.SetReadDeadline(noDeadline)
			dead.Store(true)
			start := time.Now()
			_, err = s.Read(make([]byte, 1))
			var ne *net.OpError
			if !errors.As(err, &ne) || ne.Op != "ping" {
				t.Fatalf("stream of a dead peer ended with %v", err)
			}
			o := lim.options(true)
			within(t, "closed", time.Since(start), o.pingTimeout, o.pingInterval+o.pingTimeout+10*time.Millisecond)
			if n := len(pool.Stats()); n != 0 {
				t.Errorf("the pool still has %d tunnels", n)
			}
		})
	}
}

func TestServerClosesADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubble(t)
		p := r.client()
		p.conn.SetDeadline(noDeadline)
		start := time.Now()
		pinged := time.Duration(0)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				break
			}
			if f.Header().Type == http2.FramePing {
				pinged = time.Since(start)
			}
		}
		within(t, "a silent client is pinged", pinged, 10*time.Second, 10*time.Second+10*time.Millisecond)
		within(t, "a client that does not answer is closed", time.Since(start), 30*time.Second, 30*time.Second+10*time.Millisecond)
		synctest.Wait()
		if n := len(r.server.Stats()); n != 0 {
			t.Errorf("the server still has %d tunnels", n)
		}
	})
}

// Any frame is a sign of life: a peer that sends is not asked.
func TestNoPingWhilePeerSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newBubble(t).client()
		p.conn.SetDeadline(noDeadline)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 20 {
				time.Sleep(9 * time.Second)
				p.WriteWindowUpdate(0, 1)
			}
			p.conn.Close()
		})
		for {
			f, err := p.ReadFrame()
			if err != nil {
				break
			}
			if f.Header().Type == http2.FramePing {
				t.Error("PING to a peer that was never silent for PingInterval")
			}
		}
		wg.Wait()
	})
}

func TestIdleTunnelIsClosed(t *testing.T) {
	for _, end := range []string{"client", "server"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const idle = 25 * time.Second
				r := newBubble(t, func(_ *rig, pc *PoolConfig, sc *ServerConfig) {
					if end == "client" {
						pc.Limits.IdleTimeout = idle
					} else {
						sc.Limits.IdleTimeout = idle
					}
				})
				s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "hold:1"})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Minute)
				if len(r.pool.Stats()) != 1 {
					t.Fatal("a tunnel with a stream was closed as idle")
				}
				s.Close()
				start := time.Now()
				for len(r.pool.Stats()) > 0 && time.Since(start) < time.Hour {
					time.Sleep(10 * time.Millisecond)
				}
				within(t, "closed", time.Since(start), idle, idle+100*time.Millisecond)
				synctest.Wait()
				if n := len(r.server.Stats()); n != 0 {
					t.Errorf("the server still has %d tunnels", n)
				}
				r.pool.mu.Lock()
				if n := len(r.pool.groups); n != 0 {
					t.Errorf("the pool remembers %d groups that have nothing", n)
				}
				r.pool.mu.Unlock()
			})
		})
	}
}

// At MaxAge a tunnel takes no new streams, those there are go on, and the pool
// opens another tunnel.
func TestMaxAge(t *testing.T) {
	for _, end := range []string{"client", "server"} {
		t.Run(end, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newBubble(t, func(_ *rig, pc *PoolConfig, sc *ServerConfig) {
					if end == "client" {
						pc.Limits.MaxAge = time.Minute
					} else {
						sc.Limits.MaxAge = time.Minute
					}
				})
				old, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute + time.Second)
				st := r.pool.Stats()
				if len(st) != 1 || !st[0].Draining {
					t.Fatalf("a minute later the tunnels are %+v, want one that drains", st)
				}
				s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
				if err != nil {
					t.Fatalf("Dial beside a tunnel that drains: %v", err)
				}
				if s.c == old.c {
					t.Error("a stream was opened on a tunnel above its age")
				}
				wantEcho(t, old, "the old stream goes on")
				wantEcho(t, s, "the new stream works")
				synctest.Wait()
				if n := len(r.pool.Stats()); n != 1 {
					t.Errorf("%d tunnels after the old one's last stream, want 1", n)
				}
			})
		})
	}
}

// wantEcho sends on an echo stream, ends it and wants both back.
func wantEcho(t testing.TB, s *Stream, why string) {
	t.Helper()
	if _, err := s.Write([]byte(why)); err != nil {
		t.Errorf("%s: write: %v", why, err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Errorf("%s: half-close: %v", why, err)
	}
	got, err := io.ReadAll(struct{ io.Reader }{s})
	if string(got) != why || err != nil {
		t.Errorf("%s: echo was %q, %v", why, got, err)
	}
	s.Close()
}

func TestCertificateExpiryBoundsTheAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubble(t, func(_ *rig, pc *PoolConfig, sc *ServerConfig) {
			pc.Limits.MaxAge, sc.Limits.MaxAge = 1000*time.Hour, 1000*time.Hour
		})
		s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
		if err != nil {
			t.Fatal(err)
		}
		left := time.Until(s.ConnectionState().PeerCertificates[0].NotAfter)
		time.Sleep(left - time.Second)
		if st := r.pool.Stats(); len(st) != 1 || st[0].Draining {
			t.Fatalf("tunnels a second before the certificate expires: %+v", st)
		}
		time.Sleep(2 * time.Second)
		if st := r.pool.Stats(); len(st) != 1 || !st[0].Draining {
			t.Fatalf("tunnels a second after the certificate expired: %+v", st)
		}
		wantEcho(t, s, "the stream outlives the certificate it was opened under")
		n, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
		if err != nil {
			t.Fatalf("Dial with the renewed certificate: %v", err)
		}
		wantEcho(t, n, "the new tunnel works")
	})
}

// A client that does not answer the PING of a drain cannot keep opening
// streams on a tunnel that is too old.
func TestMaxAgeIsNotUpToThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubble(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) { sc.Limits.MaxAge = time.Minute })
		p := r.client()
		p.conn.SetDeadline(noDeadline)
		opened := make(chan time.Duration, 1000)
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			defer close(opened)
			for id := uint32(1); ; id += 2 {
				p.connect(id, "echo:1") // a sign of life
				if _, err := p.conn.Write(appendRSTStream(nil, id, http2.ErrCodeCancel)); err != nil || time.Since(start) > 10*time.Minute {
					return
				}
				time.Sleep(5 * time.Second)
			}
		})
		last := time.Duration(0)
		for {
			f, err := p.ReadFrame()
			if err != nil {
				break
			}
			if h, ok := f.(*http2.MetaHeadersFrame); ok && h.PseudoValue("status") == "200" {
				last = time.Since(start)
			}
		}
		p.conn.Close()
		wg.Wait()
		within(t, "the last stream taken", last, 50*time.Second, time.Minute+30*time.Second)
	})
}

// A peer that stops answering at some phase fails the dial at DialTimeout, and
// the error says which phase it was.
func TestDialTimeoutCoversEveryPhase(t *testing.T) {
	for _, tc := range []struct {
		phase Phase
		dial  func(context.Context) (net.Conn, error)
		serve func(int, *peer)
	}{
		{PhaseTCP, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, nil},
		{PhaseTLS, nil, nil},
		{PhaseH2, nil, func(_ int, p *peer) { io.Copy(io.Discard, p.conn) }},
		{PhaseConnect, nil, func(_ int, p *peer) { p.greet(); p.drain() }},
	} {
		t.Run(string(tc.phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, target := strangeBubble(t, PoolConfig{DialTimeout: 3 * time.Second}, tc.serve)
				if tc.dial != nil {
					target.Dial = tc.dial
				}
				start := time.Now()
				const callers = 20
				errs := make([]error, callers)
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() { _, errs[i] = pool.Dial(t.Context(), target, Request{Authority: "x:1"}) })
				}
				wg.Wait()
				within(t, "all dials failed", time.Since(start), 3*time.Second, 3*time.Second+10*time.Millisecond)
				for _, err := range errs {
					var de *DialError
					if !errors.As(err, &de) || de.Phase != tc.phase || !errors.Is(err, context.DeadlineExceeded) || !isTimeout(err) {
						t.Errorf("Dial: %v; want a time-out of phase %q", err, tc.phase)
					}
				}
				if tc.phase == PhaseConnect {
					return // the tunnel is fine, nothing to back off from
				}
				start = time.Now()
				if _, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"}); err == nil || time.Since(start) > 0 {
					t.Errorf("Dial right after a time-out took %v and gave %v, want the error at once: the destination is left alone", time.Since(start), err)
				}
			})
		})
	}
}

// One dial at a time, whose failure is everybody's; then quiet, for longer each
// time; and one success ends it.
func TestSingleFlightAndBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, target := strangeBubble(t, PoolConfig{BackoffFirst: time.Second, BackoffLast: 8 * time.Second},
			func(_ int, p *peer) { serveRaw(p, always) })
		works := target.Dial
		var dials atomic.Int32
		target.Dial = func(context.Context) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(100 * time.Millisecond)
			return nil, errRefused
		}
		// The pause before each dial, when callers ask every 10 ms.
		want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second}
		last := time.Now()
		for n, pause := range want {
			for dials.Load() == int32(n) {
				var wg sync.WaitGroup
				errs := make([]error, 50)
				for i := range errs {
					wg.Go(func() { _, errs[i] = pool.Dial(t.Context(), target, Request{Authority: "x:1"}) })
				}
				wg.Wait()
				for _, err := range errs {
					if !errors.Is(err, errRefused) || err != errs[0] {
						t.Fatalf("dial %d: one caller got %v, another %v", n, err, errs[0])
					}
				}
				if dials.Load() == int32(n) {
					time.Sleep(10 * time.Millisecond)
				}
			}
			if got := dials.Load(); got != int32(n+1) {
				t.Fatalf("%d dials where one was due", got-int32(n))
			}
			if n > 0 {
				within(t, "next dial", time.Since(last)-100*time.Millisecond, pause*3/4-10*time.Millisecond, pause+20*time.Millisecond)
			}
			last = time.Now()
		}
		time.Sleep(8 * time.Second)
		target.Dial = works
		s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
		if err != nil {
			t.Fatalf("after the pause: %v", err)
		}
		s.Close()
		// A new failure starts from the first pause again.
		pool.Evict(func(any) bool { return true })
		synctest.Wait()
		target.Dial = func(context.Context) (net.Conn, error) { return nil, errRefused }
		pool.Dial(t.Context(), target, Request{Authority: "x:1"})
		time.Sleep(time.Second + 10*time.Millisecond)
		target.Dial = works
		if s, err = pool.Dial(t.Context(), target, Request{Authority: "x:1"}); err != nil {
			t.Fatalf("a success did not end the back-off: %v", err)
		}
		s.Close()
	})
}

// A failure is not remembered for ever.
func TestFailedDestinationIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := NewPool(PoolConfig{})
		for key := range 100 {
			pool.Dial(t.Context(), Target{Key: key, Dial: func(context.Context) (net.Conn, error) { return nil, errRefused }}, Request{})
		}
		time.Sleep(time.Minute)
		pool.mu.Lock()
		if n := len(pool.groups); n != 0 {
			t.Errorf("%d destinations are remembered a minute after their failure", n)
		}
		pool.mu.Unlock()
		pool.Shutdown(t.Context())
	})
}

// The last caller to lose patience ends the dial, at whatever phase, and the
// destination is not blamed for it.
func TestLastWaiterLeavingCancelsTheDial(t *testing.T) {
	for phase, serve := range map[Phase]func(int, *peer){
		PhaseTCP: nil,
		PhaseTLS: nil,
		PhaseH2:  func(_ int, p *peer) { io.Copy(io.Discard, p.conn) },
	} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var dialled, ended atomic.Int32
				pool, target := strangeBubble(t, PoolConfig{OnDial: func(_ any, _ time.Duration, err error) {}}, serve)
				inner := target.Dial
				target.Dial = func(ctx context.Context) (net.Conn, error) {
					dialled.Add(1)
					if phase == PhaseTCP {
						<-ctx.Done()
						ended.Add(1)
						return nil, ctx.Err()
					}
					c, err := inner(ctx)
					return closing{c, func() { ended.Add(1) }}, err
				}
				var wg sync.WaitGroup
				for i := range 5 {
					wg.Go(func() {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*time.Second)
						defer cancel()
						if _, err := pool.Dial(ctx, target, Request{Authority: "x:1"}); !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("waiter %d: %v", i, err)
						}
					})
				}
				time.Sleep(4500 * time.Millisecond)
				if ended.Load() != 0 {
					t.Error("the dial was ended although a caller waits for it")
				}
				wg.Wait()
				time.Sleep(10 * time.Millisecond)
				if dialled.Load() != 1 || ended.Load() == 0 {
					t.Errorf("%d dials, %d of them ended when nobody waited any more", dialled.Load(), ended.Load())
				}
				synctest.Wait()
				pool.mu.Lock()
				if n := len(pool.groups); n != 0 {
					t.Error("the destination is remembered although nothing is known about it")
				}
				pool.mu.Unlock()
			})
		})
	}
}

// closing says when a connection is closed.
type closing struct {
	net.Conn
	closed func()
}

func (c closing) Close() error { c.closed(); return c.Conn.Close() }

// A caller who comes while an abandoned dial is on its way out gets a dial of
// his own, not somebody else's cancellation.
func TestAbandonedDialFailsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, target := strangeBubble(t, PoolConfig{}, func(_ int, p *peer) { serveRaw(p, always) })
		works := target.Dial
		slow := target
		slow.Dial = func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // cancellation takes its time
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := pool.Dial(ctx, slow, Request{Authority: "x:1"}); err == nil {
			t.Fatal("a dial that never ends succeeded")
		}
		target.Dial = works
		s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
		if err != nil {
			t.Fatalf("Dial while an abandoned one is being cancelled: %v", err)
		}
		s.Close()
		time.Sleep(2 * time.Second)
		if len(pool.Stats()) != 1 {
			t.Errorf("%d tunnels, want the one that works", len(pool.Stats()))
		}
	})
}

// Shutdown with an expired context ends a dial in any phase.
func TestPoolShutdownEndsDials(t *testing.T) {
	for phase, serve := range map[Phase]func(int, *peer){
		PhaseTLS:     nil,
		PhaseH2:      func(_ int, p *peer) { io.Copy(io.Discard, p.conn) },
		PhaseConnect: func(_ int, p *peer) { p.greet(); p.drain() },
	} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, target := strangeBubble(t, PoolConfig{}, serve)
				failed := make(chan error, 1)
				go func() {
					_, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
					failed <- err
				}()
				time.Sleep(time.Second)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				pool.Shutdown(ctx)
				within(t, "Shutdown returned", time.Since(start), 0, time.Second+lastWords)
				if err := <-failed; err == nil {
					t.Error("a dial succeeded although the pool was shut down")
				}
				if _, err := pool.Dial(t.Context(), target, Request{}); err != ErrPoolClosed {
					t.Errorf("Dial after Shutdown: %v", err)
				}
				pool.mu.Lock()
				if n := len(pool.groups); n != 0 {
					t.Errorf("a pool that was shut down remembers %d destinations", n)
				}
				pool.mu.Unlock()
			})
		})
	}
}

// A peer that allows no streams at all is not dialled again and again.
func TestPeerWithoutRoomIsNotDialledInALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool, target := strangeBubble(t, PoolConfig{}, func(_ int, p *peer) {
			p.greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})
			p.drain()
		})
		inner := target.Dial
		var dials atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		target.Dial = func(ctx context.Context) (net.Conn, error) {
			if dials.Add(1) == 20 {
				cancel()
			}
			return inner(ctx)
		}
		_, err := pool.Dial(ctx, target, Request{Authority: "x:1"})
		if err == nil || dials.Load() > 3 {
			t.Errorf("%d tunnels to a peer that allows no streams, then %v", dials.Load(), err)
		}
		cancel()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newBubble(t)
		s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "hold:1"})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.SetDeadline(start.Add(3 * time.Second))
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read: %v", err)
			}
			within(t, "Read returned", time.Since(start), 3*time.Second, 3*time.Second)
		})
		wg.Go(func() {
			n, err := s.Write(make([]byte, 8<<20)) // more than every window on the way
			if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n > InitialStreamWindow {
				t.Errorf("Write: %d, %v", n, err)
			}
			within(t, "Write returned", time.Since(start), 3*time.Second, 3*time.Second)
		})
		wg.Wait()
		// A deadline that is moved while somebody waits counts at once.
		s.SetReadDeadline(noDeadline)
		wg.Go(func() {
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read: %v", err)
			}
			within(t, "Read returned", time.Since(start), time.Hour+3*time.Second, time.Hour+3*time.Second)
		})
		time.Sleep(time.Hour)
		s.SetReadDeadline(time.Now().Add(-time.Second))
		wg.Wait()
		s.Close()
	})
}

// A writer that gave up waiting for room in the tunnel leaves none of it taken.
func TestWriteDeadlineGivesBackItsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stop atomic.Bool
		resume := make(chan struct{})
		pool, target := strangeBubble(t, PoolConfig{Limits: Limits{MaxStreams: 100}}, func(_ int, p *peer) {
			p.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 4 << 20}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
			p.WriteWindowUpdate(0, 64<<20)
			for {
				if stop.Load() {
					<-resume // reads nothing meanwhile: the tunnel fills
				}
				f, err := p.ReadFrame()
				if err != nil {
					return
				}
				if h, ok := f.(*http2.MetaHeadersFrame); ok {
					p.headers(h.StreamID, false, ":status", "200")
				}
			}
		})
		var streams []*Stream
		for range 8 {
			s, err := pool.Dial(t.Context(), target, Request{Authority: "x:1"})
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, s)
			time.Sleep(time.Second) // no burst, which would have a tunnel of its own
		}
		stop.Store(true)
		streams[0].Write([]byte("x")) // wakes the peer into its stop
		var wg sync.WaitGroup
		for _, s := range streams {
			s.SetWriteDeadline(time.Now().Add(time.Second))
			wg.Go(func() { s.Write(make([]byte, 2<<20)) })
		}
		synctest.Wait()
		time.Sleep(2 * time.Second) // those who wait for room have given up; one holds the wire
		stop.Store(false)
		close(resume)
		wg.Wait()
		c := streams[0].c
		for _, s := range streams {
			s.Close()
		}
		synctest.Wait()
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		if c.w.room != highWater || len(c.w.waiters) > 0 {
			t.Errorf("the tunnel has %d bytes of room and %d streams in line with all streams gone, want %d and 0", c.w.room, len(c.w.waiters), highWater)
		}
	})
}

func TestFloods(t *testing.T) {
	ping := appendPing(nil, false, [8]byte{})
	for _, tc := range []struct {
		name  string
		n     int
		frame []byte
	}{
		{"PING", maxPingsPerSecond, ping},
		{"SETTINGS", maxSettingsPerSecond, appendSettings(nil)},
		{"PRIORITY", maxOtherPerSecond, append(appendFrameHeader(nil, 5, byte(http2.FramePriority), 0, 1), 0, 0, 0, 0, 1)},
		{"frames of an unknown type", maxOtherPerSecond, appendFrameHeader(nil, 0, 0xbe, 0, 0)},
		{"empty DATA", maxEmptyDataPerSecond, appendFrameHeader(nil, 0, frameData, 0, 1)},
		{"DATA that is all padding", maxEmptyDataPerSecond, append(appendFrameHeader(nil, 1, frameData, flagPadded, 1), 0)},
		{"WINDOW_UPDATE", maxUpdatesPerSecond, appendWindowUpdate(nil, 1, 1)},
		{"RST_STREAM", maxResetsPerSecond, appendRSTStream(nil, 1, http2.ErrCodeCancel)},
		{"DATA on a stream that is gone", maxOtherPerSecond, append(appendFrameHeader(nil, 1, frameData, 0, 3), 'x')},
		{"requests without sense", maxOtherPerSecond, nil},
		{"rapid reset", maxResetsPerSecond, nil}, // those refused for want of a slot count, too
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newBubble(t).client()
				p.connect(1, "hold:1")
				p.wantStatus("an open stream", 1, "200")
				p.connect(3, "refuse:1")
				p.wantStatus("a stream that is gone", 3, "503")
				get := p.block(":method", "GET", ":scheme", "https", ":path", "/")
				connect := p.block(":method", "CONNECT", ":authority", "wait:1")
				id := uint32(3)
				next := func(all []byte) []byte {
					id += 2
					switch tc.name {
					case "requests without sense":
						return appendHeaders(all, id, get, true)
					case "rapid reset":
						return appendRSTStream(appendHeaders(all, id, connect, false), id, http2.ErrCodeCancel)
					}
					return append(all, tc.frame...)
				}
				// As many as are allowed in a second, for some seconds.
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					rounds := 3
					if tc.n > 10_000 {
						rounds = 1
					}
					for range rounds {
						var all []byte
						n := tc.n - 10
						if tc.name == "rapid reset" {
							n = 180 // within the limit of streams, whose handlers may still run
						}
						for range n {
							all = next(all)
						}
						p.conn.Write(all)
						time.Sleep(1100 * time.Millisecond)
					}
					p.WritePing(false, [8]byte{'?'})
				}()
				p.until("an answer after as many "+tc.name+" as are allowed", func(f http2.Frame) bool {
					if g, ok := f.(*http2.GoAwayFrame); ok {
						t.Errorf("%s within the limit: GOAWAY %v %q", tc.name, g.ErrCode, g.DebugData())
						return true
					}
					q, ok := f.(*http2.PingFrame)
					return ok && q.IsAck() && q.Data[0] == '?'
				})
				<-sent
				// And more.
				go func() {
					defer p.conn.SetWriteDeadline(time.Now())
					var all []byte
					for range 2*tc.n + 100 {
						all = next(all)
					}
					p.conn.Write(all)
				}()
				p.wantGoAway(tc.name, http2.ErrCodeEnhanceYourCalm)
			})
		})
	}
}
