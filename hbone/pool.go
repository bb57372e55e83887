package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// PoolConfig says how a [Pool] dials. The zero value works.
type PoolConfig struct {
	Limits Limits
	// DialTimeout bounds Dial as a whole: TCP, TLS, SETTINGS and the answer to
	// CONNECT. Default: 10 s.
	DialTimeout time.Duration
	// Backoff is how long a destination is left alone after a dial that failed:
	// from the first to the last, doubling. Dials in between fail at once with
	// the same error. Default: 100 ms and 5 s.
	BackoffFirst, BackoffLast time.Duration
	Logger                    *slog.Logger // nil: silent
	// OnDial, if set, is told of every attempt to open a tunnel. err is nil or
	// a *DialError.
	OnDial func(key any, took time.Duration, err error)
}

// Target is where a tunnel goes, and as whom.
type Target struct {
	// Key tells tunnels apart: streams share one only if their keys are equal.
	// It must be comparable and hold everything that makes a tunnel somebody's:
	// source identity, source pod, destination and the identities expected there.
	Key any
	// Dial opens the TCP connection. The pool closes it.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS is the client's side of mutual TLS. It decides which servers will do;
	// the pool adds ALPN h2.
	TLS *tls.Config
}

// Pool opens streams on shared tunnels.
type Pool struct {
	cfg PoolConfig
	opt options
	log *slog.Logger

	wg sync.WaitGroup // a goroutine for each dial, then for its tunnel

	mu     sync.Mutex
	closed bool
	groups map[any]*group
	live   map[*conn]struct{} // every tunnel whose goroutines have not ended
}

// group is the tunnels of one key. It is in Pool.groups while it has a tunnel,
// a dial, or a failure to remember. Its fields are guarded by Pool.mu.
type group struct {
	key     any
	tunnels []*conn
	dial    *dialing
	failed  error     // of the last dial
	failure int       // dials failed in a row
	unused  int       // tunnels in a row that the peer ended before it answered a stream
	until   time.Time // no dial before
	keep    time.Time // failures count until then
	forget  *time.Timer
}

// NewPool makes a pool.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.BackoffFirst == 0 {
		cfg.BackoffFirst = 100 * time.Millisecond
	}
	if cfg.BackoffLast == 0 {
		cfg.BackoffLast = 5 * time.Second
	}
	p := &Pool{cfg: cfg, opt: cfg.Limits.options(true), log: cfg.Logger, groups: make(map[any]*group), live: make(map[*conn]struct{})}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	return p
}

// openTries is how many tunnels Dial offers a CONNECT that no peer has begun to
// serve: refused for GOAWAY or REFUSED_STREAM.
const openTries = 3

// Dial opens a stream to t: the peer has answered 200 when it returns. Errors
// are *DialError (this end could not), which wraps *StatusError where the peer
// refused. The caller closes the stream.
func (p *Pool) Dial(ctx context.Context, t Target, r Request) (*Stream, error) {
	deadline := time.Now().Add(p.cfg.DialTimeout)
	for try := 1; ; try++ {
		s, err := p.open(ctx, deadline, t, &r)
		if err != nil {
			return nil, err
		}
		if err = s.awaitAnswer(ctx, deadline); err == nil {
			return s, nil
		}
		s.reset(http2.ErrCodeCancel, errStreamClosed)
		if try < openTries && notBegun(err) && ctx.Err() == nil {
			continue
		}
		return nil, &DialError{PhaseConnect, err}
	}
}

type dialTimeout struct{}

func (dialTimeout) Error() string   { return "timed out" }
func (dialTimeout) Timeout() bool   { return true }
func (dialTimeout) Temporary() bool { return true }
func (dialTimeout) Unwrap() error   { return context.DeadlineExceeded }

var errDialTimeout = dialTimeout{}

// notBegun says whether the peer promises to have done nothing (RFC 9113
// section 8.7).
func notBegun(err error) bool {
	var re *ResetError
	if errors.As(err, &re) {
		return re.Remote && re.Code == http2.ErrCodeRefusedStream
	}
	var ga *GoAwayError
	return errors.As(err, &ga) && ga.Code == http2.ErrCodeNo
}

