package kube

import (
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/adit-mesh/adit/agent/policy"
)

// world is what is known of the cluster, and what of it has to be built again.
//
// An event changes one table, finds by the indexes which workloads, services
// and policies depend on what has changed, and marks those. batch builds what
// is marked. Nobody waits for a network with mu held.
type world struct {
	settings
	log  *slog.Logger
	wake chan struct{} // one-slot edge: something is marked

	mu sync.Mutex // guards all below

	pods       map[key]*pod
	services   map[key]*service
	slices     map[key]*endpointSlice
	namespaces map[string]*namespace
	nodes      map[string]*node
	auths      map[key]*authorization
	peers      map[key]*peerAuthentication
	runtimes   map[string]string // handler by RuntimeClass

	podsIn    map[string]map[key]struct{}     // by namespace
	localPods map[key]struct{}                // of this node
	byAddr    map[netip.Addr][]*pod           // all that claim it, but for hostNetwork
	named     map[key][]*endpointSlice        // slices by pod that they name
	slicesOf  map[key][]*endpointSlice        // by service
	unnamed   map[netip.Addr][]*endpointSlice // slices by address that no pod is named for
	selectors map[string][]*authorization     // that list by labels, by namespace
	peersIn   map[string]*peers               // by namespace
	captured  map[string]redirection          // of local pods by UID, as told by Annotate
	published map[string]policy.Policy        // by key
	opaque    map[key][]string                // uids of the workloads made of a slice
	lists     map[string][]string             // of policy keys that workloads share

	marks marks
	work  work
}

// settings are the parts of Config that workloads are made with.
type settings struct {
	node, trustDomain, clusterDomain, clusterID, root, network string
	self                                                       PodRef
	excluded                                                   []string // namespaces
}

// marks are what has to be built again.
type marks struct {
	pods     map[key]struct{}
	services map[key]struct{}
	slices   map[key]struct{} // of endpoints without a pod
	policies bool
	local    bool
}

func newMarks() marks {
	return marks{pods: map[key]struct{}{}, services: map[key]struct{}{}, slices: map[key]struct{}{}}
}

func (m *marks) empty() bool {
	return len(m.pods)+len(m.services)+len(m.slices) == 0 && !m.policies && !m.local
}

// work counts what has been built, for metrics and for tests of what an event
// costs.
type work struct {
	workloads, services, policies uint64 // built
}

func newWorld(s settings, log *slog.Logger) *world {
	return &world{
		settings:   s,
		log:        log,
		wake:       make(chan struct{}, 1),
		pods:       map[key]*pod{},
		services:   map[key]*service{},
		slices:     map[key]*endpointSlice{},
		namespaces: map[string]*namespace{},
		nodes:      map[string]*node{},
		auths:      map[key]*authorization{},
		peers:      map[key]*peerAuthentication{},
		runtimes:   map[string]string{},
		podsIn:     map[string]map[key]struct{}{},
		localPods:  map[key]struct{}{},
		byAddr:     map[netip.Addr][]*pod{},
		named:      map[key][]*endpointSlice{},
		slicesOf:   map[key][]*endpointSlice{},
		unnamed:    map[netip.Addr][]*endpointSlice{},
		selectors:  map[string][]*authorization{},
		peersIn:    map[string]*peers{},
		captured:   map[string]redirection{},
		published:  map[string]policy.Policy{},
		opaque:     map[key][]string{},
		lists:      map[string][]string{},
		marks:      newMarks(),
	}
}

// change runs f with mu held, and wakes the writer if f has marked anything.
func (w *world) change(f func()) {
	w.mu.Lock()
	f()
	pending := !w.marks.empty()
	w.mu.Unlock()
	if pending {
		signal(w.wake)
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // a value waits already
	}
}

func (w *world) markPod(k key)     { w.marks.pods[k] = struct{}{} }
func (w *world) markService(k key) { w.marks.services[k] = struct{}{} }

func (w *world) markAllPods() {
	for k := range w.pods {
		w.markPod(k)
	}
}

func (w *world) markNamespace(ns string) {
	for k := range w.podsIn[ns] {
		w.markPod(k)
	}
}

// put replaces one object of a table; a nil now removes it. It reports whether
// that changes anything, and what was there.
func put[K comparable, R any](table map[K]*R, k K, now *R) (old *R, changed bool) {
	old = table[k]
	switch {
	case now == nil:
		delete(table, k)
		return old, old != nil
	case old != nil && reflect.DeepEqual(old, now):
		return old, false
	}
	table[k] = now
	return old, true
}

func (w *world) setNamespace(name string, now *namespace) {
	old, changed := put(w.namespaces, name, now)
	if !changed {
		return
	}
	was, is := orZero(old), orZero(now)
	if was.mode != is.mode {
		w.markNamespace(name)
		w.marks.local = true
	}
	if was.distribution != is.distribution {
		for k := range w.services {
			if k.namespace == name {
				w.markService(k)
			}
		}
	}
}

func (w *world) setNode(name string, now *node) {
	old, changed := put(w.nodes, name, now)
	if !changed || orZero(old).locality == orZero(now).locality {
		return
	}
	here := shared(name)
	for k, p := range w.pods {
		if p.node == here {
			w.markPod(k)
		}
	}
}

func (w *world) setRuntime(name string, now *string) {
	handler, known := w.runtimes[name]
	if now == nil {
		delete(w.runtimes, name)
	} else {
		w.runtimes[name] = *now
	}
	if known == (now != nil) && (now == nil || handler == *now) {
		return
	}
	w.marks.local = true
	for k, p := range w.pods {
		if p.template.Value().runtimeClass == name {
			w.markPod(k)
		}
	}
}

func addTo[K, V comparable](m map[K][]V, k K, v V) {
	if !slices.Contains(m[k], v) {
		m[k] = append(m[k], v)
	}
}

func removeFrom[K, V comparable](m map[K][]V, k K, v V) {
	s := slices.DeleteFunc(m[k], func(x V) bool { return x == v })
	if len(s) == 0 {
		delete(m, k)
	} else {
		m[k] = s
	}
}

func orZero[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}

// namespaceMode is the label of a namespace, and whether the namespace is known.
func (w *world) namespaceMode(ns string) (string, bool) {
	n, ok := w.namespaces[ns]
	return orZero(n).mode, ok
}
