package ingress

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/ingress/h1"
	"github.com/adit-mesh/adit/ingress/h2"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/upstream"
)

// Handler carries out rules. It is [proxy.Proxy].
type Handler interface {
	// Serve answers r as rule says. It returns when the exchange is over.
	Serve(w http.ResponseWriter, r *http.Request, rule *proxy.Rule, x *proxy.Exchange)
	// Refuse answers r with status, and records why.
	Refuse(w http.ResponseWriter, r *http.Request, x *proxy.Exchange, status int, flags, detail string)
}

// ServerConfig is what a Server stands on.
type ServerConfig struct {
	Backends Backends
	Proxy    Handler
	// Logger takes what goes wrong with sockets and connections. nil = nobody.
	Logger *slog.Logger
	// Events are told of connections. The zero value tells nobody.
	Events Events
	Limits Limits
	// DrainTimeout is how long Run waits, once its context has ended, for requests
	// and streams that are under way. Zero means 30 s.
	DrainTimeout time.Duration
	// Secret is what keys of stateless resets, QUIC tokens and session tickets are
	// derived from. Gateways that stand behind one address share it, so that one
	// recognises the sessions of another, and of itself before a restart. At least
	// 32 bytes; nil = a random one.
	Secret []byte
}

// lingering is how long a cluster that no Config names any more can still be
// reached, by requests that found their rule before.
const lingering = 30 * time.Second

// retryEvery is how often a socket that could not be had is tried for again.
const retryEvery = time.Second

// Server serves a Config. Apply may be called at any time from one goroutine
// after another; Run is called once.
type Server struct {
	cfg     ServerConfig
	limits  Limits
	log     *slog.Logger
	keys    keys
	admit   admission
	h1      *h1.Server
	h2      *h2.Server
	tls     *tls.Config
	changed chan struct{}

	// hard ends when connections have to end at once.
	hard    context.Context
	endHard context.CancelFunc
	wg      sync.WaitGroup // everything that Run waits for

	config atomic.Pointer[Config]

	// applying is held while a Config is applied, across the opening of sockets.
	// It guards the fields below; connections never take it.
	applying sync.Mutex
	ports    map[Bind]*livePort // those that drain, too
	gone     map[string]goneCluster
	failed   map[Bind]error
	stopped  bool
}

type goneCluster struct {
	config *upstream.Config
	until  time.Time
}

// New returns a Server that serves nothing yet.
func New(cfg ServerConfig) (*Server, error) {
	if cfg.Proxy == nil || cfg.Backends == nil {
		return nil, errors.New("ingress: a server needs Proxy and Backends")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 30 * time.Second
	}
	secret := cfg.Secret
	switch {
	case secret == nil:
		secret = make([]byte, 32)
		rand.Read(secret)
	case len(secret) < 32:
		return nil, fmt.Errorf("ingress: the secret has %d bytes; give it at least 32 random ones", len(secret))
	}
	s := &Server{
		cfg:     cfg,
		limits:  cfg.Limits.withDefaults(),
		log:     cfg.Logger,
		keys:    keys{secret},
		changed: make(chan struct{}, 1),
		ports:   make(map[Bind]*livePort),
		gone:    make(map[string]goneCluster),
		failed:  make(map[Bind]error),
	}
	s.admit.limits = s.limits
	s.h1, s.h2, s.tls = newH1(s), newH2(s), decidingConfig()
	s.hard, s.endHard = context.WithCancel(context.Background())
	s.config.Store(&Config{})
	return s, nil
}

// Apply makes cfg what is served. New requests, on new connections and on old
// ones, see all of a Port or none of it; a connection or stream goes on whatever
// changes, and so does a socket that has a place in cfg. It returns when every socket is open or has failed. A socket that
// failed takes down its own port alone, and is tried for again every second and
// by the next Apply.
//
// cfg is not to be changed afterwards, and no two of its Ports have one Bind.
func (s *Server) Apply(cfg *Config) Applied {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.stopped {
		return s.appliedLocked()
	}
	// Backends are there before the first rule that refers to them, and after the
	// last.
	now := time.Now()
	old := s.config.Load()
	for key, c := range old.Clusters {
		if cfg.Clusters[key] == nil {
			s.gone[key] = goneCluster{c, now.Add(lingering)}
		}
	}
	s.applyClustersLocked(cfg, now)
	s.config.Store(cfg)

	wanted := make(map[Bind]bool, len(cfg.Ports))
	for _, p := range cfg.Ports {
		wanted[p.Bind] = true
	}
	for bind, lp := range s.ports {
		if !wanted[bind] {
			lp.retire() // before others open: a new socket may overlap an old one
			delete(s.failed, bind)
		}
	}
	for _, p := range udpFirst(cfg.Ports) {
		if !wanted[p.Bind] {
			s.log.Error("two Gateways want one socket; the first has it", "bind", p.Bind, "gateway", p.Gateway)
			continue
		}
		wanted[p.Bind] = false
		s.servePortLocked(p)
	}
	s.sweepLocked()
	return s.appliedLocked()
}

