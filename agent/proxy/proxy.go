package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// SameNode is how a connection between two pods of this node is carried.
type SameNode uint8

const (
	// SameNodeHBONE carries it as to any other node, through both pods'
	// network: whatever filters packets there keeps its say.
	SameNodeHBONE SameNode = iota
	// SameNodeDirect joins the two sockets inside the agent. The destination's
	// policies are applied as ever, and nothing appears on the pods' links.
	// Safe when no NetworkPolicy engine is to see the traffic.
	SameNodeDirect
)

// Config configures a [Proxy]. Store, Identity and Telemetry are required.
type Config struct {
	Store     *mesh.Store
	Identity  *identity.Manager
	Telemetry *telemetry.Telemetry
	Logger    *slog.Logger // nil discards
	SameNode  SameNode

	// Pool configures the tunnels to peers.
	Pool hbone.PoolConfig

	// DialTimeout bounds everything between the decision and the first byte,
	// all endpoints tried included. Zero means 10 s.
	DialTimeout time.Duration
	// WorkloadWait bounds how long a connection waits for its own workload to
	// be known. Zero means 5 s.
	WorkloadWait time.Duration
	// HalfCloseIdle bounds how long a connection that has ended in one
	// direction may be silent in the other. Zero means 1 h.
	HalfCloseIdle time.Duration
	// DrainTimeout bounds how long live connections may go on after a pod's
	// context has ended. Zero means 30 s.
	DrainTimeout time.Duration
}

// Proxy serves the local pods and the configured roles.
type Proxy struct {
	cfg   Config
	store *mesh.Store
	ids   *identity.Manager
	tel   *telemetry.Telemetry
	log   *slog.Logger
	pool  *hbone.Pool
	conns Conns
	pipes pipePool

	maxOpening int

	mu       sync.Mutex // guards the fields below
	pods     map[string]*servedPod
	instance uint64 // of the servedPod started last
}

// New returns a proxy that serves nothing yet.
func New(cfg Config) *Proxy {
	cfg.DialTimeout = orDefault(cfg.DialTimeout, 10*time.Second)
	cfg.WorkloadWait = orDefault(cfg.WorkloadWait, 5*time.Second)
	cfg.HalfCloseIdle = orDefault(cfg.HalfCloseIdle, time.Hour)
	cfg.DrainTimeout = orDefault(cfg.DrainTimeout, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Pool.DialTimeout == 0 {
		cfg.Pool.DialTimeout = cfg.DialTimeout
	}
	if cfg.Pool.Logger == nil {
		cfg.Pool.Logger = cfg.Logger
	}
	if cfg.Pool.OnDial == nil {
		cfg.Pool.OnDial = func(_ any, took time.Duration, err error) {
			cfg.Telemetry.Handshake("client", handshakeResult(err), took)
		}
	}
	return &Proxy{
		cfg:   cfg,
		store: cfg.Store,
		ids:   cfg.Identity,
		tel:   cfg.Telemetry,
		log:   cfg.Logger,
		pool:  hbone.NewPool(cfg.Pool),
		pipes: pipePool{max: 128},
		pods:  make(map[string]*servedPod),

		maxOpening: maxOpening,
	}
}

func orDefault(v, d time.Duration) time.Duration {
	if v <= 0 {
		return d
	}
	return v
}

// sweepInterval is how often the byte counters of live connections move.
const sweepInterval = 10 * time.Second

// Run follows the store: whenever it has changed, connections that policy no
// longer allows are cut, and tunnels to workloads that are gone are drained. It
// also reports the bytes of live connections, and cuts half-closed ones that
// are silent. It returns when ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	changed, cancel := p.store.Subscribe()
	defer cancel()
	sweep := time.NewTicker(min(p.cfg.HalfCloseIdle/4+1, sweepInterval))
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-sweep.C:
			p.conns.sweep(now, p.cfg.HalfCloseIdle)
			continue
		case <-changed:
		}
		if n := p.conns.recheck(p.store); n > 0 {
			p.log.Info("closed connections that policy no longer allows", "connections", n)
		}
		p.pool.Evict(func(key any) bool {
			k, ok := key.(tunnelKey)
			return ok && k.peerUID != "" && p.store.WorkloadByUID(k.peerUID) == nil
		})
	}
}

// Close ends the tunnels to peers: those without streams at once, the others
// when their streams or ctx end. Call it when no pod is served any more.
func (p *Proxy) Close(ctx context.Context) error {
	err := p.pool.Shutdown(ctx)
	p.pipes.close()
	return err
}

// Connections lists the live connections, oldest first.
func (p *Proxy) Connections() []ConnInfo { return p.conns.List() }

// LiveAll counts the live connections of all pods and roles.
func (p *Proxy) LiveAll() int { return p.conns.count() }

// Live counts the connections of the local pod with this uid.
func (p *Proxy) Live(uid string) int {
	p.mu.Lock()
	pod := p.pods[uid]
	p.mu.Unlock()
	if pod == nil {
		return 0
	}
	return pod.inflight.count()
}

func (p *Proxy) local(uid string) *servedPod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods[uid]
}
