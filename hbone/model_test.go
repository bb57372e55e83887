package hbone

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var modelSeed = flag.Uint64("hbone.seed", 0, "seed of the model tests; 0: a new one, which is logged")

// The model: what each end of a stream does is drawn beforehand, and with it
// every byte and every kind of end that the other end may see.

// part is what one end of a stream does.
type part struct {
	seed    uint64
	send    int  // bytes it sends before its half-close
	reset   int  // bytes after which it resets instead; -1: it does not
	last    bool // it half-closes only after it has seen the other's end
	stalled bool // it reads nothing before every stream without a stalled end is done
	chunk   int  // largest write and read
}

// end is one end of a stream as the model drives it.
type end interface {
	io.Reader
	io.Writer
	CloseWrite() error
	Reset()
}

// outcome is what one end did and saw.
type outcome struct {
	got      int
	other    bool // bytes that were not sent
	readErr  error
	writeErr error
	reset    bool // it reset the stream
}

func (o outcome) clean() bool { return o.readErr == nil && o.writeErr == nil }

// play drives e as p says against an end that does as q says.
func play(e end, p, q part, gate <-chan struct{}) (o outcome) {
	rng := rand.New(rand.NewPCG(p.seed, 1))
	var ended = make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex // of o.reset
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(p.seed, 2))
		mine := noise(p.seed, p.send)
		for sent := 0; ; {
			if sent == p.reset {
				mu.Lock()
				o.reset = true
				mu.Unlock()
				e.Reset()
				return
			}
			if sent == p.send {
				break
			}
			n := min(1+rng.IntN(p.chunk), p.send-sent)
			if p.reset > sent {
				n = min(n, p.reset-sent)
			}
			n, err := e.Write(mine[sent : sent+n])
			sent += n
			if err != nil {
				o.writeErr = err
				return
			}
			if rng.IntN(50) == 0 {
				time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
			}
		}
		if p.last {
			<-ended
		}
		o.writeErr = e.CloseWrite()
	})
	theirs := noise(q.seed, q.send)
	if p.stalled {
		<-gate
	}
	buf := make([]byte, p.chunk)
	for {
		n, err := e.Read(buf[:1+rng.IntN(p.chunk)])
		if o.got+n > len(theirs) || !bytes.Equal(buf[:n], theirs[o.got:o.got+n]) {
			o.other = true
		}
		o.got += n
		if err == io.EOF {
			break
		}
		if err != nil {
			o.readErr = err
			break
		}
		if rng.IntN(50) == 0 {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
		}
	}
	close(ended)
	wg.Wait()
	return o
}

// judge says what of an outcome at the end that does p, opposite one that did
// q, cannot be.
func judge(p, q part, o, other outcome) string {
	switch {
	case o.other:
		return fmt.Sprintf("read bytes that were not sent, among its %d", o.got)
	case o.readErr == nil && o.got < q.send && o.writeErr == nil:
		return fmt.Sprintf("a plain end after %d of %d bytes", o.got, q.send)
	case other.reset && o.clean():
		return "a plain end although the other end reset the stream"
	case !other.reset && !o.reset && !o.clean():
		return fmt.Sprintf("read %v, write %v although nobody reset the stream", o.readErr, o.writeErr)
	case other.reset && !o.reset && !isReset(o.readErr) && !isReset(o.writeErr):
		return fmt.Sprintf("read %v, write %v; want a reset", o.readErr, o.writeErr)
	}
	return ""
}

func isReset(err error) bool {
	return errors.As(err, new(*ResetError)) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		err != nil && errors.Is(err, errModelReset)
}

// errModelReset marks the error by which a foreign end shows a reset.
var errModelReset = errors.New("reset")

// model runs a number of streams at once.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	client  []part
	server  []part
	seen    []chan outcome // by servers
	gate    chan struct{}
	playing atomic.Int32 // streams without a stalled end
}

