package mesh

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Route is the decision about one outbound connection. It is a value: nothing
// is dialled in making it.
type Route struct {
	Kind RouteKind
	// Service is the service that the destination address belongs to, nil if
	// none.
	Service *Service
	// Hops are the candidates in order of preference, at most MaxHops, each
	// another workload. The next is for when dialling one fails before the
	// first byte. Empty only for RouteRefuse.
	Hops []Hop
	// Reason says why, for RouteRefuse.
	Reason string
}

// MaxHops bounds the candidates of a Route.
const MaxHops = 3

// RouteKind is what becomes of an outbound connection.
type RouteKind uint8

const (
	// RouteRefuse is the zero value, so that a forgotten decision refuses.
	RouteRefuse RouteKind = iota
	// RouteMesh: the destination is known; each Hop says by which protocol.
	RouteMesh
	// RoutePassthrough: plain TCP to the original destination, of which
	// nothing is known.
	RoutePassthrough
)

func (k RouteKind) String() string { return enumName(k, "refuse", "mesh", "passthrough") }

// Hop is one candidate of a Route.
type Hop struct {
	Protocol Protocol
	// Dial is where the TCP connection goes: port 15008 of a pod, a waypoint,
	// or the application's own address.
	Dial netip.AddrPort
	// Authority is the :authority of the CONNECT request, for HBONE.
	Authority string
	// Expect are the identities of which an HBONE peer must prove one. It is
	// shared and must not be changed.
	Expect []spiffeid.ID
	// Workload is the peer, nil if unknown (RoutePassthrough).
	Workload *Workload
	// Waypoint says that the peer is a waypoint of the destination.
	Waypoint bool
}
