package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// inBubble serves a peer over a pipe under a clock of the test's own. The peer's
// frames are read by the test alone, so each that comes has to be wanted.
func inBubble(t *testing.T, s *Server, h http.HandlerFunc, test func(t *testing.T, p *peer, drain context.CancelFunc, done chan struct{})) {
	synctest.Test(t, func(t *testing.T) {
		ctx, drain := context.WithCancel(context.Background())
		defer drain()
		a, done := pipeServer(t, ctx, s, h)
		p := greet(t, a)
		p.patience = time.Hour
		test(t, p, drain, done)
		a.Close()
		<-done
	})
}

func elapsed(t *testing.T, since time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(since); got < want || got > want+want/4 {
		t.Errorf("it took %v, want %v", got, want)
	}
}

func TestPrefaceTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, done := pipeServer(t, context.Background(), &Server{}, nil)
		start := time.Now()
		<-done
		elapsed(t, start, 10*time.Second)
		a.Close()
	})
}

func TestNotHTTP2(t *testing.T) {
	c, err := net.Dial("tcp", plain(t, &Server{}, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	p := &peer{t: t, c: c, f: http2.NewFramer(c, c), patience: 10 * time.Second}
	p.wantGoAway(http2.ErrCodeProtocol)
	p.wantClosed()
}

func TestIdleTimeout(t *testing.T) {
	inBubble(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { time.Sleep(5 * time.Minute) },
		func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
			id := p.open(true, getRoot...) // a request is no idleness
			p.wantStatus(id, "200")
			start := time.Now()
			p.wantGoAway(http2.ErrCodeNo)
			elapsed(t, start, 60*time.Second)
			p.want("PING", func(f http2.Frame) bool { _, ok := f.(*http2.PingFrame); return ok })
			if g := p.wantGoAway(http2.ErrCodeNo); g.LastStreamID != id {
				t.Errorf("the last stream is %d, want %d", g.LastStreamID, id)
			}
			<-done
		})
}

func TestHeaderTimeout(t *testing.T) {
	for name, send := range map[string]func(p *peer){
		"half a frame":   func(p *peer) { p.c.Write([]byte{0, 0, 10, frameHeaders}) },
		"no end":         func(p *peer) { p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}) },
		"half a payload": func(p *peer) { p.c.Write(appendPing(nil, 0, [8]byte{})[:12]) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, &Server{}, nil, func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
				start := time.Now()
				send(p)
				<-done
				elapsed(t, start, 10*time.Second)
			})
		})
	}
}

// TestSteadyFrames checks that a client whose reads always end within a frame is not
// taken for one that stopped in it.
func TestSteadyFrames(t *testing.T) {
	inBubble(t, &Server{}, nil, func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
		frame := appendWindowUpdate(nil, 0, 1)
		p.c.Write(frame[:5])
		for range 30 {
			time.Sleep(time.Second)
			if _, err := p.c.Write(append(frame[5:len(frame):len(frame)], frame[:5]...)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestBodyTimeout(t *testing.T) {
	var err error
	inBubble(t, &Server{BodyTimeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		_, err = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusRequestTimeout)
	}, func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
		id := p.open(false, postRoot...)
		time.Sleep(50 * time.Second)
		p.f.WriteData(id, false, []byte("x"))
		start := time.Now()
		p.wantStatus(id, "408")
		elapsed(t, start, time.Minute)
		var slow interface{ Timeout() bool }
		if !errors.As(err, &slow) || !slow.Timeout() {
			t.Errorf("the body ended with %v", err)
		}
	})
}

// TestBodyTimeoutSpares checks that neither a tunnel nor a stream that carries
// something in the other direction is cut.
func TestBodyTimeoutSpares(t *testing.T) {
	inBubble(t, &Server{BodyTimeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			go func() {
				for range 20 {
					time.Sleep(30 * time.Second)
					io.WriteString(w, "x")
					http.NewResponseController(w).Flush()
				}
			}()
		}
		if b, err := io.ReadAll(r.Body); string(b) != "y" || err != nil {
			t.Errorf("%s: the body was %q, %v", r.Method, b, err)
		}
	}, func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
		id := p.open(false, postRoot...)
		p.open(false, ":method", "CONNECT", ":scheme", "https", ":authority", "x", ":path", "/", ":protocol", "websocket")
		go func() {
			time.Sleep(11 * time.Minute)
			p.f.WriteData(3, true, []byte("y"))
			p.f.WriteData(1, true, []byte("y"))
		}()
		if b, _ := p.wantEnd(id); len(b) != 20 {
			t.Errorf("%d bytes came", len(b))
		}
	})
}

