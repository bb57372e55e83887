package h1

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Clients and backends that give up at any moment, in the middle of anything, with
// a plain end or a reset, while a proxy of both halves is in between: nothing hangs,
// nothing is answered with another request's answer, and no goroutine is left.
func TestStorm(t *testing.T) {
	backend := listen(t, func(c net.Conn) {
		rnd := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
		(&Server{BodyTimeout: patience}).ServeConn(t.Context(), c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch rnd.IntN(6) {
			case 0:
				panic(http.ErrAbortHandler)
			case 1: // answer early
			case 2:
				io.CopyN(io.Discard, r.Body, rnd.Int64N(100<<10))
			default:
				io.Copy(io.Discard, r.Body)
			}
			w.Header().Set("For", r.URL.Path)
			n := rnd.IntN(100 << 10)
			if rnd.IntN(2) == 0 {
				w.Header().Set("Content-Length", fmt.Sprint(n))
			}
			if rnd.IntN(5) == 0 {
				io.CopyN(w, neverEnding{}, int64(n/2))
				panic(http.ErrAbortHandler)
			}
			io.CopyN(w, neverEnding{}, int64(n))
		}))
	})
	p := &proxyHandler{addr: backend}
	defer p.close()
	drain, cancel := context.WithCancel(context.Background())
	defer cancel()
	front := serveContext(t, drain, &Server{BodyTimeout: patience}, p)

	var served, id atomic.Int64
	var wg sync.WaitGroup
	for worker := range 8 {
		rnd := rand.New(rand.NewPCG(uint64(worker), 7))
		wg.Go(func() {
			for range 60 {
				c := dial(t, front)
				in := newRawPeer(t, c)
				for range 1 + rnd.IntN(5) {
					path := fmt.Sprintf("/%d", id.Add(1))
					n := rnd.IntN(150 << 10)
					if rnd.IntN(2) == 0 {
						fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", path, n)
					} else {
						fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n", path, n+1)
						n += len("\r\n0\r\n\r\n") + 1
					}
					if rnd.IntN(4) == 0 {
						io.CopyN(c, neverEnding{}, int64(n)/2)
						break
					}
					// What is sent as a chunked body's end is none, now and then: garbage
					// must not hurt either.
					go io.CopyN(c, neverEnding{}, int64(n))
					resp, err := http.ReadResponse(in.in, nil)
					if err != nil {
						break
					}
					if got := resp.Header.Get("For"); got != "" && got != path {
						t.Errorf("%s got the answer for %s", path, got)
					}
					if rnd.IntN(4) == 0 {
						io.CopyN(io.Discard, resp.Body, 1000)
						break
					}
					if _, err := io.Copy(io.Discard, resp.Body); err != nil {
						break
					}
					served.Add(1)
				}
				if rnd.IntN(2) == 0 {
					c.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
			}
		})
	}
	wg.Wait()
	if served.Load() == 0 {
		t.Error("nothing was served")
	}
	t.Logf("%d of %d requests were answered whole", served.Load(), id.Load())
}
