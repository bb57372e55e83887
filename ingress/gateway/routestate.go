package gateway

import (
	"cmp"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/route"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

type routeKey struct {
	kind string
	types.NamespacedName
}

// String is the key under which the route is in tables.
func (k routeKey) String() string { return k.kind + "/" + k.Namespace + "/" + k.Name }

// routeState is a route of any kind, and what became of it.
type routeState struct {
	routeKey
	obj     runtime.Object
	meta    metav1.Object
	spec    any // pointer to the specification
	refs    []gatewayv1.ParentReference
	hosts   []string // lower case; none: any
	current *gatewayv1.RouteStatus

	generation int64 // of the specification that results are about
	compiled   map[backend.From]*compiled
	// recompile says that compiled may be of what the route, or something that it
	// refers to, was before.
	recompile bool
	results   []parentResult
	in        set[*listener]
	services  set[types.NamespacedName]
	clusters  set[string]
	status    *Status
}

// newRouteState reads a route of Gateway API v1.
func newRouteState(obj runtime.Object) *routeState {
	s := &routeState{obj: obj}
	switch o := obj.(type) {
	case *gatewayv1.HTTPRoute:
		s.kind, s.meta, s.spec, s.refs, s.hosts, s.current = kindHTTPRoute, o, &o.Spec, o.Spec.ParentRefs, hostnames(o.Spec.Hostnames), &o.Status.RouteStatus
	case *gatewayv1.GRPCRoute:
		s.kind, s.meta, s.spec, s.refs, s.hosts, s.current = kindGRPCRoute, o, &o.Spec, o.Spec.ParentRefs, hostnames(o.Spec.Hostnames), &o.Status.RouteStatus
	case *gatewayv1.TLSRoute:
		s.kind, s.meta, s.spec, s.refs, s.hosts, s.current = kindTLSRoute, o, &o.Spec, o.Spec.ParentRefs, hostnames(o.Spec.Hostnames), &o.Status.RouteStatus
	case *gatewayv1.TCPRoute:
		s.kind, s.meta, s.spec, s.refs, s.current = kindTCPRoute, o, &o.Spec, o.Spec.ParentRefs, &o.Status.RouteStatus
	case *gatewayv1.UDPRoute:
		s.kind, s.meta, s.spec, s.refs, s.current = kindUDPRoute, o, &o.Spec, o.Spec.ParentRefs, &o.Status.RouteStatus
	}
	s.NamespacedName = nameOf(s.meta)
	return s
}

func (s *routeState) owner() route.Owner {
	return route.Owner{Kind: s.kind, Namespace: s.Namespace, Name: s.Name}
}

func (s *routeState) created() time.Time { return s.meta.GetCreationTimestamp().Time }

// precedence orders routes: the older first, then by name. Two kinds of one name
// and age are in order of kind, so that there always is an order.
func precedence(a, b *routeState) int {
	return cmp.Or(a.created().Compare(b.created()),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), strings.Compare(a.kind, b.kind))
}

// parentOf is what a parentRef names; false if no Gateway or ListenerSet.
func (s *routeState) parentOf(ref gatewayv1.ParentReference) (parent, bool) {
	p := parent{kindGateway, types.NamespacedName{Namespace: s.Namespace, Name: string(ref.Name)}}
	if ref.Group != nil && *ref.Group != gatewayv1.GroupName {
		return p, false
	}
	if ref.Kind != nil {
		p.kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		p.Namespace = string(*ref.Namespace)
	}
	return p, p.kind == kindGateway || p.kind == kindListenerSet
}

func (s *routeState) parents() set[parent] {
	all := make(set[parent])
	for _, ref := range s.refs {
		if p, ok := s.parentOf(ref); ok {
			all.add(p)
		}
	}
	return all
}

// setRoute adds or replaces a route.
func (t *Translator) setRoute(s *routeState) {
	before := t.routes[s.routeKey]
	t.routes[s.routeKey] = s
	if before == nil {
		t.routesIn.add(s.Namespace, s.routeKey)
		t.routesOf.replace(s.routeKey, nil, s.parents())
		t.cache.routes.add(s.routeKey)
		t.staleRoutes.add(s.routeKey)
		return
	}
	s.compiled = before.compiled
	s.results, s.in, s.services, s.clusters = before.results, before.in, before.services, before.clusters
	s.generation = before.generation
	if unchanged(before.meta, s.meta, before.spec, s.spec) {
		s.recompile = before.recompile
		if !t.staleRoutes.has(s.routeKey) {
			s.generation = s.meta.GetGeneration()
		}
		for l := range s.in {
			l.attachments[s.routeKey].route = s
		}
		return
	}
	s.recompile = true
	t.routesOf.replace(s.routeKey, before.parents(), s.parents())
	t.staleRoutes.add(s.routeKey)
}

func (t *Translator) deleteRoute(key routeKey) {
	s := t.routes[key]
	if s == nil {
		return
	}
	delete(t.routes, key)
	t.cache.routes.remove(key)
	t.routesIn.remove(key.Namespace, key)
	t.routesOf.replace(key, s.parents(), nil)
	t.release(s)
	delete(t.staleRoutes, key)
}

// release takes the route out of everything that it was put into.
func (t *Translator) release(s *routeState) {
	for l := range s.in {
		t.detach(l, s.routeKey)
	}
	s.in = nil
	t.policiesStale = true
	t.setServices(s, nil)
	t.setClusters(s, nil)
}

func (t *Translator) setServices(s *routeState, services set[types.NamespacedName]) {
	t.routesTo.replace(s.routeKey, s.services, services)
	s.services = services
}

func (t *Translator) setClusters(s *routeState, keys set[string]) {
	for key := range keys {
		if !s.clusters.has(key) {
			t.clusters.use(key)
		}
	}
	for key := range s.clusters {
		if !keys.has(key) {
			t.clusters.release(key)
		}
	}
	s.clusters = keys
}
