package gateway

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/gateway/compile"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// compiled is what a route of any kind comes to, wherever it is attached.
type compiled struct {
	accepted compile.Condition
	resolved compile.Condition
	partial  *compile.Condition
	entries  []route.Entry[*proxy.Rule] // of HTTPRoute and GRPCRoute, without host
	backends []ingress.StreamBackend    // of the others
	services []types.NamespacedName
	clusters []string
	owner    route.Owner
}

// compiler compiles a route for the Gateways that it is on.
type compiler struct {
	index  *backend.Index
	route  *routeState
	before map[backend.From]*compiled
	now    map[backend.From]*compiled
}

// compile compiles the route as from refers to backends. What comes to the same
// as before is the same, and so is everything made of it.
func (c compiler) compile(from backend.From, passthrough bool) *compiled {
	from.Passthrough = passthrough && c.route.kind == kindTLSRoute
	if done := c.now[from]; done != nil {
		return done
	}
	before := c.before[from]
	if before != nil && !c.route.recompile {
		c.now[from] = before
		return before
	}
	next := compileRoute(c.route, c.index.For(from))
	if before != nil && reflect.DeepEqual(before, next) {
		next = before
	}
	c.now[from] = next
	return next
}

func compileRoute(s *routeState, res backend.Resolver) *compiled {
	switch o := s.obj.(type) {
	case *gatewayv1.HTTPRoute:
		return fromHTTP(s, compile.HTTPRoute(o, res))
	case *gatewayv1.GRPCRoute:
		return fromHTTP(s, compile.GRPCRoute(o, res))
	case *gatewayv1.TLSRoute:
		if len(o.Spec.Rules) > 0 {
			return compileStream(s, o.Spec.Rules[0].BackendRefs, len(o.Spec.Rules), res)
		}
	case *gatewayv1.TCPRoute:
		if len(o.Spec.Rules) > 0 {
			return compileStream(s, o.Spec.Rules[0].BackendRefs, len(o.Spec.Rules), res)
		}
	case *gatewayv1.UDPRoute:
		if len(o.Spec.Rules) > 0 {
			return compileStream(s, o.Spec.Rules[0].BackendRefs, len(o.Spec.Rules), res)
		}
	}
	return compileStream(s, nil, 0, res)
}

func fromHTTP(s *routeState, c compile.Compiled) *compiled {
	return &compiled{accepted: c.Accepted, resolved: c.ResolvedRefs, partial: c.PartiallyInvalid,
		entries: c.Entries, services: c.Services, clusters: c.Clusters, owner: s.owner()}
}

// compileStream resolves the backends of a TLSRoute, TCPRoute or UDPRoute, which
// has one rule: nothing would tell for which connections a second one is.
func compileStream(s *routeState, refs []gatewayv1.BackendRef, rules int, res backend.Resolver) *compiled {
	c := &compiled{
		accepted: compile.Condition{True: true, Reason: gatewayv1.RouteReasonAccepted, Message: "the route is accepted"},
		resolved: compile.Condition{True: true, Reason: gatewayv1.RouteReasonResolvedRefs, Message: "all references are resolved"},
		owner:    s.owner(),
	}
	if rules > 1 {
		c.partial = &compile.Condition{True: true, Reason: gatewayv1.RouteReasonUnsupportedValue,
			Message: fmt.Sprintf("Dropped Rules after the first: a %s has one", s.kind)}
	}
	services, clusters := make(set[types.NamespacedName]), make(set[string])
	var messages []string
	for i, ref := range refs {
		b := ingress.StreamBackend{Weight: 1}
		if ref.Weight != nil {
			b.Weight = *ref.Weight
		}
		if service, ok := backend.ServiceOf(s.Namespace, ref.BackendObjectReference); ok {
			services.add(service)
		}
		target, problem := res.Resolve(ref.BackendObjectReference)
		if problem != nil {
			if len(messages) == 0 {
				c.resolved = compile.Condition{Reason: problem.Reason}
			}
			messages = append(messages, fmt.Sprintf("backendRefs[%d]: %s", i, problem.Message))
		} else {
			b.Cluster = target.Cluster
			clusters.add(b.Cluster)
		}
		c.backends = append(c.backends, b)
	}
	if len(messages) > 0 {
		c.resolved.Message = sentence(messages...)
	}
	c.services = slices.SortedFunc(maps.Keys(services), compareNames)
	c.clusters = slices.Sorted(maps.Keys(clusters))
	return c
}

// stream is the route on a TLS, TCP or UDP listener.
func (c *compiled) stream(l *listener, a *attachment) *ingress.StreamRoute {
	r := &ingress.StreamRoute{Owner: c.owner, Terminate: l.protocol == ingress.TLS && !l.passthrough(), Backends: c.backends}
	if l.protocol == ingress.TLS {
		r.Hostnames = a.hosts
	}
	return r
}
