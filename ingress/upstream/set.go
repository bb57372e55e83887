package upstream

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// SetConfig says how a Set connects. The zero value works.
type SetConfig struct {
	// Dialer connects to endpoints. nil = in plain TCP.
	Dialer Dialer
	// Resolver looks up Endpoint.Host. nil = net.DefaultResolver.
	Resolver Resolver
	Logger   *slog.Logger // nil = silent
	// Zone and Node are where the Set is, for Config.Locality. "" = unknown.
	Zone, Node string
	// IDKey makes the ids of endpoints unguessable. Sets that shall agree on them
	// have the same one.
	IDKey []byte

	// MaxConns is how many connections one endpoint may have for requests.
	// Default: 1024. The connections of streams are not counted.
	MaxConns int
	// MaxPending is how many requests may wait for a connection to one endpoint
	// when all are busy. Default: 1024.
	MaxPending int
	// MaxIdlePerEndpoint and MaxIdle are how many idle HTTP/1.1 connections are
	// kept. Default: 1024 and 8192.
	MaxIdlePerEndpoint, MaxIdle int
	// IdleTimeout is how long an idle connection is kept. Default: 1 minute.
	IdleTimeout time.Duration
	// MaxAge is how old a connection may be when it takes a request, give or take
	// a tenth. Default: 1 hour.
	MaxAge time.Duration
	// MaxHeaderBytes is how long the header of an answer may be. Default: 64 KiB.
	MaxHeaderBytes int
}

func (c SetConfig) withDefaults() SetConfig {
	def := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&c.MaxConns, 1024)
	def(&c.MaxPending, 1024)
	def(&c.MaxIdlePerEndpoint, 1024)
	def(&c.MaxIdle, 8192)
	def(&c.MaxHeaderBytes, 64<<10)
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = time.Minute
	}
	if c.MaxAge <= 0 {
		c.MaxAge = time.Hour
	}
	if c.Dialer == nil {
		c.Dialer = plainDialer{}
	}
	if c.Resolver == nil {
		c.Resolver = defaultResolver{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Set is the clusters of a configuration, and the connections to their endpoints.
//
// Locks nest in this order: Set.mu, peer.mu, Set.spawning. None is held across
// I/O.
type Set struct {
	cfg  SetConfig
	log  *slog.Logger
	h2   *h2Transport
	idle atomic.Int64 // idle HTTP/1.1 connections

	clusters atomic.Pointer[map[string]*Cluster] // replaced whole when a key comes or goes

	stop     context.Context // ends the reaper, and dials that belong to no one request
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	crowded  chan struct{} // tells the reaper that there are too many idle ones
	totals   totals
	closedCh chan struct{} // closed with the last connection after Close

	spawning sync.Mutex
	stopped  bool // no more goroutines; guarded by spawning

	mu       sync.Mutex
	closed   bool
	finished bool // closedCh is closed
	peers    map[peerKey]*peer
	leaving  map[*peer]struct{} // of no cluster, but with connections
	profiles tlsProfiles
}

// NewSet makes an empty Set. Whoever makes it calls Close.
func NewSet(cfg SetConfig) *Set {
	s := &Set{
		cfg: cfg.withDefaults(), crowded: make(chan struct{}, 1), closedCh: make(chan struct{}),
		peers: make(map[peerKey]*peer), leaving: make(map[*peer]struct{}),
	}
	s.log = s.cfg.Logger
	s.h2 = newH2Transport(s.cfg)
	s.clusters.Store(&map[string]*Cluster{})
	s.stop, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.reap)
	return s
}

// Cluster returns the cluster of that key, or nil. It stays usable for whoever
// holds it when it is no longer part of the configuration.
func (s *Set) Cluster(key string) *Cluster { return (*s.clusters.Load())[key] }

// Apply makes clusters the configuration. A pointer that is the same as before
// costs a comparison. Requests under way are not touched: connections to
// endpoints that are of no cluster any more are closed when they fall idle.
func (s *Set) Apply(clusters map[string]*Config) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	old := *s.clusters.Load()
	// What clusters had is released when all have what they need: an endpoint may
	// move from one to another.
	var had []*members
	var added map[string]*Cluster
	kept := 0
	for key, cfg := range clusters {
		if cfg == nil {
			continue
		}
		c := old[key]
		if c == nil {
			c = &Cluster{set: s, key: key}
			if added == nil {
				added = make(map[string]*Cluster)
			}
			added[key] = c
		} else {
			kept++
			if c.members.Load().cfg == cfg {
				continue
			}
		}
		if m := c.replaceLocked(cfg); m != nil {
			had = append(had, m)
		}
	}
	if added != nil || kept < len(old) {
		next := make(map[string]*Cluster, kept+len(added))
		maps.Copy(next, added)
		for key, c := range old {
			if clusters[key] != nil {
				next[key] = c
			} else {
				had = append(had, c.members.Load())
			}
		}
		s.clusters.Store(&next)
	}
	left := s.dropLocked(had)
	s.mu.Unlock()
	for _, p := range left {
		p.retire()
	}
}

