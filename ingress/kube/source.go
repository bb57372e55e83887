package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway"
)

// Config says which cluster is followed, and as whom.
type Config struct {
	// REST is the way to the API server.
	REST *rest.Config
	// Namespace and PodName are those of this pod. The Services of Gateways are
	// in this namespace, and so is the Lease.
	Namespace, PodName string
	// Selector are labels of the pods that serve. nil: app.kubernetes.io/name =
	// adit-ingress.
	Selector map[string]string
	// ClusterDomain is the DNS domain of Services. "" = cluster.local.
	ClusterDomain string
	// Gateway are the options of the translator; Bind and CRDVersions are set
	// here.
	Gateway gateway.Options
	// SeparateUDPService gives UDP ports a Service of their own, where the cloud's
	// balancer does not mix protocols. HTTP/3 then has another address than
	// HTTPS, so it is of use only with a name that has both.
	SeparateUDPService bool
	// TrafficPolicy is the externalTrafficPolicy of Services. "" = Local: with
	// Cluster, nodes hide the client's address behind their own.
	TrafficPolicy corev1.ServiceExternalTrafficPolicy
	// LoadBalancerClass is that of Services. "" = the cluster's default.
	LoadBalancerClass string
	Logger            *slog.Logger // nil = discard
}

const (
	// settle is how long a burst of events is collected, and settleMost how long
	// at most.
	settle     = 5 * time.Millisecond
	settleMost = 100 * time.Millisecond
	// retryApply is how soon a configuration is applied again of which not every
	// socket could be had.
	retryApply = 10 * time.Second
	// waitNamed bounds the wait for Secrets and ConfigMaps at the start.
	waitNamed = 5 * time.Second
)

// Source follows one cluster. Its methods may be called at any time from any
// goroutine, before Run too.
type Source struct {
	cfg      Config
	log      *slog.Logger
	api      *api
	inbox    *inbox
	kinds    []*kind
	services settings
	synced   chan struct{}
	leading  atomic.Bool
	work     workbench
	ask      chan chan []gateway.Status // answered by the owner
	ended    chan struct{}              // closed when the owner has ended

	// The following is the owner's alone.
	translator *gateway.Translator
	named      *named
	index      *serviceIndex
	gateways   map[types.NamespacedName]*gatewayv1.Gateway
	refs       map[key][]key // what each object refers to
	secrets    map[types.NamespacedName]twice
	config     *ingress.Config
	applied    ingress.Applied
	retryAt    time.Time         // when it is applied again if it failed in part
	bundles    map[string]string // of each definition of Gateway API, which it is of

	mu      sync.Mutex             // guards all below
	objects map[key]object         // those that have a status, as last seen
	recheck func() ingress.Applied // nil = nothing has been told since the owner last looked
}