// udpFirst orders ports so that a UDP listener has its socket before the mirror of
// an HTTPS listener of the same number asks for it: clients do without HTTP/3.
func udpFirst(ports []*Port) []*Port {
	if !slices.ContainsFunc(ports, func(p *Port) bool { return p.Bind.UDP }) {
		return ports
	}
	ports = slices.Clone(ports)
	slices.SortStableFunc(ports, func(a, b *Port) int {
		switch {
		case a.Bind.UDP == b.Bind.UDP:
			return 0
		case a.Bind.UDP:
			return -1
		}
		return 1
	})
	return ports
}

func (s *Server) applyClustersLocked(cfg *Config, now time.Time) {
	all := cfg.Clusters
	cloned := false
	for key, g := range s.gone {
		if cfg.Clusters[key] != nil || now.After(g.until) {
			delete(s.gone, key)
			continue
		}
		if !cloned {
			all, cloned = maps.Clone(all), true
			if all == nil {
				all = make(map[string]*upstream.Config)
			}
		}
		all[key] = g.config
	}
	s.cfg.Backends.Apply(all)
}

// servePortLocked makes p what its socket serves, and opens it if need be.
func (s *Server) servePortLocked(p *Port) {
	lp := s.ports[p.Bind]
	if lp == nil {
		lp = newLivePort(s, p.Bind)
		s.ports[p.Bind] = lp
	}
	err := lp.serve(p)
	was, had := s.failed[p.Bind]
	switch {
	case err == nil:
		delete(s.failed, p.Bind)
		if had {
			s.log.Info("socket is open after all", "bind", p.Bind, "gateway", p.Gateway)
		}
	default:
		s.failed[p.Bind] = err
		if !had || was.Error() != err.Error() {
			s.log.Error("no socket; trying again every second", "bind", p.Bind, "gateway", p.Gateway, "error", err)
		}
	}
}

// sweepLocked forgets ports that have drained.
func (s *Server) sweepLocked() {
	for bind, lp := range s.ports {
		if lp.over() {
			delete(s.ports, bind)
		}
	}
}

func (s *Server) appliedLocked() Applied {
	a := Applied{Failed: maps.Clone(s.failed), NoQUIC: make(map[Bind]error)}
	for bind, lp := range s.ports {
		if err := lp.quicError(); err != nil && s.failed[bind] == nil {
			a.NoQUIC[bind] = err
		}
	}
	return a
}

// Applied is what is served at the moment. It differs from what Apply returned
// when a socket could be had later; see Changed.
func (s *Server) Applied() Applied {
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.appliedLocked()
}

// Changed holds a value when Applied changed outside Apply.
func (s *Server) Changed() <-chan struct{} { return s.changed }

// Run serves until ctx ends; then it drains: no connection is accepted, HTTP/2 and
// HTTP/3 clients get GOAWAY, HTTP/1.1 ones Connection: close, and what is under
// way, streams and WebSockets included, has DrainTimeout to end. Then it closes
// what is left. It returns nil when every goroutine has ended. The sockets open
// with Apply, which may come before or after.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			s.maintain(now)
		}
	}
	s.drain()
	return nil
}

// maintain tries for sockets that failed, and forgets what has lingered.
func (s *Server) maintain(now time.Time) {
	s.applying.Lock()
	defer s.applying.Unlock()
	cfg := s.config.Load()
	before := len(s.failed)
	changed := false
	looked := make(map[Bind]bool, len(cfg.Ports))
	for _, p := range cfg.Ports {
		lp := s.ports[p.Bind]
		if looked[p.Bind] {
			continue
		}
		looked[p.Bind] = true
		if s.failed[p.Bind] == nil && (lp == nil || lp.quicError() == nil) {
			continue
		}
		noQUIC := lp != nil && lp.quicError() != nil
		s.servePortLocked(p)
		changed = changed || noQUIC && s.ports[p.Bind].quicError() == nil
	}
	if changed || len(s.failed) != before {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	for _, g := range s.gone {
		if now.After(g.until) {
			s.applyClustersLocked(cfg, now)
			break
		}
	}
	s.sweepLocked()
}

// drain is the end of Run.
func (s *Server) drain() {
	s.applying.Lock()
	s.stopped = true
	ports := maps.Clone(s.ports)
	for _, lp := range ports {
		lp.retire()
	}
	s.applying.Unlock()

	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	timeout := time.NewTimer(s.cfg.DrainTimeout)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
		s.log.Warn("connections did not end within the drain timeout; closing them", "timeout", s.cfg.DrainTimeout)
	}
	s.endHard()
	for _, lp := range ports {
		lp.closeAll()
	}
	<-done
}