// Evict stops the use of connections to the addresses that gone names: their owner
// changed, or joined or left the mesh. Idle ones are closed, busy ones take no
// other request, and one whose dial began before is closed instead of used. It is
// called after that is known to the Dialer; gone must not call the Set.
func (s *Set) Evict(gone func(netip.Addr) bool) {
	for _, p := range s.all() {
		p.evict(gone)
	}
}

// all are the peers that have, or may have, connections.
func (s *Set) all() []*peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	ps := make([]*peer, 0, len(s.peers)+len(s.leaving))
	ps = slices.AppendSeq(ps, maps.Values(s.peers))
	return slices.AppendSeq(ps, maps.Keys(s.leaving))
}

// Close takes no more requests, and waits for those under way until ctx ends: then
// their connections are closed. The connections of streams are their callers'.
func (s *Set) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	var had []*members
	for _, c := range *s.clusters.Load() {
		had = append(had, c.members.Load())
	}
	s.clusters.Store(&map[string]*Cluster{})
	left := s.dropLocked(had)
	s.finishLocked()
	s.mu.Unlock()
	for _, p := range left {
		p.retire()
	}
	var err error
	select {
	case <-s.closedCh:
	case <-ctx.Done():
		err = ctx.Err()
		for _, p := range s.all() {
			p.closeAll()
		}
	}
	s.spawning.Lock()
	s.stopped = true
	s.spawning.Unlock()
	s.cancel()
	s.wg.Wait()
	return err
}

// spawn runs f in a goroutine that Close waits for. It is false after Close.
func (s *Set) spawn(f func()) bool {
	s.spawning.Lock()
	defer s.spawning.Unlock()
	if s.stopped {
		return false
	}
	s.wg.Go(f)
	return true
}

// peerLocked returns the peer of an endpoint, counting one more that refers to it.
func (s *Set) peerLocked(key peerKey) *peer {
	p := s.peers[key]
	if p == nil {
		p = newPeer(s, key)
		s.peers[key] = p
	}
	p.refs++
	return p
}

// dropLocked releases what these clusters referred to. The caller calls retire on
// the peers that it returns, which nobody refers to any more, when it no longer
// holds s.mu.
func (s *Set) dropLocked(had []*members) (left []*peer) {
	for _, m := range had {
		for _, h := range m.hosts {
			p := h.peer
			if p.refs--; p.refs == 0 {
				delete(s.peers, p.key)
				s.leaving[p] = struct{}{}
				left = append(left, p)
			}
		}
		if m.profile != nil {
			s.profiles.release(m.profile)
		}
	}
	return left
}

// forget drops a peer that is retired and has no connection any more.
func (s *Set) forget(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.mu.Lock()
	unused := p.unusedLocked()
	p.mu.Unlock()
	if unused {
		delete(s.leaving, p)
		s.finishLocked()
	}
}

// recall counts, in n, a new connection of a peer that is retired: a request that
// chose it before that goes on. It is false if the Set is closed.
func (s *Set) recall(p *peer, n *int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.leaving[p] = struct{}{}
	p.mu.Lock()
	*n++
	p.mu.Unlock()
	return true
}

func (s *Set) finishLocked() {
	if s.closed && !s.finished && len(s.peers)+len(s.leaving) == 0 {
		s.finished = true
		close(s.closedCh)
	}
}
