package hbone

import (
	"runtime"
	"time"
)

// A tunnel is one TLS connection and one TCP congestion window, hence at most
// one core at a time in each direction. A pool opens more of them to a peer
// while bytes ask for it, and new streams then keep away from the loaded ones.

const (
	// loadedRate is how many bytes per second make a tunnel loaded: a fraction
	// of what one core encrypts, and far more than request and answer traffic.
	loadedRate = 64 << 20
	// loadedBacklog is how many bytes waiting for the wire do.
	loadedBacklog = 64 << 10
	// loadSample is how long a rate is measured, at least.
	loadSample = 10 * time.Millisecond
	// burstTime is how long a new stream counts as load: it has not shown yet
	// what it carries. burstStreams of them make a tunnel loaded.
	burstTime    = 100 * time.Millisecond
	burstStreams = 4
	// burstRate is what a new stream is taken to move, in bytes per second.
	burstRate = 32 << 20
	// extraIdle is how long a tunnel beside the first is kept without streams.
	extraIdle = 2 * time.Minute
)

// tunnelsPerPeer is how many tunnels load may open to one peer. Streams beyond
// a tunnel's limit may open more.
func tunnelsPerPeer() int { return min(4, max(2, runtime.GOMAXPROCS(0))) }

// load measures a client tunnel when a stream looks for one. Guarded by conn.mu.
type load struct {
	at    time.Time // of the last sample
	moved int64     // then
	rate  int64     // bytes per second

	burst   int // streams opened since burstAt
	burstAt time.Time
}

// opened counts a new stream.
func (l *load) opened(now time.Time) {
	if now.Sub(l.burstAt) >= burstTime {
		l.burst, l.burstAt = 0, now
	}
	l.burst++
}

// weigh says whether the tunnel takes another stream, what it carries in bytes
// per second, and whether that is much.
func (c *conn) weigh(now time.Time) (room bool, weight int64, loaded bool) {
	backlog := int64(c.w.backlog())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.draining || uint32(len(c.streams)) >= c.maxStreams {
		return false, 0, false
	}
	l := &c.load
	if d := now.Sub(l.at); d >= loadSample {
		moved := c.moved.Load()
		l.rate = int64(float64(moved-l.moved) / d.Seconds())
		l.at, l.moved = now, moved
	}
	burst := 0
	if now.Sub(l.burstAt) < burstTime {
		burst = l.burst
	}
	return true, l.rate + backlog + int64(burst)*burstRate,
		l.rate >= loadedRate || backlog >= loadedBacklog || burst >= burstStreams
}

// pick is the tunnel that carries least, the oldest of equals so that the
// others can go; nil when none takes a stream. more asks for another tunnel.
func (g *group) pick(now time.Time) (best *conn, more bool) {
	var least int64
	more = len(g.tunnels) < tunnelsPerPeer()
	for _, c := range g.tunnels {
		room, weight, loaded := c.weigh(now)
		if !room {
			continue
		}
		if !loaded {
			more = false
		}
		if best == nil || weight < least {
			best, least = c, weight
		}
	}
	return best, more
}
