package hbone

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-mesh/adit/identity/identitytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a pool and a server joined over loopback. Its server splices every
// stream to the address in the authority, as an agent does.
type rig struct {
	t      testing.TB
	pool   *Pool
	server *Server
	target Target
	addr   string
	inside func(*Stream, net.Conn) // called before the server splices; may be nil
}

type rigOption func(*rig, *PoolConfig, *ServerConfig)

func newRig(t testing.TB, opts ...rigOption) *rig {
	t.Helper()
	mesh := identitytest.New(t, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	r := &rig{t: t}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("HBONE_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	pc := PoolConfig{Logger: log}
	sc := ServerConfig{TLS: mesh.ServerTLS(server), Handler: r.handle, Logger: log}
	for _, o := range opts {
		o(r, &pc, &sc)
	}
	l := listen(t)
	r.addr = l.Addr().String()
	r.server = NewServer(sc)
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	r.pool = NewPool(pc)
	r.target = Target{
		Key:  "server",
		Dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", r.addr) },
		TLS:  mesh.ClientTLS(client, server),
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.pool.Shutdown(ctx)
		if err := r.server.Shutdown(ctx); err != nil {
			t.Errorf("server shutdown: %v", err)
		}
		if err := <-served; err != ErrServerClosed {
			t.Errorf("Serve returned %v, want ErrServerClosed", err)
		}
	})
	return r
}

func (r *rig) handle(ctx context.Context, s *Stream) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", s.Request().Authority)
	if err != nil {
		s.Reject(503)
		return
	}
	if err := s.Accept(Header{"baggage", "service.name=server"}); err != nil {
		c.(*net.TCPConn).SetLinger(0) // a plain end would be a lie
		c.Close()
		return
	}
	if r.inside != nil {
		r.inside(s, c)
	}
	Splice(s, c)
}

// front listens and carries every connection to upstream, through the tunnel.
func (r *rig) front(upstream string) string {
	l := listen(r.t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				s, err := r.pool.Dial(context.Background(), r.target, Request{Authority: upstream})
				if err != nil {
					c.(*net.TCPConn).SetLinger(0)
					c.Close()
					return
				}
				Splice(s, c)
			})
		}
	})
	r.t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// upstream runs serve for each connection to a new listener.
func upstream(t testing.TB, serve func(*net.TCPConn)) string {
	l := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func echo(c *net.TCPConn) {
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	c.CloseWrite()
}

// noise is n bytes that no two calls with different seeds share.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func TestEcho(t *testing.T) {
	r := newRig(t)
	addr := r.front(upstream(t, echo))
	for _, n := range []int{0, 1, 100, smallData, smallData + 1, 16 << 10, 100 << 10, 3 << 20} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := dial(t, addr)
			want := noise(uint64(n), n)
			var wg sync.WaitGroup
			wg.Go(func() {
				c.Write(want)
				c.CloseWrite()
			})
			got, err := io.ReadAll(c)
			wg.Wait()
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			if sha256.Sum256(got) != sha256.Sum256(want) {
				t.Fatalf("echo of %d bytes came back as %d other bytes", len(want), len(got))
			}
		})
	}
}

func TestManyStreams(t *testing.T) {
	r := newRig(t)
	addr := r.front(upstream(t, echo))
	var wg sync.WaitGroup
	errs := make(chan error, 300)
	for i := range 300 {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			n := 1 + rand.IntN(200<<10)
			want := noise(uint64(i), n)
			go func() { c.Write(want); c.(*net.TCPConn).CloseWrite() }()
			got, err := io.ReadAll(c)
			if err != nil {
				errs <- fmt.Errorf("stream %d: %w", i, err)
			} else if sha256.Sum256(got) != sha256.Sum256(want) {
				errs <- fmt.Errorf("stream %d: %d bytes came back as %d others", i, len(want), len(got))
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// A tunnel carries more than its window: its credit comes back on receipt.
func TestMoreThanTheTunnelWindow(t *testing.T) {
	r := newRig(t)
	c := dial(t, r.front(upstream(t, echo)))
	want := noise(7, TunnelWindow*5/4)
	go func() { c.Write(want); c.CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
		t.Fatalf("%d of %d bytes came back, or other ones: %v", len(got), len(want), err)
	}
}

func TestStatus(t *testing.T) {
	r := newRig(t)
	l := listen(t)
	closed := l.Addr().String()
	l.Close()
	_, err := r.pool.Dial(t.Context(), r.target, Request{Authority: closed})
	var se *StatusError
	if !errors.As(err, &se) || se.Status != 503 {
		t.Fatalf("CONNECT to a closed port: %v, want status 503", err)
	}
	s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: upstream(t, echo)})
	if err != nil {
		t.Fatal(err)
	}
	if got := headerValue(s.ResponseHeader(), "baggage"); got != "service.name=server" {
		t.Errorf("baggage of the answer is %q", got)
	}
	s.Close()
}