// open sends the CONNECT on a tunnel that has room, and opens one if none has.
func (p *Pool) open(ctx context.Context, deadline time.Time, t Target, r *Request) (*Stream, error) {
	for wasted := 0; ; {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, ErrPoolClosed
		}
		g := p.groups[t.Key]
		if g == nil {
			g = &group{key: t.Key}
			p.groups[t.Key] = g
		}
		now := time.Now()
		c, more := g.pick(now)
		if more && c != nil && g.dial == nil && now.After(g.until) {
			p.startDialLocked(g, t) // for those who come later
		}
		if c != nil {
			p.mu.Unlock()
			s, err := c.open(r)
			if err == errTunnelFull {
				continue // somebody was faster; pick passes it over now
			}
			return s, err
		}
		if g.failed != nil && now.Before(g.until) {
			err := g.failed
			p.mu.Unlock()
			return nil, err
		}
		d := g.dial
		if d == nil {
			d = p.startDialLocked(g, t)
		}
		d.waiters++
		p.mu.Unlock()
		if err := p.await(ctx, deadline, g, d); err != nil {
			return nil, err
		}
		if wasted += d.wasted(); wasted == openTries {
			return nil, errUnused
		}
	}
}

// await waits for a dial that the caller has been counted as a waiter of.
func (p *Pool) await(ctx context.Context, deadline time.Time, g *group, d *dialing) error {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, errDialTimeout)
	defer cancel()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		cause := context.Cause(ctx)
		return &DialError{p.leave(g, d, cause), cause}
	}
}

// forgetLocked drops a group that has nothing left to say.
func (p *Pool) forgetLocked(g *group) {
	if len(g.tunnels) > 0 || g.dial != nil || time.Now().Before(g.keep) && !p.closed {
		return
	}
	if g.forget != nil {
		g.forget.Stop()
	}
	if p.groups[g.key] == g {
		delete(p.groups, g.key)
	}
}

// tunnelChanged takes a tunnel that opens no more streams out of its group.
func (p *Pool) tunnelChanged(g *group, c *conn) {
	c.mu.Lock()
	useless := c.err != nil || c.draining && len(c.streams) == 0
	unused := !c.served && !c.goAwaySent // ended by the peer
	c.mu.Unlock()
	if !useless {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, t := range g.tunnels {
		if t == c {
			g.tunnels = append(g.tunnels[:i], g.tunnels[i+1:]...)
			if !unused {
				g.unused, g.failure = 0, 0
			} else if g.unused++; g.unused < openTries {
				p.rememberLocked(g, p.cfg.BackoffLast)
			} else if len(g.tunnels) == 0 {
				p.blameLocked(g, errUnused)
			}
			break
		}
	}
	p.forgetLocked(g)
}

// Evict drains the tunnels whose key matches, and ends the dials of such: their
// peers are gone, or are no longer whom the key says. Open streams finish.
func (p *Pool) Evict(match func(key any) bool) {
	p.mu.Lock()
	for key, g := range p.groups {
		if g.dial != nil && match(key) {
			g.dial.cancel(errEvicted)
			g.dial = nil // whoever comes next gets one of his own
			p.forgetLocked(g)
		}
	}
	p.mu.Unlock()
	for _, c := range p.conns(match) {
		c.drain()
	}
}

func (p *Pool) conns(match func(key any) bool) []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*conn
	for key, g := range p.groups {
		if match == nil || match(key) {
			out = append(out, g.tunnels...)
		}
	}
	return out
}

// Shutdown opens no more streams, lets those there are finish until ctx ends,
// and then resets them. It returns ctx's error if it had to, and waits for
// every goroutine of the pool in both cases.
func (p *Pool) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for _, g := range p.groups {
		if g.dial != nil {
			g.dial.cancel(ErrPoolClosed)
		}
		p.forgetLocked(g)
	}
	p.mu.Unlock()
	for _, c := range p.conns(nil) {
		c.drain()
	}
	finished := make(chan struct{})
	go func() { p.wg.Wait(); close(finished) }()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
	}
	var wg sync.WaitGroup
	p.mu.Lock()
	for c := range p.live { // those that are closing have left their groups
		wg.Go(c.close)
	}
	p.mu.Unlock()
	wg.Wait()
	<-finished
	return ctx.Err()
}
