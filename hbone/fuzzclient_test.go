package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/identity/identitytest"
)

// FuzzClient has a server answer anything. Dial and Read must return, and the
// pool keep nothing.
func FuzzClient(f *testing.F) {
	mesh := identitytest.New(f, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	cfg := tunnelTLS(mesh.ServerTLS(server))
	clientTLS := mesh.ClientTLS(client, server)
	seedFrames(f)
	f.Fuzz(func(t *testing.T, framed bool, in []byte) {
		if framed {
			in = frames(in)
		}
		pool := NewPool(PoolConfig{DialTimeout: 10 * time.Second})
		var wg sync.WaitGroup
		s, err := pool.Dial(t.Context(), Target{Key: 1, TLS: clientTLS, Dial: func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			wg.Go(func() {
				defer theirs.Close()
				tc := tls.Server(theirs, cfg)
				if tc.Handshake() != nil {
					return
				}
				// The CONNECT, if it comes, is read before the end.
				var reading sync.WaitGroup
				reading.Go(func() { io.Copy(io.Discard, tc) })
				tc.SetDeadline(time.Now().Add(10 * time.Second))
				tc.Write(in)
				tc.CloseWrite()
				theirs.Close()
				reading.Wait()
			})
			return ours, nil
		}}, Request{Authority: "echo:1"})
		if err == nil {
			s.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); isTimeout(err) {
				t.Error("the stream has not ended though its tunnel has")
			}
			s.Close()
		} else if isTimeout(err) {
			t.Errorf("Dial has not ended though its tunnel has: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := pool.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		wg.Wait()
		if left := windowBudget.left.Load(); left != fullBudget {
			t.Errorf("%d bytes of window are gone for good", fullBudget-left)
		}
	})
}
