//lint:file-ignore SA1019 x/net/http2 is the peer that others bring; its successors in net/http are the same code

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/adit-mesh/adit/identity/identitytest"
)

// The model again, with x/net/http2 at one end. Its server cannot half-close
// before its handler returns, and its client gives up a request body when the
// answer has ended, so that there the server's end closes last.

// transportEnd is a CONNECT request of an http2.Transport.
type transportEnd struct {
	body   *io.PipeWriter
	resp   *http.Response
	cancel context.CancelFunc
}

func (e transportEnd) Read(p []byte) (int, error) {
	n, err := e.resp.Body.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", errModelReset, err)
	}
	return n, err
}

func (e transportEnd) Write(p []byte) (int, error) {
	n, err := e.body.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errModelReset, err)
	}
	return n, err
}

func (e transportEnd) CloseWrite() error { return e.body.Close() }

// Reset fails the body, too: Transport does not see its context end while it
// waits for the body.
func (e transportEnd) Reset() {
	e.cancel()
	e.body.CloseWithError(errModelReset)
}

func TestModelWithAForeignClient(t *testing.T) {
	eachSeed(t, 2, func(t *testing.T, rng *rand.Rand) {
		m := newModel(t, rng, 60, modelKind{serverLast: true, size: 300_000})
		r := newRig(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
			sc.Handler = func(_ context.Context, s *Stream) {
				if s.Accept() == nil {
					m.serve(s.Request().Authority, streamEnd{s})
				}
			}
		})
		drawSettings(rng, &r.server.opt)
		tr := &http2.Transport{MaxReadFrameSize: []uint32{minFrameSize, 50_000, MaxFrame}[rng.IntN(3)]}
		c, err := r.target.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(c, tunnelTLS(r.target.TLS))
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		cc, err := tr.NewClientConn(tc)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		m.run(func(authority string) (end, func(), error) {
			ctx, cancel := context.WithCancel(t.Context())
			pr, pw := io.Pipe()
			req := (&http.Request{
				Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: authority}, Host: authority,
				Header: http.Header{"Baggage": {"service.name=x"}}, Body: pr, ContentLength: -1,
			}).WithContext(ctx)
			resp, err := cc.RoundTrip(req)
			if err != nil {
				cancel()
				return nil, nil, err
			}
			if resp.StatusCode != 200 {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
			return transportEnd{pw, resp, cancel}, func() { resp.Body.Close(); pr.Close(); cancel() }, err
		})
		r.quiet(t)
	})
}

// handlerEnd is a CONNECT in a handler of http2.Server, which ends the stream
// when the handler returns: after finished.
type handlerEnd struct {
	w     http.ResponseWriter
	r     *http.Request
	abort func()
}

func (e handlerEnd) Read(p []byte) (int, error) {
	n, err := e.r.Body.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", errModelReset, err)
	}
	return n, err
}

func (e handlerEnd) Write(p []byte) (int, error) {
	n, err := e.w.Write(p)
	if err == nil {
		err = http.NewResponseController(e.w).Flush()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errModelReset, err)
	}
	return n, err
}

func (e handlerEnd) CloseWrite() error { return nil } // when the handler returns
func (e handlerEnd) Reset()            { e.abort() }

func TestModelWithAForeignServer(t *testing.T) {
	eachSeed(t, 2, func(t *testing.T, rng *rand.Rand) {
		m := newModel(t, rng, 60, modelKind{serverLast: true, size: 300_000})
		pool, target := foreignServer(t, &http2.Server{
			MaxReadFrameSize:             []uint32{minFrameSize, 50_000, MaxFrame}[rng.IntN(3)],
			MaxUploadBufferPerStream:     []int32{1000, 65_535, 1 << 20}[rng.IntN(3)],
			MaxUploadBufferPerConnection: []int32{65_536, 16 << 20}[rng.IntN(2)],
			MaxConcurrentStreams:         []uint32{7, 250}[rng.IntN(2)],
		}, func(w http.ResponseWriter, req *http.Request) {
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			var once sync.Once
			aborted := make(chan struct{})
			e := handlerEnd{w, req, func() { once.Do(func() { close(aborted); req.Body.Close() }) }}
			m.serve(req.Host, e)
			select {
			case <-aborted:
				panic(http.ErrAbortHandler) // RST_STREAM
			default:
			}
		})
		drawSettings(rng, &pool.opt)
		m.run(func(authority string) (end, func(), error) {
			s, err := pool.Dial(t.Context(), target, Request{Authority: authority, Header: []Header{{"baggage", "service.name=x"}}})
			return streamEnd{s}, func() { s.Close() }, err
		})
	})
}

// foreignServer serves a pool's tunnels by http2.Server.
func foreignServer(t *testing.T, srv *http2.Server, handle http.HandlerFunc) (*Pool, Target) {
	mesh := identitytest.New(t, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	cfg := tunnelTLS(mesh.ServerTLS(server))
	l := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				tc := tls.Server(c, cfg)
				if err := tc.Handshake(); err != nil {
					t.Error(err)
					return
				}
				srv.ServeConn(tc, &http2.ServeConnOpts{Handler: handle})
			})
		}
	})
	pool := NewPool(PoolConfig{})
	t.Cleanup(func() {
		ctx, cancel := timeout(5 * time.Second)
		defer cancel()
		if err := pool.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v", err)
		}
		l.Close()
		wg.Wait()
	})
	return pool, Target{
		Key: "foreign",
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		},
		TLS: mesh.ClientTLS(client, server),
	}
}
