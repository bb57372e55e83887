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

func (w *world) setPod(k key, now *pod) {
	if now != nil && ended(now.phase) {
		now = nil
	}
	old := w.pods[k]
	if now != nil {
		w.keepReported(old, now)
	}
	if _, changed := put(w.pods, k, now); !changed {
		return
	}
	w.markPod(k)
	if old != nil {
		w.unindexPod(old, now)
	}
	if now != nil {
		w.indexPod(old, now)
	}
}

// keepReported carries on addresses that the CNI plugin has reported until the
// status has caught up.
func (w *world) keepReported(old, now *pod) {
	if now.reported || old == nil || !old.reported || old.uid != now.uid {
		return
	}
	for _, a := range now.addrs {
		if slices.Contains(old.addrs, a) {
			return
		}
	}
	now.addrs, now.reported = old.addrs, true
	now.since = max(now.since, old.since)
}

func (w *world) unindexPod(old, now *pod) {
	if !old.template.Value().hostNetwork {
		for _, a := range old.addrs {
			removeFrom(w.byAddr, a, old)
			w.addressChanged(a)
		}
	}
	if old.local != nil {
		w.marks.local = true
	}
	if now == nil || now.uid != old.uid {
		delete(w.captured, old.uid)
	}
	if now == nil {
		delete(w.podsIn[old.namespace], old.key)
		if len(w.podsIn[old.namespace]) == 0 {
			delete(w.podsIn, old.namespace)
		}
		delete(w.localPods, old.key)
	}
}

func (w *world) indexPod(old, now *pod) {
	if !now.template.Value().hostNetwork {
		for _, a := range now.addrs {
			addTo(w.byAddr, a, now)
			w.addressChanged(a)
		}
	}
	if now.local != nil {
		w.marks.local = true
		w.localPods[now.key] = struct{}{}
	} else {
		delete(w.localPods, now.key)
	}
	if old == nil {
		if w.podsIn[now.namespace] == nil {
			w.podsIn[now.namespace] = map[key]struct{}{}
		}
		w.podsIn[now.namespace][now.key] = struct{}{}
	}
}

// addressChanged marks who depends on whose address a is: those that claim it,
// and endpoints that are known by nothing else.
func (w *world) addressChanged(a netip.Addr) {
	if claims := w.byAddr[a]; len(claims) > 1 {
		for _, p := range claims {
			w.markPod(p.key)
		}
	} else if len(claims) == 1 {
		w.markPod(claims[0].key)
	}
	for _, s := range w.unnamed[a] {
		w.marks.slices[s.key] = struct{}{}
	}
}

func (w *world) setService(k key, now *service) {
	old, changed := put(w.services, k, now)
	if !changed {
		return
	}
	w.markService(k)
	if old != nil && now != nil && old.inMesh() == now.inMesh() && slices.Equal(old.ports, now.ports) && old.notReady == now.notReady {
		return // its endpoints serve it as before
	}
	for _, s := range w.slicesOf[k] {
		w.markSlice(s)
	}
}

// markSlice marks all that a slice has endpoints for.
func (w *world) markSlice(s *endpointSlice) {
	for i := range s.endpoints {
		w.markEndpoint(s, &s.endpoints[i])
	}
}

func (w *world) markEndpoint(s *endpointSlice, e *endpoint) {
	if e.pod != "" {
		w.markPod(key{s.namespace, e.pod})
		return
	}
	w.marks.slices[s.key] = struct{}{}
	for _, p := range w.byAddr[e.addr] {
		w.markPod(p.key)
	}
}

