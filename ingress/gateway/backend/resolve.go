package backend

import (
	"fmt"

	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Problem is why a reference leads nowhere, for the condition ResolvedRefs.
type Problem struct {
	Reason  gatewayv1.RouteConditionReason
	Message string
}

// ReasonInvalidTLSPolicy is the reason of a Problem if a BackendTLSPolicy asks
// for what cannot be had. Gateway API has no reason for it.
const ReasonInvalidTLSPolicy gatewayv1.RouteConditionReason = "InvalidBackendTLSPolicy"

func problem(reason gatewayv1.RouteConditionReason, format string, args ...any) *Problem {
	return &Problem{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// From is the route that refers to a backend.
type From struct {
	Kind      gatewayv1.Kind // HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute
	Namespace string
	// Gateway is the one whose client certificate is presented. The zero value,
	// or a Gateway that has none, shares clusters with every other such.
	Gateway types.NamespacedName
	// Passthrough is a TLSRoute whose TLS does not end here: a BackendTLSPolicy
	// does not apply to it, nor to TCPRoute and UDPRoute.
	Passthrough bool
}

func (f From) use() use {
	switch f.Kind {
	case "GRPCRoute":
		return forGRPC
	case "UDPRoute":
		return forUDP
	case "TCPRoute":
		return forBytes
	case "TLSRoute":
		if f.Passthrough {
			return forBytes
		}
		return forStream
	}
	return forHTTP
}

// Target is what a reference leads to.
type Target struct {
	Cluster string // key for Index.Cluster
	// UpgradeHTTP1 says that WebSockets go to it over HTTP/1.1.
	UpgradeHTTP1 bool
}

// ServiceOf is the Service that ref, in a route of that namespace, names, whether
// it exists or not; false if ref names something else.
func ServiceOf(namespace string, ref gatewayv1.BackendObjectReference) (types.NamespacedName, bool) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Service" {
		return types.NamespacedName{}, false
	}
	if ref.Namespace != nil && *ref.Namespace != "" {
		namespace = string(*ref.Namespace)
	}
	return types.NamespacedName{Namespace: namespace, Name: string(ref.Name)}, true
}

// Resolve finds what ref, in a route, leads to. The Service that it names is
// ServiceOf(from.Namespace, ref).
func (x *Index) Resolve(from From, ref gatewayv1.BackendObjectReference) (Target, *Problem) {
	name, ok := ServiceOf(from.Namespace, ref)
	if !ok {
		group, kind := "core", "Service"
		if ref.Group != nil && *ref.Group != "" {
			group = string(*ref.Group)
		}
		if ref.Kind != nil {
			kind = string(*ref.Kind)
		}
		return Target{}, problem(gatewayv1.RouteReasonInvalidKind, "backend %s is of kind %s of group %s; only Service of the core group is supported", ref.Name, kind, group)
	}
	// Asked before whether it exists: who may not refer to it is not told.
	if !x.Permits(
		Referrer{Group: gatewayv1.GroupName, Kind: from.Kind, Namespace: from.Namespace},
		Referent{Kind: "Service", Namespace: name.Namespace, Name: name.Name},
	) {
		return Target{}, problem(gatewayv1.RouteReasonRefNotPermitted, "no ReferenceGrant in namespace %s permits %ss of namespace %s to refer to Service %s",
			name.Namespace, from.Kind, from.Namespace, name.Name)
	}
	s := x.services[name]
	if s == nil || s.object == nil {
		return Target{}, problem(gatewayv1.RouteReasonBackendNotFound, "there is no Service %s", name)
	}
	return x.resolvePort(s, from, ref.Port)
}

func (x *Index) resolvePort(s *service, from From, number *gatewayv1.PortNumber) (Target, *Problem) {
	if s.object.Spec.Type == corev1.ServiceTypeExternalName {
		return Target{}, problem(gatewayv1.RouteReasonBackendNotFound, "Service %s is of type ExternalName, which is not supported: it could lead anywhere (CVE-2021-25740)", s.name)
	}
	if number == nil {
		return Target{}, problem(gatewayv1.RouteReasonBackendNotFound, "the reference to Service %s names no port", s.name)
	}
	v := variant{use: from.use(), port: *number}
	p := s.port(v.port, v.protocol())
	if p == nil {
		for _, other := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
			if s.port(v.port, other) != nil {
				return Target{}, problem(gatewayv1.RouteReasonUnsupportedProtocol, "port %d of Service %s is %s, and %ss need %s", v.port, s.name, other, from.Kind, v.protocol())
			}
		}
		return Target{}, problem(gatewayv1.RouteReasonBackendNotFound, "Service %s has no port %d", s.name, v.port)
	}
	app, known := applicationOf(p)
	isHTTP := v.use == forHTTP || v.use == forGRPC
	if isHTTP && !known || v.use == forGRPC && app.upgrade {
		return Target{}, problem(gatewayv1.RouteReasonUnsupportedProtocol, "port %d of Service %s has appProtocol %q, which %ss cannot speak", v.port, s.name, *p.AppProtocol, from.Kind)
	}
	if v.use != forBytes && v.use != forUDP {
		policy := s.policyFor(p)
		switch {
		case policy != nil:
			if why := x.evaluate(policy).invalid; why != "" {
				return Target{}, problem(ReasonInvalidTLSPolicy, "BackendTLSPolicy %s, which is about port %d of Service %s, cannot be met: %s", policy.name(), v.port, s.name, why)
			}
			if x.clients[from.Gateway] != nil {
				v.gateway = from.Gateway
			}
		case isHTTP && app.tls:
			return Target{}, problem(gatewayv1.RouteReasonUnsupportedProtocol,
				"port %d of Service %s has appProtocol %q, which is spoken over TLS, but no BackendTLSPolicy says how to verify it", v.port, s.name, *p.AppProtocol)
		case v.use == forStream:
			v.use = forBytes // the same cluster as without TLSRoute
		}
	}
	if v.use == forGRPC && app.protocol == upstream.H2 {
		v.use = forHTTP // likewise
	}
	return Target{Cluster: s.cluster(v), UpgradeHTTP1: app.upgrade && isHTTP}, nil
}

// cluster has a cluster made for a variant, and returns its key.
func (s *service) cluster(v variant) string {
	key := v.key(s.name)
	if s.clusters[key] == nil {
		if s.clusters == nil {
			s.clusters = make(map[string]*cluster)
		}
		s.clusters[key] = &cluster{variant: v, stale: true}
	}
	return key
}

// For makes a compile.Resolver for the references of a route.
func (x *Index) For(from From) Resolver { return Resolver{x, from} }

// Resolver resolves the references of one route.
type Resolver struct {
	index *Index
	from  From
}

// Resolve finds what ref leads to.
func (r Resolver) Resolve(ref gatewayv1.BackendObjectReference) (Target, *Problem) {
	return r.index.Resolve(r.from, ref)
}