type modelKind struct {
	stalls     bool // ends may stall until the others are done
	serverLast bool // the server's end half-closes last
	size       int  // bytes that an end sends, at most
}

// newModel draws n streams.
func newModel(t *testing.T, rng *rand.Rand, n int, k modelKind) *model {
	m := &model{t: t, rng: rng, gate: make(chan struct{})}
	draw := func() part {
		p := part{seed: rng.Uint64N(1 << 16), reset: -1, chunk: 1 << (4 + rng.IntN(14)), last: rng.IntN(4) == 0}
		switch rng.IntN(4) {
		case 0:
			p.send = rng.IntN(100)
		case 1:
			p.send = rng.IntN(10_000)
		default:
			p.send = rng.IntN(k.size)
		}
		p.chunk = max(p.chunk, p.send/200+1)
		if rng.IntN(5) == 0 {
			p.reset = rng.IntN(p.send + 1)
		}
		return p
	}
	for range n {
		c, s := draw(), draw()
		c.last = c.last && !s.last && !k.serverLast
		s.last = s.last || k.serverLast
		if k.stalls && rng.IntN(6) == 0 {
			s.stalled = true
			s.reset, c.reset = -1, -1
			s.last = false
		} else {
			m.playing.Add(1)
		}
		m.client, m.server = append(m.client, c), append(m.server, s)
		m.seen = append(m.seen, make(chan outcome, 1))
	}
	if m.playing.Load() == 0 {
		close(m.gate)
	}
	return m
}

// serve plays the server's end of the stream that authority names.
func (m *model) serve(authority string, e end) outcome {
	host, _, _ := strings.Cut(authority, ":")
	n, err := strconv.Atoi(host)
	if err != nil || n >= len(m.server) {
		m.t.Errorf("authority %q", authority)
		return outcome{}
	}
	o := m.play(n, "server", e, m.server[n], m.client[n])
	m.seen[n] <- o
	return o
}

// play bounds how long an end may take.
func (m *model) play(i int, side string, e end, p, q part) outcome {
	hang := time.AfterFunc(30*time.Second, func() {
		m.t.Errorf("stream %d: the %s's end hangs: it does %+v, the other %+v", i, side, p, q)
		e.Reset()
	})
	defer hang.Stop()
	return play(e, p, q, m.gate)
}

// run opens all streams at once and judges what both ends of each have seen.
func (m *model) run(open func(authority string) (end, func(), error)) {
	var wg sync.WaitGroup
	for i := range m.client {
		wg.Go(func() {
			e, closeEnd, err := open(fmt.Sprintf("%d:1", i))
			if err != nil {
				m.t.Errorf("stream %d: %v", i, err)
				m.done(i)
				return
			}
			c := m.play(i, "client", e, m.client[i], m.server[i])
			closeEnd()
			s := <-m.seen[i]
			if what := judge(m.client[i], m.server[i], c, s); what != "" {
				m.t.Errorf("stream %d, client: %s; client %+v did %+v, server %+v did %+v", i, what, m.client[i], c, m.server[i], s)
			}
			if what := judge(m.server[i], m.client[i], s, c); what != "" {
				m.t.Errorf("stream %d, server: %s; client %+v did %+v, server %+v did %+v", i, what, m.client[i], c, m.server[i], s)
			}
			m.done(i)
		})
	}
	wg.Wait()
}

func (m *model) done(i int) {
	if !m.server[i].stalled && m.playing.Add(-1) == 0 {
		close(m.gate)
	}
}

// eachSeed runs a model test some times, each with settings of its own.
func eachSeed(t *testing.T, rounds int, run func(t *testing.T, rng *rand.Rand)) {
	for range rounds {
		seed := *modelSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, rand.New(rand.NewPCG(seed, 0))) })
		if *modelSeed != 0 {
			return
		}
	}
}

