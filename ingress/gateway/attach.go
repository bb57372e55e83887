package gateway

import (
	"fmt"
	"maps"
	"slices"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// parentResult is what came of one parentRef that is ours.
type parentResult struct {
	ref        gatewayv1.ParentReference
	controller string
	gateway    *gateway
	name       types.NamespacedName // of the Gateway
	refused    verdict              // no listener takes the route
	listeners  []*listener
	compiled   []*compiled // one, or two for a TLSRoute on listeners of both modes
}

// attachment is a route on a listener.
type attachment struct {
	route    *routeState
	hosts    []string
	compiled *compiled
	stream   *ingress.StreamRoute // of TLSRoute, TCPRoute and UDPRoute
	// rejected is the route of the other HTTP kind that has these hosts, or part
	// of them. nil: none.
	rejected *routeState
}

// attach works out anew where a route belongs, and puts it there.
func (t *Translator) attach(key routeKey) {
	s := t.routes[key]
	if s == nil {
		return
	}
	s.generation, s.status = s.meta.GetGeneration(), nil
	c := compiler{t.index, s, s.compiled, make(map[backend.From]*compiled)}
	gateways := s.gateways()
	s.results = nil
	in := make(map[*listener]*attachment)
	for _, ref := range s.refs {
		if r, ok := t.attachTo(s, ref, in, c); ok {
			s.results = append(s.results, r)
		}
	}
	s.compiled, s.recompile = c.now, false

	for l := range s.in {
		if in[l] == nil {
			t.detach(l, key)
		}
	}
	s.in = make(set[*listener], len(in))
	clusters, services := make(set[string]), make(set[types.NamespacedName])
	for l, a := range in {
		s.in.add(l)
		t.put(l, a)
		for _, k := range a.compiled.clusters {
			clusters.add(k)
		}
	}
	for _, c := range s.compiled {
		for _, service := range c.services {
			services.add(service)
		}
	}
	if !maps.Equal(s.services, services) || !maps.Equal(gateways, s.gateways()) {
		t.policiesStale = true // they name the Gateways that lead to a Service
	}
	t.setServices(s, services)
	t.setClusters(s, clusters)
}

// gateways are those that the route is attached to.
func (s *routeState) gateways() set[types.NamespacedName] {
	names := make(set[types.NamespacedName])
	for _, r := range s.results {
		if len(r.listeners) > 0 {
			names.add(r.name)
		}
	}
	return names
}

// attachTo finds the listeners that one parentRef leads to. It says false if the
// parent is not ours.
func (t *Translator) attachTo(s *routeState, ref gatewayv1.ParentReference, in map[*listener]*attachment, compiler compiler) (parentResult, bool) {
	p, ok := s.parentOf(ref)
	if !ok {
		return parentResult{}, false
	}
	gatewayName := p.NamespacedName
	if p.kind == kindListenerSet {
		set := t.sets[p.NamespacedName]
		if set == nil || !set.ofGateway() {
			return parentResult{}, false
		}
		gatewayName = set.gateway()
	}
	g := t.gateways[gatewayName]
	if g == nil || g.controller == "" {
		return parentResult{}, false
	}
	o := g.owner[p]
	if o == nil {
		return parentResult{}, false
	}
	r := parentResult{ref: ref, controller: g.controller, gateway: g, name: gatewayName}
	listeners, refused := t.candidates(s, o, ref)
	r.refused = refused
	from := backend.From{Kind: gatewayv1.Kind(s.kind), Namespace: s.Namespace}
	if g.presents != nil {
		from.Gateway = gatewayName
	}
	for _, l := range listeners {
		c := compiler.compile(from, l.passthrough())
		if !slices.Contains(r.compiled, c) {
			r.compiled = append(r.compiled, c)
		}
		r.listeners = append(r.listeners, l)
		a := in[l]
		if a == nil {
			a = &attachment{route: s, compiled: c}
			in[l] = a
			a.hosts = intersections(l.host, s.hosts)
		}
	}
	if len(r.compiled) == 0 {
		// ResolvedRefs is told whether or not the route is accepted.
		r.compiled = append(r.compiled, compiler.compile(from, true))
	}
	return r, true
}

// candidates are the listeners of o that take the route, or the reason why none
// does.
func (t *Translator) candidates(s *routeState, o *owner, ref gatewayv1.ParentReference) ([]*listener, verdict) {
	if o.set != nil && !o.refused.ok() && len(o.listeners) == 0 {
		return nil, because(gatewayv1.RouteReasonNoMatchingParent,
			fmt.Sprintf("ListenerSet %s is not attached to its Gateway: %s", o.NamespacedName, o.refused.message))
	}
	var named, allowed, matching []*listener
	for _, l := range o.listeners {
		if (ref.SectionName == nil || *ref.SectionName == "" || string(*ref.SectionName) == l.name) &&
			(ref.Port == nil || uint16(*ref.Port) == l.port) {
			named = append(named, l)
		}
	}
	if len(named) == 0 {
		return nil, because(gatewayv1.RouteReasonNoMatchingParent,
			fmt.Sprintf("%s %s has no listener %s", o.kind, o.NamespacedName, describe(ref)))
	}
	for _, l := range named {
		if slices.Contains(l.kinds, s.kind) && l.namespaces.allows(s.Namespace, t.namespaces) {
			allowed = append(allowed, l)
		}
	}
	if len(allowed) == 0 {
		return nil, because(gatewayv1.RouteReasonNotAllowedByListeners,
			fmt.Sprintf("no listener%s of %s %s takes %ss of namespace %q: see its allowedRoutes and protocol",
				describeIf(ref), o.kind, o.NamespacedName, s.kind, s.Namespace))
	}
	for _, l := range allowed {
		if len(intersections(l.host, s.hosts)) > 0 {
			matching = append(matching, l)
		}
	}
	if len(matching) == 0 {
		return nil, because(gatewayv1.RouteReasonNoMatchingListenerHostname,
			fmt.Sprintf("no hostname of the route lies within that of a listener%s of %s %s", describeIf(ref), o.kind, o.NamespacedName))
	}
	return matching, verdict{}
}

func describeIf(ref gatewayv1.ParentReference) string {
	if ref.SectionName == nil && ref.Port == nil {
		return ""
	}
	return " " + describe(ref)
}

func describe(ref gatewayv1.ParentReference) string {
	switch {
	case ref.SectionName != nil && ref.Port != nil:
		return fmt.Sprintf("%q on port %d", *ref.SectionName, *ref.Port)
	case ref.SectionName != nil:
		return fmt.Sprintf("%q", *ref.SectionName)
	case ref.Port != nil:
		return fmt.Sprintf("on port %d", *ref.Port)
	}
	return "at all"
}

// put attaches a route to a listener, or replaces what it has there.
func (t *Translator) put(l *listener, a *attachment) {
	if l.protocol >= ingress.TLS {
		a.stream = a.compiled.stream(l, a)
	}
	key := a.route.routeKey
	if before := l.attachments[key]; before != nil {
		a.rejected = before.rejected
	} else {
		l.attached[key.kind]++
	}
	l.attachments[key] = a
	l.unsettled.add(key)
	t.staleListeners.add(l)
}

func (t *Translator) detach(l *listener, key routeKey) {
	delete(l.attachments, key)
	delete(l.unsettled, key)
	l.attached[key.kind]--
	l.builder.Delete(key.String())
	t.staleListeners.add(l)
}

// entriesFor are the entries of a compiled route under each of some hosts.
func entriesFor(hosts []string, entries []route.Entry[*proxy.Rule]) []route.Entry[*proxy.Rule] {
	list := make([]route.Entry[*proxy.Rule], 0, len(hosts)*len(entries))
	for _, host := range hosts {
		for _, e := range entries {
			e.Host = host
			list = append(list, e)
		}
	}
	return list
}
