package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

var (
	authorizationPolicies = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}
	peerAuthentications   = schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "peerauthentications"}
	runtimeClasses        = schema.GroupVersionResource{Group: "node.k8s.io", Version: "v1", Resource: "runtimeclasses"}
	daemonSets            = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}
	leases                = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
)

// kind is a kind of objects that is followed.
type kind struct {
	state *kindState
	from  listWatch
	into  cache.ReflectorStore
	// example is of the type that the API server sends.
	example runtime.Object
	// installed is the resource of a kind that may be absent, and come and go.
	installed *schema.GroupVersionResource
	// dispensable kinds are not waited for once they have failed.
	dispensable bool
}

// kinds are all that the world is made of.
func (s *Source) kinds() []*kind {
	w, a := s.world, s.api
	here := func(p *corev1.Pod) bool { return p.Spec.NodeName == s.cfg.NodeName && s.cfg.NodeName != "" }
	core := func(name string) *kindState { return newKindState(name, true) }

	pods := &tracker[pod]{
		world: w, state: core("pods"),
		convert: func(o runtime.Object) *pod { p := o.(*corev1.Pod); return newPod(p, here(p)) },
		set:     w.observePod,
		drop:    w.forgetPod,
		keys:    func() []key { return keysOf(w.pods) },
		size:    func() int { return len(w.pods) },
	}
	services := track(w, core("services"), w.services, w.setService,
		func(o runtime.Object) *service { return newService(o.(*corev1.Service), s.cfg.ClusterDomain) })
	slices := track(w, core("endpointslices.discovery.k8s.io"), w.slices, w.setSlice,
		func(o runtime.Object) *endpointSlice { return newSlice(o.(*discoveryv1.EndpointSlice)) })
	namespaces := &tracker[namespace]{
		world: w, state: core("namespaces"),
		convert: func(o runtime.Object) *namespace { return newNamespace(&o.(*metav1.PartialObjectMetadata).ObjectMeta) },
		set:     func(k key, _ string, n *namespace) { w.setNamespace(k.name, n) },
		drop:    func(k key, _ string) { w.setNamespace(k.name, nil) },
		keys:    func() []key { return clusterKeys(w.namespaces) },
		size:    func() int { return len(w.namespaces) },
	}
	nodes := &tracker[node]{
		world: w, state: core("nodes"),
		convert: func(o runtime.Object) *node { return newNode(&o.(*metav1.PartialObjectMetadata).ObjectMeta) },
		set:     func(k key, _ string, n *node) { w.setNode(k.name, n) },
		drop:    func(k key, _ string) { w.setNode(k.name, nil) },
		keys:    func() []key { return clusterKeys(w.nodes) },
		size:    func() int { return len(w.nodes) },
	}
	auths := track(w, newKindState(nameOf(authorizationPolicies), false), w.auths, w.setAuthorization,
		func(o runtime.Object) *authorization {
			return newAuthorization(o.(*unstructured.Unstructured), s.cfg.RootNamespace)
		})
	peers := track(w, newKindState(nameOf(peerAuthentications), false), w.peers, w.setPeer,
		func(o runtime.Object) *peerAuthentication {
			return newPeerAuthentication(o.(*unstructured.Unstructured))
		})
	runtimes := &tracker[string]{
		world: w, state: newKindState(nameOf(runtimeClasses), false),
		convert: func(o runtime.Object) *string {
			handler, _, _ := unstructured.NestedString(o.(*unstructured.Unstructured).Object, "handler")
			return &handler
		},
		set:  func(k key, _ string, handler *string) { w.setRuntime(k.name, handler) },
		drop: func(k key, _ string) { w.setRuntime(k.name, nil) },
		keys: func() []key { return clusterKeys(w.runtimes) },
		size: func() int { return len(w.runtimes) },
	}
	return []*kind{
		{state: namespaces.state, into: namespaces, example: &metav1.PartialObjectMetadata{}, from: metadata(a, "namespaces")},
		{state: nodes.state, into: nodes, example: &metav1.PartialObjectMetadata{}, from: metadata(a, "nodes")},
		{state: pods.state, into: pods, example: &corev1.Pod{},
			from: typed(a, a.core, "pods", "", "", func() *corev1.PodList { return &corev1.PodList{} })},
		{state: services.state, into: services, example: &corev1.Service{},
			from: typed(a, a.core, "services", "", "", func() *corev1.ServiceList { return &corev1.ServiceList{} })},
		{state: slices.state, into: slices, example: &discoveryv1.EndpointSlice{},
			from: typed(a, a.discovery, "endpointslices", "", "", func() *discoveryv1.EndpointSliceList { return &discoveryv1.EndpointSliceList{} })},
		{state: auths.state, into: auths, example: &unstructured.Unstructured{},
			from: untyped(a, authorizationPolicies, "", ""), installed: &authorizationPolicies},
		{state: peers.state, into: peers, example: &unstructured.Unstructured{},
			from: untyped(a, peerAuthentications, "", ""), installed: &peerAuthentications},
		{state: runtimes.state, into: runtimes, example: &unstructured.Unstructured{},
			from: untyped(a, runtimeClasses, "", ""), dispensable: true},
	}
}

