package hbone

import (
	"context"
	"crypto/sha256"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// slowLink carries what c's peer writes to far, rate bytes a second. It takes
// bytes at once, as the buffers of sockets and networks do, and forgets those
// on their way when the sender closes, as a socket does that is reset.
func slowLink(wg *sync.WaitGroup, far, c net.Conn, rate int) {
	onItsWay := make(chan []byte, 1<<10)
	gone := make(chan struct{})
	wg.Go(func() {
		defer close(gone)
		for {
			b := make([]byte, 4<<10)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			onItsWay <- b[:n]
		}
	})
	wg.Go(func() {
		defer far.Close()
		for {
			select {
			case b := <-onItsWay:
				pause := time.NewTimer(time.Duration(len(b)) * time.Second / time.Duration(rate))
				select {
				case <-pause.C:
				case <-gone:
					return
				}
				if _, err := far.Write(b); err != nil {
					return
				}
			case <-gone:
				return
			}
		}
	})
	wg.Go(func() {
		defer c.Close()
		io.Copy(c, far)
	})
}

// A tunnel that drains is closed when its peer has read the last byte of the
// last stream, not when we have written it.
func TestLastBytesOutliveTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type upload struct {
			sum [sha256.Size]byte
			n   int
			err error
		}
		done := make(chan upload, 1)
		r := newBubble(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
			sc.Handler = func(_ context.Context, s *Stream) {
				s.Accept()
				s.CloseWrite()
				got, err := io.ReadAll(struct{ io.Reader }{s})
				done <- upload{sha256.Sum256(got), len(got), err}
			}
		})
		var wg sync.WaitGroup
		direct := r.target.Dial
		r.target.Dial = func(ctx context.Context) (net.Conn, error) {
			far, err := direct(ctx)
			if err != nil {
				return nil, err
			}
			near, c := net.Pipe()
			slowLink(&wg, far, c, 64<<10)
			return near, nil
		}
		s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "x:1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(struct{ io.Reader }{s}); err != nil {
			t.Fatalf("read to the server's half-close: %v", err)
		}
		want := noise(1, 250<<10) // four seconds of the link
		if _, err := s.Write(want); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		r.pool.Evict(func(any) bool { return true })
		got := <-done
		if got.n != len(want) || got.err != nil || got.sum != sha256.Sum256(want) {
			t.Errorf("Write, CloseWrite and Close said that all is well; the peer got %d of %d bytes and %v", got.n, len(want), got.err)
		}
		// The answer that the peer has read it all ends the tunnel.
		wg.Wait()
		synctest.Wait()
		r.pool.mu.Lock()
		if n := len(r.pool.live); n != 0 {
			t.Errorf("%d tunnels live on after their drain", n)
		}
		r.pool.mu.Unlock()
	})
}

// A server that shuts down while a handshake is under way still opens with
// SETTINGS (RFC 9113 section 3.4): a client could not make sense of GOAWAY.
func TestSettingsComeBeforeGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shaken, goOn := make(chan struct{}), make(chan struct{})
		r := newBubble(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
			sc.OnHandshake = func(net.Addr, time.Duration, error) { close(shaken); <-goOn }
		})
		p := r.silent()
		p.conn.SetDeadline(noDeadline)
		<-shaken
		ended := make(chan error, 1)
		go func() { ended <- r.server.Shutdown(t.Context()) }()
		synctest.Wait() // Shutdown waits for the connection
		close(goOn)
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatalf("no frame of a server that shuts down: %v", err)
		}
		if f.Header().Type != http2.FrameSettings {
			t.Errorf("the first frame of a server that shuts down is %v, want SETTINGS", f.Header())
		}
		p.until("GOAWAY, for the server shuts down", func(f http2.Frame) bool { return f.Header().Type == http2.FrameGoAway })
		p.conn.Close()
		if err := <-ended; err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
}
