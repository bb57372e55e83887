package mesh

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Service is one istio.workload.Service. It is immutable once it has been
// given to a Store.
type Service struct {
	Name      string
	Namespace string
	Hostname  string
	VIPs      []VIP
	// Ports maps the ports of the service to the default target ports.
	Ports PortMap
	// SubjectAltNames are accepted of the service's endpoints beside their own
	// identities. Only SPIFFE IDs have an effect.
	SubjectAltNames []string
	// Waypoint is where traffic addressed to the service goes first.
	Waypoint *GatewayAddress
	// WeightedWaypoints share the traffic; they come before Waypoint.
	WeightedWaypoints []WeightedWaypoint
	LoadBalancing     LoadBalancing
	IPFamilies        IPFamilies
	// Canonical services win over others of the same hostname or VIP.
	Canonical          bool
	IngressUseWaypoint bool
	Visibility         Visibility

	sans []spiffeid.ID // SubjectAltNames, parsed when the Store takes the service
}

// Key identifies the service.
func (s *Service) Key() NamespacedHostname { return NamespacedHostname{s.Namespace, s.Hostname} }

// VIP is a virtual address of a service, or a whole range of them.
type VIP struct {
	Network string
	Prefix  netip.Prefix
}

func (v VIP) String() string {
	if v.Prefix.IsSingleIP() {
		return v.Network + "/" + v.Prefix.Addr().String()
	}
	return v.Network + "/" + v.Prefix.String()
}

// WeightedWaypoint is a waypoint that takes a share of a service's traffic.
type WeightedWaypoint struct {
	Destination GatewayAddress
	Weight      uint32
}

// LoadBalancing says which endpoints of a service are candidates.
type LoadBalancing struct {
	// RoutingPreference orders the scopes that STRICT and FAILOVER compare.
	RoutingPreference []LocalityScope
	Mode              LoadBalancingMode
	HealthPolicy      HealthPolicy
}

// LocalityScope is a property of a workload that locality modes compare.
type LocalityScope uint8

const (
	_ LocalityScope = iota
	ScopeRegion
	ScopeZone
	ScopeSubzone
	ScopeNode
	ScopeCluster
	ScopeNetwork
)

func (s LocalityScope) String() string {
	return enumName(s, "unspecified", "Region", "Zone", "Subzone", "Node", "Cluster", "Network")
}

// LoadBalancingMode is how locality counts.
type LoadBalancingMode uint8

const (
	// ModeStandard takes any endpoint.
	ModeStandard LoadBalancingMode = iota
	// ModeStrict takes endpoints that share every scope with the source.
	ModeStrict
	// ModeFailover prefers the endpoints that share the longest prefix of the
	// scopes with the source.
	ModeFailover
	// ModePassthrough dials the original destination.
	ModePassthrough
)

func (m LoadBalancingMode) String() string {
	return enumName(m, "Standard", "Strict", "Failover", "Passthrough")
}

// HealthPolicy says whether unhealthy endpoints take traffic.
type HealthPolicy uint8

const (
	OnlyHealthy HealthPolicy = iota
	AllowAll
)

func (p HealthPolicy) String() string { return enumName(p, "OnlyHealthy", "AllowAll") }

// IPFamilies are the address families of a service.
type IPFamilies uint8

const (
	AutomaticFamilies IPFamilies = iota
	IPv4Only
	IPv6Only
	DualStack
)

func (f IPFamilies) String() string { return enumName(f, "Automatic", "IPv4", "IPv6", "Dual") }

func (f IPFamilies) accepts(a netip.Addr) bool {
	switch f {
	case IPv4Only:
		return a.Is4()
	case IPv6Only:
		return a.Is6()
	}
	return true
}

// Visibility says who may address a service.
type Visibility uint8

const (
	Public Visibility = iota
	// NamespaceOnly services exist for the workloads of their namespace.
	NamespaceOnly
)

func (v Visibility) String() string { return enumName(v, "Public", "Namespace") }

func (s *Service) visibleFrom(namespace string) bool {
	return s.Visibility != NamespaceOnly || s.Namespace == namespace
}
