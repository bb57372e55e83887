package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The ways in which a tunnel can lie about the TCP connection it carries.

func TestHalfCloseFromClient(t *testing.T) {
	r := newRig(t)
	addr := r.front(upstream(t, func(c *net.TCPConn) {
		got, err := io.ReadAll(c) // ends only if the half-close arrives
		if err != nil {
			t.Errorf("server read: %v", err)
		}
		c.Write(bytes.ToUpper(got))
	}))
	c := dial(t, addr)
	c.Write([]byte("question"))
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if string(got) != "QUESTION" || err != nil {
		t.Fatalf("after the client's half-close the server's answer was %q, %v", got, err)
	}
}

func TestHalfCloseFromServer(t *testing.T) {
	r := newRig(t)
	uploaded := make(chan int, 1)
	addr := r.front(upstream(t, func(c *net.TCPConn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{c})
		uploaded <- int(n)
	}))
	c := dial(t, addr)
	if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	want := noise(1, 2<<20)
	if _, err := c.Write(want); err != nil {
		t.Fatalf("upload after the server's half-close: %v", err)
	}
	c.CloseWrite()
	if n := <-uploaded; n != len(want) {
		t.Fatalf("server got %d of %d bytes sent after its half-close", n, len(want))
	}
}

func TestResetFromServer(t *testing.T) {
	r := newRig(t)
	addr := r.front(upstream(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 4))
		c.SetLinger(0) // RST at Close
	}))
	c := dial(t, addr)
	c.Write([]byte("ping"))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("server reset, client saw %v, want connection reset", err)
	}
}

func TestResetFromClient(t *testing.T) {
	for _, blocked := range []bool{false, true} {
		name := "idle"
		if blocked {
			name = "server not reading"
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			saw := make(chan error, 1)
			started := make(chan struct{})
			addr := r.front(upstream(t, func(c *net.TCPConn) {
				io.ReadFull(c, make([]byte, 4))
				close(started)
				if blocked {
					// Nothing is read until the reset must have come through.
					deadline := time.Now().Add(10 * time.Second)
					for time.Now().Before(deadline) {
						if rawBroken(c) {
							saw <- syscall.ECONNRESET
							return
						}
						time.Sleep(10 * time.Millisecond)
					}
					saw <- errors.New("no reset within 10 s")
					return
				}
				_, err := io.ReadAll(c)
				saw <- err
			}))
			c := dial(t, addr)
			c.Write([]byte("ping"))
			<-started
			if blocked {
				c.SetWriteDeadline(time.Now().Add(time.Second))
				c.Write(make([]byte, 64<<20)) // fills every window on the way
			}
			c.SetLinger(0)
			c.Close()
			if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("client reset, server saw %v, want connection reset", err)
			}
		})
	}
}

// A client that closes with the server's last bytes unread resets its socket,
// after both directions have ended: nothing went wrong.
func TestCloseWithUnreadBytesIsNoFailure(t *testing.T) {
	r := newRig(t)
	results := make(chan SpliceResult, 1)
	up := upstream(t, func(c *net.TCPConn) {
		io.ReadAll(c)
		c.Write([]byte("close_notify"))
	})
	l := listen(t)
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s, err := r.pool.Dial(context.Background(), r.target, Request{Authority: up})
		if err != nil {
			t.Error(err)
			return
		}
		results <- Splice(s, c)
	}()
	c := dial(t, l.Addr().String())
	c.Write([]byte("request"))
	c.CloseWrite()
	eventually(t, "the server's bytes are there", func() bool {
		raw, err := c.SyscallConn()
		n := 0
		if err == nil {
			raw.Control(func(fd uintptr) {
				n, _, _ = syscall.Recvfrom(int(fd), make([]byte, 64), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			})
		}
		return n == len("close_notify")
	})
	c.Close() // RST: bytes are unread
	if res := <-results; res.Err != nil || res.FromStream != int64(len("close_notify")) {
		t.Errorf("splice ended with %+v, want a plain end", res)
	}
}

func rawBroken(c *net.TCPConn) (broken bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	raw.Control(func(fd uintptr) { broken = pollBroken(fd) })
	return broken
}

