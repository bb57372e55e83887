package gateway

import (
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Status is what an object's status should say, as far as it is ours to say.
// Exactly one of the fields after Generation is set, depending on Kind; it may
// be shared with earlier answers, and is not to be changed.
type Status struct {
	Kind, Namespace, Name string
	UID                   types.UID // "" for an object of a file
	// Generation is that of the object which the status is about.
	Generation int64

	// Controllers are the names that entries of Parents and Ancestors which are
	// ours can have, for those two.
	Controllers []string

	Class       *gatewayv1.GatewayClassStatus
	Gateway     *gatewayv1.GatewayStatus
	ListenerSet *gatewayv1.ListenerSetStatus
	// Parents are our entries of a route. Empty: those that are there are to be
	// removed.
	Parents []gatewayv1.RouteParentStatus
	// Ancestors are our entries of a policy, likewise.
	Ancestors []gatewayv1.PolicyAncestorStatus
}

// Placement is where clients reach a Gateway.
type Placement struct {
	Addresses []gatewayv1.GatewayStatusAddress
	// Problem is why not all that was asked for is so. nil: it is.
	Problem *PlacementProblem
}

// PlacementProblem is a reason of the condition Programmed: AddressNotUsable,
// AddressNotAssigned, NoResources or Pending.
type PlacementProblem struct {
	Reason  gatewayv1.GatewayConditionReason
	Message string
}

// GatewayPort is a port that whatever stands before this gateway has to pass on
// for a Gateway.
type GatewayPort struct {
	Name string // unique among those of the Gateway; a DNS label of at most 15 characters
	Port uint16
	UDP  bool
	// QUIC says that the port is mirrored: UDP with the same number is to be
	// passed on as well.
	QUIC bool
}
