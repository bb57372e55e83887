package kube

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/agent/mesh"
)

// Config says which cluster is followed, and as whom.
type Config struct {
	// REST is the way to the API server, as LoadREST makes it.
	REST *rest.Config
	// NodeName is this node: its pods are the local ones.
	NodeName string
	// TrustDomain of the identities of pods. "" = cluster.local.
	TrustDomain string
	// ClusterDomain is the DNS domain of services. "" = cluster.local.
	ClusterDomain string
	// ClusterID begins the UIDs of workloads. "" = Kubernetes.
	ClusterID string
	// RootNamespace is where policies hold for the whole mesh. "" = adit-system.
	RootNamespace string
	// Network is the network of the cluster's addresses, usually "".
	Network string
	// ExcludeNamespaces are those whose pods are never captured, whatever their
	// labels ask for. It must be the same on all nodes: peers dial by it.
	ExcludeNamespaces []string
	// Self is the pod of this agent, the UID may be ""; the zero PodRef outside a
	// cluster.
	Self PodRef
	// Observer says that this process captures nothing: it writes no statuses,
	// which the agents do, and leaves nothing behind when it is uninstalled.
	Observer bool
	Logger   *slog.Logger // nil = discard
	// Registerer takes the adit_kube_* metrics. nil = no metrics.
	Registerer prometheus.Registerer
}

// Source follows one cluster. Its methods may be called at any time from any
// goroutine, before Run too.
type Source struct {
	cfg    Config
	log    *slog.Logger
	api    *api
	world  *world
	kind   []*kind
	synced chan struct{}
	local  watched[[]LocalPod]

	uninstall uninstall
	annotator *annotator
	events    *eventWriter
	bundles   bundles
	status    statusWriter
	applied   counters

	// writing is held while what is marked is built and applied, so that the
	// store sees changes in order.
	writing sync.Mutex
	store   *mesh.Store // nil before everything is known
}

// New prepares a Source. Nothing is asked of the API server before Run, except
// by Lookup. The error is of a configuration that cannot work.
func New(cfg Config) (*Source, error) {
	if cfg.REST == nil {
		return nil, errors.New("kube: no API server configured")
	}
	cfg.TrustDomain = cmp.Or(cfg.TrustDomain, "cluster.local")
	cfg.ClusterDomain = cmp.Or(cfg.ClusterDomain, "cluster.local")
	cfg.ClusterID = cmp.Or(cfg.ClusterID, "Kubernetes")
	cfg.RootNamespace = cmp.Or(cfg.RootNamespace, "adit-system")
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a, err := newAPI(cfg.REST)
	if err != nil {
		return nil, errors.Join(errors.New("kube: the way to the API server is not usable"), err)
	}
	s := &Source{cfg: cfg, log: cfg.Logger, api: a, synced: make(chan struct{})}
	s.world = newWorld(settings{
		node: cfg.NodeName, trustDomain: cfg.TrustDomain, clusterDomain: cfg.ClusterDomain,
		clusterID: cfg.ClusterID, root: cfg.RootNamespace, network: cfg.Network, self: cfg.Self,
		excluded: slices.Clone(cfg.ExcludeNamespaces),
	}, cfg.Logger)
	s.kind = s.kinds()
	s.uninstall.state = newKindState(nameOf(daemonSets), true)
	s.status.wake = make(chan struct{}, 1)
	s.annotator = newAnnotator(a, s.log)
	s.events = newEventWriter(a, cfg.NodeName, s.log)
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(&collector{s}); err != nil {
			return nil, errors.Join(errors.New("kube: metrics"), err)
		}
	}
	return s, nil
}

// Run follows the cluster and applies its changes to store until ctx ends, and
// returns nil once everything that it started has ended. While the API server
// is away, what is known stays in force. Run may be called once.
func (s *Source) Run(ctx context.Context, store *mesh.Store) error {
	var wg sync.WaitGroup
	for _, k := range s.kind {
		wg.Go(func() { s.follow(ctx, k) })
	}
	wg.Go(func() { s.watchConnection(ctx) })
	wg.Go(func() { s.confirm(ctx) })
	wg.Go(func() { s.bundles.run(ctx, s) })
	wg.Go(func() { s.annotator.run(ctx) })
	wg.Go(func() { s.events.run(ctx) })
	if !s.cfg.Observer {
		wg.Go(func() { s.followUninstall(ctx) })
		wg.Go(func() { s.runStatus(ctx) })
	}
	s.write(ctx, store)
	wg.Wait()
	return nil
}

// settle is how long a burst of events is collected before it is applied: a
// rollout changes pods and slices within milliseconds of each other.
const settle = 3 * time.Millisecond

// write applies changes to the store until ctx ends. It begins once every kind
// has been seen whole, so that no workload comes before its policies.
func (s *Source) write(ctx context.Context, store *mesh.Store) {
	for _, k := range s.kind {
		select {
		case <-k.state.settled:
		case <-ctx.Done():
			return
		}
	}
	s.world.change(func() { s.world.marks.policies, s.world.marks.local = true, true })
	s.writing.Lock()
	s.store = store
	s.writing.Unlock()
	s.flush()
	close(s.synced)
	for {
		select {
		case <-s.world.wake:
		case <-ctx.Done():
			return
		}
		if !sleep(ctx, settle) {
			return
		}
		s.flush()
	}
}

// flush builds and applies what is marked. It waits for no network.
func (s *Source) flush() {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.store == nil {
		return
	}
	u, done := s.world.batch(s.store)
	s.apply(s.store, u)
	if done.local {
		s.local.set(s.world.localList())
		s.takeBack()
	}
	if done.policies {
		signal(s.status.wake)
	}
}

// Synced is closed once everything that the API server had is in the store:
// nothing is before, so that no workload is without its policies.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// Kinds says which kinds of objects are followed, and how well.
func (s *Source) Kinds() []KindStatus {
	out := make([]KindStatus, len(s.kind))
	for i, k := range s.kind {
		out[i] = k.state.get()
	}
	return out
}
