package compile

import (
	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Resolver finds what a route's references lead to. backend.Index.For makes one.
// A route that is attached to a Gateway with a client certificate for backends
// has to be compiled for that Gateway by itself, with backend.From.Gateway.
type Resolver interface {
	Resolve(ref gatewayv1.BackendObjectReference) (backend.Target, *backend.Problem)
}

// Compiled is what a route comes to, whatever it is attached to.
type Compiled struct {
	// Hostnames are in lower case. None: any.
	Hostnames []string
	// Entries lack Host. They are to be served even if Accepted is not true: a
	// rule whose filters cannot be carried out answers 500 rather than leave its
	// requests to a less specific rule.
	Entries []route.Entry[*proxy.Rule]
	// Accepted is true unless no rule at all can be carried out. Attachment may
	// still make it false.
	Accepted     Condition
	ResolvedRefs Condition
	// PartiallyInvalid is nil unless some rules, not all, cannot be carried out.
	PartiallyInvalid *Condition
	// Services are those that the route refers to, existing or not, each once, in
	// order of name: if one of them is among backend.Changes.Services, or one in
	// another namespace among Changes.Grants, the route has to be compiled again.
	Services []types.NamespacedName
	// Clusters are the keys that the rules use, each once, in order.
	Clusters []string
}

// Condition is a condition of a route without its type.
type Condition struct {
	True    bool
	Reason  gatewayv1.RouteConditionReason
	Message string
}

// HTTPRoute compiles an HTTPRoute.
func HTTPRoute(r *gatewayv1.HTTPRoute, res Resolver) Compiled { return Compiled{} }

// GRPCRoute compiles a GRPCRoute.
func GRPCRoute(r *gatewayv1.GRPCRoute, res Resolver) Compiled { return Compiled{} }
