package hbone

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Many streams, and nothing left of them.

// leftovers measures what a test may leave behind: goroutines and descriptors.
func leftovers(t testing.TB) (goroutines, fds int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	return runtime.NumGoroutine(), len(entries)
}

func TestThousandsOfResets(t *testing.T) {
	const streams, parallel = 10_000, 50
	r := newRig(t, scripted)
	warm, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
	if err != nil {
		t.Fatal(err)
	}
	wantEcho(t, warm, "warm")
	goroutines, fds := leftovers(t)
	// Over several tunnels and below what a second allows each: haste is an
	// offence, and not what this test is about.
	const tunnels = 4
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	leave := make(chan struct{}, tunnels*maxResetsPerSecond/2/20)
	todo := make(chan int)
	var wg sync.WaitGroup
	for range parallel {
		wg.Go(func() {
			for i := range todo {
				to := []string{"echo:1", "hold:1"}[i/4%2]
				if i%4 == 2 {
					to = "source:1"
				}
				target := r.target
				target.Key = i % tunnels
				s, err := r.pool.Dial(t.Context(), target, Request{Authority: to})
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
					continue
				}
				switch i % 4 {
				case 0:
					s.Close()
				case 1:
					s.Write(make([]byte, i%5000))
					s.Reset(http2.ErrCodeCancel)
				case 2:
					s.Read(make([]byte, 1))
					s.Close()
				case 3:
					s.CloseWrite()
					s.Reset(http2.ErrCodeInternal)
				}
			}
		})
	}
	go func() {
		defer close(leave)
		for sent := 0; sent < streams; sent += cap(leave) {
			<-pace.C
			for range cap(leave) {
				leave <- struct{}{}
			}
		}
	}()
	i := 0
	for range leave {
		todo <- i
		i++
	}
	close(todo)
	wg.Wait()
	r.quiet(t)
	r.creditIsBack(t)
	eventually(t, "goroutines and descriptors are as before", func() bool {
		// Each tunnel has a socket and a reader at either end, and a goroutine of
		// the server's.
		extra := len(r.pool.Stats()) - 1
		g, f := leftovers(t)
		return g <= goroutines+4*extra && f <= fds+2*extra
	})
	again, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
	if err != nil {
		t.Fatal(err)
	}
	wantEcho(t, again, "and the tunnel still works")
}

func TestThousandStreamsAtOnce(t *testing.T) {
	const streams = 1000
	goroutines, fds := leftovers(t)
	t.Run("", func(t *testing.T) {
		r := newRig(t, scripted)
		open := make([]*Stream, streams)
		var wg sync.WaitGroup
		for i := range open {
			wg.Go(func() {
				s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
					return
				}
				open[i] = s
				want := noise(uint64(i), 1000+i)
				s.Write(want)
				got := make([]byte, len(want))
				if _, err := io.ReadFull(s, got); err != nil || string(got) != string(want) {
					t.Errorf("stream %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		n := 0
		for _, st := range r.pool.Stats() {
			n += st.Streams
		}
		if n != streams {
			t.Errorf("the pool counts %d streams, %d are open", n, streams)
		}
		for i, s := range open {
			wg.Go(func() {
				s.CloseWrite()
				if _, err := next(s); err != nil {
					t.Errorf("stream %d: end: %v", i, err)
				}
				s.Close()
			})
		}
		wg.Wait()
		r.quiet(t)
	})
	eventually(t, "goroutines and descriptors are as before", func() bool {
		g, f := leftovers(t)
		return g <= goroutines+2 && f <= fds
	})
}

// Streams that are given up while their CONNECT is on its way leave nothing.
func TestDialsGivenUp(t *testing.T) {
	r := newRig(t, scripted)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i%20)*time.Millisecond)
			defer cancel()
			s, err := r.pool.Dial(ctx, r.target, Request{Authority: "wait:1"})
			if err == nil {
				s.Close()
				t.Error("a CONNECT that is never answered succeeded")
			} else if !errors.Is(err, context.DeadlineExceeded) {
				var re *ResetError
				if !errors.As(err, &re) || re.Code != http2.ErrCodeRefusedStream {
					t.Errorf("Dial: %v", err)
				}
			}
		})
	}
	wg.Wait()
	r.quiet(t)
	r.creditIsBack(t)
}
