package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// relay carries TCP connections to addr and cuts a connection when up bytes
// have gone to addr or down bytes have come back; negative: never. It counts
// what it carries.
type relay struct {
	addr     string
	up, down int64
	reset    bool // cut by RST instead of FIN
	sent     [2]atomic.Int64
}

func (r *relay) dial(ctx context.Context) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	a, err := l.Accept()
	if err != nil {
		return nil, err
	}
	b, err := new(net.Dialer).DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return nil, err
	}
	go r.carry(b, a, r.up, &r.sent[0])
	go r.carry(a, b, r.down, &r.sent[1])
	return near, nil
}

func (r *relay) carry(dst, src net.Conn, limit int64, sent *atomic.Int64) {
	defer func() {
		for _, c := range []net.Conn{dst, src} {
			if r.reset {
				c.(*net.TCPConn).SetLinger(0)
			}
			c.Close()
		}
	}()
	buf := make([]byte, 4<<10)
	for limit < 0 || sent.Load() < limit {
		n, err := src.Read(buf)
		if limit >= 0 {
			n = int(min(int64(n), limit-sent.Load()))
		}
		if _, werr := dst.Write(buf[:n]); werr != nil || err != nil {
			return
		}
		sent.Add(int64(n))
	}
}

// A tunnel that is cut, at whatever byte in whatever direction, leaves both
// applications with a plain end only if they have everything, and nothing behind.
func TestTunnelCutAtEveryByte(t *testing.T) {
	r := newRig(t)
	whole := &relay{addr: r.addr, up: -1, down: -1}
	if e := r.exchange(t, whole); !e.clean() {
		t.Fatalf("without a cut: %+v", e)
	}
	up, down := whole.sent[0].Load(), whole.sent[1].Load()
	// What TLS does with a handshake that is cut is not ours: every 40th byte of
	// it will do, and every byte of what follows.
	const after = 500
	var cuts []*relay
	for i, n := range []int64{up, down} {
		for at := int64(0); at <= n; at++ {
			if at < n-after && at%40 != 0 {
				continue
			}
			cut := &relay{addr: r.addr, up: -1, down: -1, reset: at%2 == 1}
			if i == 0 {
				cut.up = at
			} else {
				cut.down = at
			}
			cuts = append(cuts, cut)
		}
	}
	t.Logf("%d bytes up, %d down, %d cuts", up, down, len(cuts))
	todo := make(chan *relay)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for cut := range todo {
				if e := r.exchange(t, cut); e.lies() {
					t.Errorf("cut at %d up, %d down (-1: not), by RST: %v: %+v", cut.up, cut.down, cut.reset, e)
				}
			}
		})
	}
	for _, cut := range cuts {
		todo <- cut
	}
	close(todo)
	wg.Wait()
	eventually(t, "the server has forgotten every tunnel", func() bool { return len(r.server.Stats()) == 0 })
	r.quiet(t)
}

var question, answer = noise(1, 40), noise(2, 60)

// ending is what the two applications of an exchange have seen.
type ending struct {
	client, server       []byte
	clientErr, serverErr error // nil: a plain end
	reached              bool  // the server has been connected to
}

func (e ending) clean() bool {
	return e.clientErr == nil && e.serverErr == nil && bytes.Equal(e.client, answer) && bytes.Equal(e.server, question)
}

// lies: somebody takes for whole what is not, or sees what was never sent.
func (e ending) lies() bool {
	return !bytes.HasPrefix(answer, e.client) || !bytes.HasPrefix(question, e.server) ||
		e.clientErr == nil && len(e.client) < len(answer) || e.reached && e.serverErr == nil && len(e.server) < len(question) ||
		isTimeout(e.clientErr) || isTimeout(e.serverErr)
}

// exchange has a client send the question and its end through a tunnel of its
// own over cut, and the server answer once it has all of it.
func (r *rig) exchange(t *testing.T, cut *relay) (e ending) {
	front, up := listen(t), listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := up.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		e.reached = true
		if e.server, e.serverErr = io.ReadAll(c); e.serverErr == nil {
			c.Write(answer)
		}
	})
	pool := NewPool(PoolConfig{})
	wg.Go(func() {
		c, err := front.Accept()
		if err != nil {
			return
		}
		target := r.target
		target.Dial = cut.dial
		s, err := pool.Dial(context.Background(), target, Request{Authority: up.Addr().String()})
		if err != nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
			return
		}
		Splice(s, c)
	})
	c, err := net.Dial("tcp", front.Addr().String())
	if e.clientErr = err; err == nil { // a reset may come before connect(2) has returned
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		// A reset is reported once, by whichever call comes first.
		_, werr := c.Write(question)
		cerr := c.(*net.TCPConn).CloseWrite()
		e.client, e.clientErr = io.ReadAll(c)
		e.clientErr = errors.Join(e.clientErr, werr, cerr)
	}
	ctx, cancel := timeout(5 * time.Second)
	defer cancel()
	if err := pool.Shutdown(ctx); err != nil {
		t.Errorf("cut at %d up, %d down: the pool's tunnel does not end: %v", cut.up, cut.down, err)
	}
	front.Close()
	up.Close()
	wg.Wait()
	return e
}