// TestShutWindow checks that a stream that cannot send does not wait for ever, and
// that a trickle does not keep it.
func TestShutWindow(t *testing.T) {
	for name, drip := range map[string]bool{"shut": false, "drip": true} {
		t.Run(name, func(t *testing.T) {
			var werr error
			inBubble(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
				_, werr = w.Write(make([]byte, 1<<20))
				if r.Context().Err() == nil {
					t.Error("the context of a stalled stream goes on")
				}
			}, func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
				start := time.Now()
				id := p.open(true, getRoot...)
				if drip {
					go func() {
						for range 50 {
							time.Sleep(time.Second)
							if p.f.WriteWindowUpdate(id, 1) != nil || p.f.WriteWindowUpdate(0, 1) != nil {
								return
							}
						}
					}()
				} else {
					p.f.WriteWindowUpdate(0, 1<<20)
				}
				p.wantReset(id, http2.ErrCodeCancel)
				elapsed(t, start, time.Minute)
				synctest.Wait()
				if !errors.Is(werr, errStalled) {
					t.Errorf("Write returned %v", werr)
				}
			})
		})
	}
}

// TestShutConnection is the same for the connection's window.
func TestShutConnection(t *testing.T) {
	inBubble(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) },
		func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
			start := time.Now()
			id := p.open(true, getRoot...)
			p.f.WriteWindowUpdate(id, 1<<20)
			p.wantClosed()
			<-done
			elapsed(t, start, time.Minute)
		})
}

// TestUnreadConnection is the same for a client that does not read at all.
func TestUnreadConnection(t *testing.T) {
	inBubble(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1<<20)) },
		func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
			start := time.Now()
			p.open(true, getRoot...)
			<-done
			elapsed(t, start, time.Minute)
		})
}

// TestDrain checks that streams under way, and those on their way, are the last.
func TestDrain(t *testing.T) {
	for name, pong := range map[string]bool{"answers PING": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Second)
				if r.Context().Err() != nil {
					t.Error("a drain ends requests")
				}
				io.WriteString(w, "done")
			}, func(t *testing.T, p *peer, drain context.CancelFunc, done chan struct{}) {
				first := p.open(true, getRoot...)
				synctest.Wait()
				drain()
				if g := p.wantGoAway(http2.ErrCodeNo); g.LastStreamID != maxStreamID {
					t.Errorf("announced with last stream %d", g.LastStreamID)
				}
				second := p.open(true, getRoot...) // on its way
				ping := p.want("PING", func(f http2.Frame) bool { _, ok := f.(*http2.PingFrame); return ok }).(*http2.PingFrame)
				start := time.Now()
				if pong {
					p.f.WritePing(true, ping.Data)
				}
				if g := p.wantGoAway(http2.ErrCodeNo); g.LastStreamID != second {
					t.Errorf("the last stream is %d, want %d", g.LastStreamID, second)
				}
				if !pong {
					elapsed(t, start, time.Second)
				}
				third := p.open(true, getRoot...) // too late
				answered := map[uint32]bool{first: false, second: false}
				p.want("both answers", func(f http2.Frame) bool {
					if d, ok := f.(*http2.DataFrame); ok && string(d.Data()) == "done" && d.StreamEnded() {
						answered[d.StreamID] = true
					}
					return answered[first] && answered[second]
				})
				p.c.SetReadDeadline(time.Now().Add(time.Hour))
				if f, err := p.f.ReadFrame(); err == nil {
					t.Errorf("after the last answer came %v (the late stream is %d)", f, third)
				}
				<-done
			})
		})
	}
}

func TestDrainIdle(t *testing.T) {
	inBubble(t, &Server{}, nil, func(t *testing.T, p *peer, drain context.CancelFunc, done chan struct{}) {
		drain()
		p.wantGoAway(http2.ErrCodeNo)
		p.wantClosed()
		<-done
	})
}