// New prepares a Source. Nothing is asked of the API server before Run. The
// error is of a configuration that cannot work.
func New(cfg Config) (*Source, error) {
	switch {
	case cfg.REST == nil:
		return nil, errors.New("ingress from Kubernetes: no API server is configured")
	case cfg.Namespace == "" || cfg.PodName == "":
		return nil, errors.New("ingress from Kubernetes: namespace and name of this pod are needed; give --pod NAMESPACE/NAME")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Selector == nil {
		cfg.Selector = map[string]string{"app.kubernetes.io/name": "adit-ingress"}
	}
	cfg.ClusterDomain = cmp.Or(cfg.ClusterDomain, "cluster.local")
	cfg.TrafficPolicy = cmp.Or(cfg.TrafficPolicy, corev1.ServiceExternalTrafficPolicyLocal)
	a, err := newAPI(cfg.REST)
	if err != nil {
		return nil, fmt.Errorf("ingress from Kubernetes: the way to the API server is not usable: %w", err)
	}
	s := &Source{
		cfg: cfg, log: cfg.Logger, api: a, inbox: newInbox(), kinds: kinds(a), synced: make(chan struct{}),
		services: settings{
			namespace: cfg.Namespace, selector: cfg.Selector, clusterDomain: cfg.ClusterDomain,
			separateUDP: cfg.SeparateUDPService, policy: cfg.TrafficPolicy, class: cfg.LoadBalancerClass,
		},
		index:    newServiceIndex(cfg.Namespace),
		gateways: make(map[types.NamespacedName]*gatewayv1.Gateway),
		refs:     make(map[key][]key),
		bundles:  make(map[string]string),
		secrets:  make(map[types.NamespacedName]twice),
		objects:  make(map[key]object),
		ask:      make(chan chan []gateway.Status),
		ended:    make(chan struct{}),
	}
	for i := range s.work.wake {
		s.work.wake[i] = make(chan struct{}, 1)
	}
	s.named = &named{follower: &follower{api: a, log: s.log, inbox: s.inbox}, all: make(map[key]*namedOne), ending: make(map[key]<-chan struct{})}
	options := cfg.Gateway
	options.Bind = s.index.bind
	s.translator = gateway.New(options)
	return s, nil
}

// Run follows the cluster and applies what its objects come to, until ctx ends;
// it returns nil once everything that it started has ended. While the API server
// is away, what was applied stays in force. apply is called on one goroutine.
// Run may be called once.
func (s *Source) Run(ctx context.Context, apply func(*ingress.Config) ingress.Applied) error {
	var wg sync.WaitGroup
	for _, k := range s.kinds {
		wg.Go(func() { s.named.follow(ctx, k) })
	}
	wg.Go(func() { s.watchConnection(ctx) })
	wg.Go(func() {
		select {
		case <-s.synced:
		case <-ctx.Done():
			return
		}
		e := &election{api: s.api, log: s.log, namespace: s.cfg.Namespace, who: s.cfg.PodName}
		e.run(ctx, s.lead)
	})
	s.own(ctx, apply)
	close(s.ended)
	s.named.set(ctx, nil)
	s.named.wg.Wait()
	wg.Wait()
	return nil
}

// Synced is closed once what the API server had has been applied.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// Leading says whether this pod is the one that writes.
func (s *Source) Leading() bool { return s.leading.Load() }

// Kinds says which kinds of objects are followed, and how well.
func (s *Source) Kinds() []KindStatus {
	out := make([]KindStatus, len(s.kinds))
	for i, k := range s.kinds {
		out[i] = k.state.get()
	}
	return out
}

// Recheck tells that what became of the configuration is not what apply returned
// any more: a socket could be had later. It does not block. now is asked on the
// goroutine that apply is called on, so its answer is never older than apply's.
func (s *Source) Recheck(now func() ingress.Applied) {
	s.mu.Lock()
	s.recheck = now
	s.mu.Unlock()
	signal(s.inbox.wake)
}

// Statuses are the objects that have a status, with what it should say by the
// last build: on the pod that leads, what is written. They are not to be changed.
// It is nil before the first build and after the end, and if ctx ends.
func (s *Source) Statuses(ctx context.Context) []runtime.Object {
	answer := make(chan []gateway.Status, 1)
	var statuses []gateway.Status
	select {
	case s.ask <- answer:
		statuses = <-answer
	case <-s.ended:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []runtime.Object
	for _, st := range statuses {
		if o := s.objects[key{st.Kind, types.NamespacedName{Namespace: st.Namespace, Name: st.Name}}]; o != nil {
			merged, _ := st.Merge(o)
			out = append(out, merged)
		}
	}
	return out
}

// own owns the translator until ctx ends. Nothing is applied before every kind
// has been seen whole: a route that is missing would be answered with 404.
func (s *Source) own(ctx context.Context, apply func(*ingress.Config) ingress.Applied) {
	for _, k := range s.kinds {
		select {
		case <-k.state.settled:
		case <-ctx.Done():
			return
		}
	}
	s.take(ctx)
	s.awaitNamed(ctx)
	for {
		s.take(ctx)
		s.serve(apply)
		select {
		case <-s.synced:
		default:
			if ctx.Err() == nil {
				close(s.synced)
			}
		}
		var again <-chan time.Time
		if s.failing() {
			again = time.After(time.Until(s.retryAt))
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case answer := <-s.ask:
			answer <- s.translator.Statuses(s.applied, s.placements())
			continue
		case <-s.inbox.wake:
			if !s.settled(ctx) {
				return
			}
		}
	}
}

func (s *Source) awaitNamed(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, waitNamed)
	defer cancel()
	s.named.settled(ctx)
}

// settled waits for a burst of events to end, and reports false if ctx did.
func (s *Source) settled(ctx context.Context) bool {
	for end := time.Now().Add(settleMost); time.Now().Before(end); {
		if !sleep(ctx, settle) {
			return false
		}
		select {
		case <-s.inbox.wake:
		default:
			return true
		}
	}
	return true
}

// serve builds and applies, and says what is to be written.
func (s *Source) serve(apply func(*ingress.Config) ingress.Applied) {
	s.mu.Lock()
	recheck := s.recheck
	s.recheck = nil
	s.mu.Unlock()
	if recheck != nil {
		s.applied = recheck()
	}
	config, _ := s.translator.Build()
	if config != s.config || s.failing() && !time.Now().Before(s.retryAt) {
		s.applied, s.config = apply(config), config
		s.retryAt = time.Now().Add(retryApply)
	}
	if s.leading.Load() {
		s.assign()
	}
}

// failing says whether not every socket could be had.
func (s *Source) failing() bool { return len(s.applied.Failed)+len(s.applied.NoQUIC) > 0 }

// placements are where each Gateway is reached.
func (s *Source) placements() map[types.NamespacedName]gateway.Placement {
	conflicts := s.work.conflicts()
	placed := make(map[types.NamespacedName]gateway.Placement, len(s.gateways))
	for name, g := range s.gateways {
		placed[name] = placement(g, s.index.balancers[name], conflicts[name])
	}
	return placed
}

// assign hands to the leader what is to be written.
func (s *Source) assign() {
	w := &work{statuses: s.translator.Statuses(s.applied, s.placements()), services: maps.Clone(s.index.byName)}
	s.index.forget(func(gw types.NamespacedName) bool { return s.gateways[gw] == nil })
	for _, st := range w.statuses {
		if st.Kind != "Gateway" {
			continue
		}
		name := types.NamespacedName{Namespace: st.Namespace, Name: st.Name}
		p := &plan{name: name, gateway: s.gateways[name], ports: s.translator.Ports(name)}
		if p.gateway == nil {
			continue
		}
		if err := s.index.allocate(p); err != nil {
			s.log.Error("a Gateway gets no Service", "gateway", name.String(), "error", err)
			continue
		}
		w.plans = append(w.plans, p)
	}
	w.gatewaysKnown = slices.ContainsFunc(s.kinds, func(k *kind) bool {
		return k.name == "Gateway" && k.state.get().Synced && k.state.get().Present
	})
	s.work.put(w)
}

// controllers are the names of controllers whose classes are ours.
func (s *Source) controllers() []string {
	if names := s.cfg.Gateway.ControllerNames; len(names) > 0 {
		return names
	}
	return []string{gateway.DefaultControllerName}
}
