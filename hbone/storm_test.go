package hbone

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// A peer that ends every tunnel at once, because it drains or crashes, fails the
// dial and is left alone, as one that refuses is.
func TestPeerThatEndsTunnelsAtOnceIsNotDialledInALoop(t *testing.T) {
	for name, end := range map[string]func(p *peer){
		"GOAWAY with SETTINGS": func(p *peer) {
			p.conn.Write(appendGoAway(appendSettings(nil), 0, http2.ErrCodeNo, "draining"))
			p.drain()
		},
		"GOAWAY right after": func(p *peer) {
			p.greet()
			p.WriteGoAway(0, http2.ErrCodeNo, nil)
			p.drain()
		},
		"close": func(p *peer) { p.greet() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pool, target := strangeBubble(t, PoolConfig{BackoffFirst: time.Second}, func(_ int, p *peer) { end(p) })
				inner := target.Dial
				var dials atomic.Int32
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				target.Dial = func(ctx context.Context) (net.Conn, error) {
					if dials.Add(1) == 50 {
						cancel()
					}
					return inner(ctx)
				}
				for range 100 { // in a second
					if s, err := pool.Dial(ctx, target, Request{Authority: "x:1"}); err == nil {
						s.Close()
						t.Fatal("Dial succeeded")
					}
					time.Sleep(10 * time.Millisecond)
				}
				// A failure and its retries, and what was under way when the back-off ended.
				if n := dials.Load(); n > 4*openTries {
					t.Errorf("%d tunnels in a second to a peer that ends each at once", n)
				}
			})
		})
	}
}