// settings draws windows and frame sizes for both ends of the rig's tunnels.
func drawSettings(rng *rand.Rand, opts ...*options) {
	for _, o := range opts {
		o.streamWindow = []int64{1000, 10_000, 65_535, InitialStreamWindow}[rng.IntN(4)]
		o.tunnelWindow = []int64{80_000, 300_000, TunnelWindow}[rng.IntN(3)]
		o.maxFrame = []int{minFrameSize, 50_000, MaxFrame}[rng.IntN(3)]
	}
}

// streamEnd is a Stream without a splice.
type streamEnd struct{ *Stream }

func (e streamEnd) Reset() { e.Stream.Reset(8) }

func TestModelOfStreams(t *testing.T) {
	eachSeed(t, 2, func(t *testing.T, rng *rand.Rand) {
		m := newModel(t, rng, 80, modelKind{stalls: true, size: 300_000})
		r := newRig(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
			sc.Handler = func(_ context.Context, s *Stream) {
				if s.Accept() == nil {
					m.serve(s.Request().Authority, streamEnd{s})
				}
			}
		})
		drawSettings(rng, &r.pool.opt, &r.server.opt)
		m.run(func(authority string) (end, func(), error) {
			s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: authority})
			return streamEnd{s}, func() { s.Close() }, err
		})
		r.quiet(t)
		r.creditIsBack(t)
	})
}

// creditIsBack waits until both ends of every tunnel may send what they might
// at first, but for the last quarter of a window, which is returned together.
func (r *rig) creditIsBack(t *testing.T) {
	t.Helper()
	r.server.mu.Lock()
	for c := range r.server.conns {
		conns := c
		eventually(t, "the server has its tunnel's credit back", func() bool { return conns.sendCredit() > r.pool.opt.tunnelWindow*3/4-1 })
	}
	r.server.mu.Unlock()
	for _, c := range r.pool.conns(nil) {
		eventually(t, "the client has its tunnel's credit back", func() bool { return c.sendCredit() > r.server.opt.tunnelWindow*3/4-1 })
	}
}

// tcpEnd is an application's socket.
type tcpEnd struct{ *net.TCPConn }

func (e tcpEnd) Reset() {
	e.SetLinger(0)
	e.Close()
}

func TestModelOfSplices(t *testing.T) {
	eachSeed(t, 2, func(t *testing.T, rng *rand.Rand) {
		m := newModel(t, rng, 80, modelKind{stalls: true, size: 400_000})
		var authorities sync.Map // local address of the splice's socket -> authority
		up := upstream(t, func(c *net.TCPConn) {
			var authority any
			eventually(t, "the server has said whose connection this is", func() bool {
				var ok bool
				authority, ok = authorities.Load(c.RemoteAddr().String())
				return ok
			})
			c.SetDeadline(time.Now().Add(30 * time.Second))
			m.serve(authority.(string), tcpEnd{c})
		})
		r := newRig(t, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
			sc.Handler = func(_ context.Context, s *Stream) {
				c, err := net.Dial("tcp", up)
				if err != nil {
					s.Reject(503)
					return
				}
				authorities.Store(c.LocalAddr().String(), s.Request().Authority)
				s.Accept()
				Splice(s, c)
			}
		})
		drawSettings(rng, &r.pool.opt, &r.server.opt)
		m.run(func(authority string) (end, func(), error) {
			l := listen(t)
			defer l.Close()
			near, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return nil, nil, err
			}
			far, err := l.Accept()
			if err != nil {
				return nil, nil, err
			}
			s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: authority})
			if err != nil {
				return nil, nil, err
			}
			spliced := make(chan struct{})
			go func() { Splice(s, far); close(spliced) }()
			near.SetDeadline(time.Now().Add(30 * time.Second))
			return tcpEnd{near.(*net.TCPConn)}, func() { near.Close(); <-spliced }, nil
		})
		r.quiet(t)
		r.creditIsBack(t)
	})
}