// track makes a tracker of a table of namespaced objects.
func track[R any](w *world, state *kindState, table map[key]*R, set func(key, *R), convert func(runtime.Object) *R) *tracker[R] {
	return &tracker[R]{
		world: w, state: state, convert: convert,
		set:  func(k key, _ string, r *R) { set(k, r) },
		drop: func(k key, _ string) { set(k, nil) },
		keys: func() []key { return keysOf(table) },
		size: func() int { return len(table) },
	}
}

func keysOf[V any](m map[key]V) []key {
	out := make([]key, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

func clusterKeys[V any](m map[string]V) []key {
	out := make([]key, 0, len(m))
	for name := range m {
		out = append(out, key{name: name})
	}
	return out
}

func nameOf(r schema.GroupVersionResource) string { return r.Resource + "." + r.Group }

// follow keeps one kind until ctx ends.
func (s *Source) follow(ctx context.Context, k *kind) {
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{s.log.With("kind", k.state.name).Handler()}))
	if k.installed == nil {
		s.reflect(ctx, k)
		return
	}
	for ctx.Err() == nil {
		if s.awaitInstalled(ctx, k) {
			s.log.Info("following a kind that the API server has", "kind", k.state.name)
			s.reflect(ctx, k)
		}
	}
}

// errUninstalled ends a reflector whose kind is gone.
var errUninstalled = errors.New("the API server no longer has this kind")

// reflect runs the reflector of one kind until ctx ends or the kind is gone.
func (s *Source) reflect(ctx context.Context, k *kind) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n := &noted{listWatch: k.from, state: k.state}
	n.onError = func(err error) {
		if k.dispensable {
			k.state.giveUp()
		}
		if k.installed != nil && apierrors.IsNotFound(err) {
			if there, err := s.api.has(ctx, *k.installed); err == nil && !there {
				stop(errUninstalled)
			}
		}
	}
	log := klog.FromContext(ctx)
	r := cache.NewReflectorWithOptions(n, k.example, k.into, cache.ReflectorOptions{
		Name: k.state.name, Logger: &log,
		// Between attempts, with as much again at random. What is known gets old
		// meanwhile, so the longest is shorter than client-go's half a minute.
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 6, Cap: 10 * time.Second},
	})
	r.RunWithContext(ctx)
	n.end()
}

// awaitInstalled returns true once the API server has a kind, or false when ctx
// ends. While it has not, the kind counts as followed and empty.
func (s *Source) awaitInstalled(ctx context.Context, k *kind) bool {
	said := false
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		there, err := s.api.has(ctx, *k.installed)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			k.state.asked(fmt.Errorf("asking which kinds there are: %w", err))
		case there:
			return true
		default:
			if err := k.into.Replace(nil, ""); err != nil {
				return false
			}
			k.state.absent("the API server does not have this kind; is its CRD installed?")
			if !said {
				said = true
				s.log.Info("a kind is not installed; it is followed once it is", "kind", k.state.name)
			}
		}
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return false
		}
	}
}

const (
	retryFirst = time.Second
	retryMost  = 20 * time.Second
)

// sleep waits, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// quiet takes what client-go says for debugging only: that a watch ends is
// expected, and that the server is away is said once, by watchConnection.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(g string) slog.Handler      { return quiet{q.Handler.WithGroup(g)} }

// watchConnection says when the API server goes away and when it is back, until
// ctx ends. A watch that is renewed is between two looks.
func (s *Source) watchConnection(ctx context.Context) {
	const look = 2 * time.Second
	away, suspected := false, false
	for sleep(ctx, look) {
		var lost []string
		reason := ""
		for _, k := range s.Kinds() {
			if !k.Connected && (k.Present || !k.Synced) && k.Error != "" {
				lost = append(lost, k.Name)
				reason = cmp.Or(reason, k.Error)
			}
		}
		switch {
		case len(lost) == 0 && away:
			away = false
			s.log.Info("the API server answers again")
		case len(lost) > 0 && suspected && !away:
			away = true
			s.log.Warn("the API server does not answer; what is known of the cluster stays in force", "kinds", lost, "error", reason)
		}
		suspected = len(lost) > 0
	}
}
