package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/identity/identitytest"
)

// pipes is a listener whose connections are net.Pipes, so that all of a tunnel
// lives in a synctest bubble: time moves only when nothing else does.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipes) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

var errRefused = errors.New("connection refused")

func (l *pipes) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.done:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// newBubble is newRig without sockets, with the scripted server, for a test that
// runs in a bubble.
func newBubble(t testing.TB, opts ...rigOption) *rig {
	t.Helper()
	mesh := identitytest.New(t, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	r := &rig{t: t}
	pc := PoolConfig{}
	sc := ServerConfig{TLS: mesh.ServerTLS(server)}
	scripted(r, &pc, &sc)
	for _, o := range opts {
		o(r, &pc, &sc)
	}
	l := newPipes()
	r.server = NewServer(sc)
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	r.pool = NewPool(pc)
	r.target = Target{Key: "server", Dial: l.dial, TLS: mesh.ClientTLS(client, server)}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			r.pool.Shutdown(ctx)
			r.server.Close()
			<-served
		}()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Error("pool and server have not closed within 10 s")
		}
	})
	return r
}

// strangeBubble is strangeServer without sockets. A nil script never answers
// the TLS handshake.
func strangeBubble(t testing.TB, pc PoolConfig, script func(n int, p *peer)) (*Pool, Target) {
	t.Helper()
	mesh := identitytest.New(t, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	cfg := tunnelTLS(mesh.ServerTLS(server))
	l := newPipes()
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				if script == nil {
					<-l.done
					return
				}
				tc := tls.Server(c, cfg)
				if err := tc.Handshake(); err != nil {
					return
				}
				p := newPeer(t, tc)
				p.conn.SetDeadline(noDeadline)
				script(n, p)
			})
		}
	})
	pool := NewPool(pc)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		pool.Shutdown(ctx)
		l.Close()
		wg.Wait()
	})
	return pool, Target{Key: "stranger", Dial: l.dial, TLS: mesh.ClientTLS(client, server)}
}
