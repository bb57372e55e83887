package backend

import (
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

// Target is what a reference leads to.
type Target struct {
	Cluster string // key for Index.Cluster
	// UpgradeHTTP1 says that WebSockets go to it over HTTP/1.1.
	UpgradeHTTP1 bool
}

// Resolve finds what ref, in a route, leads to. The Service that it names is
// ServiceOf(from.Namespace, ref).
func (x *Index) Resolve(from From, ref gatewayv1.BackendObjectReference) (Target, *Problem) {
	return Target{}, &Problem{}
}

// ServiceOf is the Service that ref names, whether it exists or not; false if
// ref names something else.
func ServiceOf(namespace string, ref gatewayv1.BackendObjectReference) (types.NamespacedName, bool) {
	return types.NamespacedName{}, false
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