func (w *world) setSlice(k key, now *endpointSlice) {
	old := w.slices[k]
	if old != nil && now != nil && old.service == now.service && slices.Equal(old.ports, now.ports) && slices.Equal(old.endpoints, now.endpoints) {
		return
	}
	if _, changed := put(w.slices, k, now); !changed {
		return
	}
	if old != nil {
		w.unindexSlice(old)
	}
	if now != nil {
		w.indexSlice(now)
	}
	if old == nil || now == nil || !old.samePorts(now) {
		for _, s := range [...]*endpointSlice{old, now} {
			if s != nil {
				w.markSlice(s)
			}
		}
		return
	}
	before := make(map[endpoint]struct{}, len(old.endpoints))
	for _, e := range old.endpoints {
		before[e] = struct{}{}
	}
	for i := range now.endpoints {
		e := &now.endpoints[i]
		if _, ok := before[*e]; ok {
			delete(before, *e)
			continue
		}
		w.markEndpoint(now, e)
	}
	for e := range before {
		w.markEndpoint(old, &e)
	}
}

func (w *world) indexSlice(s *endpointSlice) {
	addTo(w.slicesOf, key{s.namespace, s.service}, s)
	for _, e := range s.endpoints {
		if e.pod != "" {
			addTo(w.named, key{s.namespace, e.pod}, s)
		} else {
			addTo(w.unnamed, e.addr, s)
		}
	}
}

func (w *world) unindexSlice(s *endpointSlice) {
	removeFrom(w.slicesOf, key{s.namespace, s.service}, s)
	for _, e := range s.endpoints {
		if e.pod != "" {
			removeFrom(w.named, key{s.namespace, e.pod}, s)
		} else {
			removeFrom(w.unnamed, e.addr, s)
		}
	}
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

func (w *world) setAuthorization(k key, now *authorization) {
	old, changed := put(w.auths, k, now)
	if !changed {
		return
	}
	w.marks.policies = true
	if now != nil && (old == nil || !slices.Equal(old.Problems, now.Problems)) {
		w.complain("AuthorizationPolicy", k, now.Problems)
	}
	// A policy that goes on selecting the same workloads is listed by them under
	// the same key.
	if !old.lists() || !now.lists() || old.selector != now.selector {
		for _, a := range [...]*authorization{old, now} {
			if a.lists() {
				w.markSelected(k.namespace, a.selector)
			}
		}
	}
	if old != nil {
		removeFrom(w.selectors, k.namespace, old)
	}
	if now.lists() {
		addTo(w.selectors, k.namespace, now)
	}
}

// markSelected marks the pods that a policy in a namespace selects.
func (w *world) markSelected(namespace string, selector labelSet) {
	mark := func(k key) {
		if w.pods[k].in(selector) {
			w.markPod(k)
		}
	}
	if namespace == w.root {
		for k := range w.pods {
			mark(k)
		}
		return
	}
	for k := range w.podsIn[namespace] {
		mark(k)
	}
}

func (w *world) setPeer(k key, now *peerAuthentication) {
	old, changed := put(w.peers, k, now)
	if !changed {
		return
	}
	w.marks.policies = true
	if now != nil && (old == nil || !slices.Equal(old.Problems, now.Problems)) {
		w.complain("PeerAuthentication", k, now.Problems)
	}
	var list []*peerAuthentication
	for _, p := range w.peers {
		if p.namespace == k.namespace {
			list = append(list, p)
		}
	}
	if len(list) > 0 {
		w.peersIn[k.namespace] = newPeers(list)
	} else {
		delete(w.peersIn, k.namespace)
	}
	for _, p := range [...]*peerAuthentication{old, now} {
		switch {
		case p == nil:
		case p.selector != "":
			for k := range w.podsIn[k.namespace] {
				if w.pods[k].in(p.selector) {
					w.markPod(k)
				}
			}
		case k.namespace == w.root:
			w.markAllPods()
		default:
			w.markNamespace(k.namespace)
		}
	}
}

// complain says what of a policy is not enforced as written.
func (w *world) complain(kind string, k key, problems []string) {
	if len(problems) > 0 {
		w.log.Warn("a policy is not enforced as written", "kind", kind, "policy", k.String(), "problems", problems)
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