func TestTunnelCutIsAReset(t *testing.T) {
	var tunnel net.Conn
	r := newRig(t)
	dialTCP := r.target.Dial
	r.target.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dialTCP(ctx)
		tunnel = c
		return c, err
	}
	addr := r.front(upstream(t, echo))
	c := dial(t, addr)
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	tunnel.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("tunnel cut mid-stream, client saw %v, want connection reset", err)
	}
	// The pool notices and opens another.
	c = dial(t, addr)
	c.Write([]byte("y"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatalf("after the cut: %v", err)
	}
}

func TestRefusedIsNotAcceptedFirst(t *testing.T) {
	r := newRig(t)
	l := listen(t)
	addr := l.Addr().String()
	l.Close()
	_, err := r.pool.Dial(t.Context(), r.target, Request{Authority: addr})
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Fatalf("upstream refused, Dial returned %v", err)
	}
}

func TestDrainWithLiveStream(t *testing.T) {
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			r := newRig(t)
			up := upstream(t, echo)
			addr := r.front(up)
			c := dial(t, addr)
			c.Write([]byte("x"))
			io.ReadFull(c, make([]byte, 1))

			ended := make(chan error, 1)
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			go func() {
				if side == "server" {
					ended <- r.server.Shutdown(ctx)
				} else {
					ended <- r.pool.Shutdown(ctx)
				}
			}()
			eventually(t, "the drain shows in the stats", func() bool {
				for _, st := range r.pool.Stats() {
					if st.Draining {
						return true
					}
				}
				return false
			})
			want := noise(2, 1<<20)
			go func() { c.Write(want); c.CloseWrite() }()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("live stream during a drain: %d of %d bytes, %v", len(got), len(want), err)
			}
			if err := <-ended; err != nil {
				t.Fatalf("drain: %v", err)
			}
		})
	}
}

func TestDrainDeadlineResets(t *testing.T) {
	r := newRig(t)
	addr := r.front(upstream(t, echo))
	c := dial(t, addr)
	c.Write([]byte("x"))
	io.ReadFull(c, make([]byte, 1))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Shutdown with a stream that stays: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("stream cut at the drain deadline ended with %v, want a reset", err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// A destination that does not read holds up nobody else, and costs no more than
// its window.
func TestSlowReaders(t *testing.T) {
	r := newRig(t)
	// What the kernel holds for the destination is not the point.
	r.inside = func(_ *Stream, c net.Conn) { c.(*net.TCPConn).SetWriteBuffer(16 << 10) }
	release := make(chan struct{})
	stuck := r.front(upstream(t, func(c *net.TCPConn) {
		c.SetReadBuffer(16 << 10)
		<-release
	}))
	quick := r.front(upstream(t, echo))
	const streams = 64
	for range streams {
		c := dial(t, stuck)
		go func() {
			chunk := make([]byte, 64<<10)
			for range 200 {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		}()
	}
	eventually(t, "every stalled stream has used up its window", func() bool {
		full := 0
		for _, c := range r.pool.conns(nil) {
			c.mu.Lock()
			c.w.mu.Lock()
			for _, s := range c.streams {
				if s.credit <= 0 {
					full++
				}
			}
			c.w.mu.Unlock()
			c.mu.Unlock()
		}
		return full == streams
	})
	c := dial(t, quick)
	buf := make([]byte, 64)
	for i := range 200 {
		if _, err := c.Write(buf); err != nil {
			t.Fatalf("small stream beside %d stalled ones, message %d: %v", streams, i, err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatalf("small stream beside %d stalled ones, message %d: %v", streams, i, err)
		}
	}
	var held int
	r.server.mu.Lock()
	for sc := range r.server.conns {
		sc.mu.Lock()
		for _, s := range sc.streams {
			s.mu.Lock()
			held += s.q.size
			s.mu.Unlock()
		}
		sc.mu.Unlock()
	}
	r.server.mu.Unlock()
	if limit := streams*InitialStreamWindow + 32<<20; held > limit {
		t.Errorf("%d stalled streams hold %d bytes, more than %d", streams, held, limit)
	}
	close(release)
}