// TestDrainBeforePreface checks that a client that has just connected is let in, and
// told.
func TestDrainBeforePreface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, drain := context.WithCancel(context.Background())
		drain()
		a, done := pipeServer(t, ctx, &Server{}, func(w http.ResponseWriter, r *http.Request) {})
		synctest.Wait()
		p := greet(t, a)
		p.patience = time.Hour
		id := p.open(true, getRoot...)
		var answered, told bool
		p.want("an answer and GOAWAY", func(f http2.Frame) bool {
			_, goaway := f.(*http2.GoAwayFrame)
			told = told || goaway
			answered = answered || f.Header().StreamID == id
			return answered && told
		})
		<-done
	})
}

// TestContextEnds checks why and when a request's context ends.
func TestContextEnds(t *testing.T) {
	causes := make(chan error, 1)
	started := make(chan struct{}, 1)
	type key struct{}
	ctx := context.WithValue(context.Background(), key{}, "value")
	addr := listen(t, func(c net.Conn) {
		(&Server{}).ServeConn(ctx, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Context().Value(key{}) != "value" {
				t.Error("the context lacks ServeConn's values")
			}
			started <- struct{}{}
			<-r.Context().Done()
			causes <- context.Cause(r.Context())
			_, err := r.Body.Read(make([]byte, 1))
			if err == nil || err == io.EOF {
				t.Errorf("the body of a request that was cut ends with %v", err)
			}
		}))
	})
	p := dial(t, addr)
	id := p.open(false, postRoot...)
	<-started
	p.f.WriteRSTStream(id, http2.ErrCodeCancel)
	var reset *ResetError
	if err := <-causes; !errors.As(err, &reset) || reset.Code != http2.ErrCodeCancel || !errors.Is(err, context.Canceled) {
		t.Errorf("the context ended with %v", err)
	}
	p.open(false, postRoot...)
	<-started
	p.c.Close()
	if err := <-causes; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the context ended with %v", err)
	}
}

// TestContextAfter checks that it ends with the handler at the latest.
func TestContextAfter(t *testing.T) {
	ctxs := make(chan context.Context, 1)
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { ctxs <- r.Context() })
	p := dial(t, addr)
	p.wantStatus(p.open(true, getRoot...), "200")
	select {
	case <-(<-ctxs).Done():
	case <-time.After(5 * time.Second):
		t.Error("the context goes on after the handler has returned")
	}
}

// TestDeadlines checks the deadlines that handlers set.
func TestDeadlines(t *testing.T) {
	inBubble(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		start := time.Now()
		rc.SetReadDeadline(start.Add(3 * time.Second))
		if _, err := r.Body.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read returned %v", err)
		}
		elapsed(t, start, 3*time.Second)
		rc.SetReadDeadline(time.Time{})
		if _, err := r.Body.Read(make([]byte, 1)); err != nil {
			t.Errorf("Read returned %v although the deadline is off", err)
		}
		start = time.Now()
		rc.SetWriteDeadline(start.Add(5 * time.Second))
		if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write returned %v", err)
		}
		elapsed(t, start, 5*time.Second)
	}, func(t *testing.T, p *peer, _ context.CancelFunc, done chan struct{}) {
		id := p.open(false, postRoot...)
		time.Sleep(7 * time.Second)
		p.f.WriteData(id, false, []byte("x"))
		p.wantReset(id, http2.ErrCodeInternal)
		synctest.Wait()
	})
}

// TestDrainSlowClient checks that a client that is slow to read gets all of the last
// answer.
func TestDrainSlowClient(t *testing.T) {
	const size = 8 << 20
	ctx, drain := context.WithCancel(context.Background())
	written := make(chan struct{})
	addr := listen(t, func(c net.Conn) {
		(&Server{}).ServeConn(ctx, c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Write(make([]byte, size))
			close(written)
		}))
	})
	p := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	p.f.WriteWindowUpdate(0, 1<<30)
	id := p.open(true, getRoot...)
	p.wantStatus(id, "200")
	drain()
	time.Sleep(1500 * time.Millisecond) // longer than any farewell takes
	if b, _ := p.wantEnd(id); len(b) != size {
		t.Errorf("%d bytes came", len(b))
	}
	<-written
	p.wantClosed()
}
