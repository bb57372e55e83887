package mesh

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
)

// Workload is one istio.workload.Workload: a pod, or something that takes
// traffic as a pod does. It is immutable once it has been given to a Store.
type Workload struct {
	// UID is unique in the mesh, by convention
	// "cluster/group/Kind/namespace/name".
	UID            string
	Name           string
	Namespace      string
	ServiceAccount string // "" = default
	TrustDomain    string // "" = cluster.local
	// Hostname is set for workloads that are found by DNS.
	Hostname          string
	Network           string
	Node              string
	ClusterID         string // "" = Kubernetes
	CanonicalName     string
	CanonicalRevision string
	WorkloadName      string
	WorkloadType      WorkloadType
	Addresses         []netip.Addr
	Protocol          Protocol
	NetworkMode       NetworkMode
	// NativeTunnel says that the workload speaks HBONE by itself.
	NativeTunnel bool
	// Waypoint is where traffic addressed to the workload goes first.
	Waypoint *GatewayAddress
	// NetworkGateway is the way in from other networks.
	NetworkGateway    *GatewayAddress
	ApplicationTunnel *ApplicationTunnel
	Locality          Locality
	// Services says which services the workload serves, and on which ports.
	Services map[NamespacedHostname]PortMap
	// AuthorizationPolicies are keys ("namespace/name") of the
	// workload-selector policies that apply.
	AuthorizationPolicies []string
	Status                Health
	// Capacity is the workload's share of traffic relative to other endpoints.
	// nil = 1; 0 = no traffic.
	Capacity *uint32
	// Netns names the network namespace of a local pod, or is a path to it.
	// Not part of WDS.
	Netns string

	id     spiffeid.ID   // set when the Store takes the workload
	expect []spiffeid.ID // {id}
}

// Identity is the SPIFFE ID spiffe://<trust domain>/ns/<namespace>/sa/<service
// account>. The zero ID, which matches nobody, stands for names that no SPIFFE
// ID can hold; a Store refuses such workloads.
func (w *Workload) Identity() spiffeid.ID {
	if !w.id.IsZero() {
		return w.id
	}
	id, _ := w.identity()
	return id
}

func (w *Workload) identity() (spiffeid.ID, error) {
	return identity.WorkloadID(or(w.TrustDomain, "cluster.local"), w.Namespace, or(w.ServiceAccount, "default"))
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func (w *Workload) String() string {
	return fmt.Sprintf("%s/%s (uid %s)", w.Namespace, w.Name, w.UID)
}

// capacity is the weight of the workload among the endpoints of a service.
func (w *Workload) capacity() uint64 {
	if w.Capacity == nil {
		return 1
	}
	return uint64(*w.Capacity)
}

// Protocol is how a workload takes traffic from the mesh.
type Protocol uint8

const (
	TCP   Protocol = iota // plain TCP: not in the mesh
	HBONE                 // mTLS HTTP/2 CONNECT on port 15008
)

func (p Protocol) String() string { return enumName(p, "TCP", "HBONE") }

// NetworkMode says whether a workload has addresses of its own.
type NetworkMode uint8

const (
	Standard NetworkMode = iota
	// HostNetwork workloads share their node's addresses, so they are not
	// found by address.
	HostNetwork
)

func (m NetworkMode) String() string { return enumName(m, "Standard", "HostNetwork") }

// WorkloadType is the kind of object that a workload belongs to.
type WorkloadType uint8

const (
	Deployment WorkloadType = iota
	CronJob
	Pod
	Job
)

func (t WorkloadType) String() string { return enumName(t, "deployment", "cronjob", "pod", "job") }

// Health is the readiness of a workload.
type Health uint8

const (
	Healthy Health = iota
	Unhealthy
)

func (h Health) String() string { return enumName(h, "Healthy", "Unhealthy") }

// Locality is where a workload runs.
type Locality struct{ Region, Zone, Subzone string }

// ApplicationTunnel says that a workload wants its tunnelled traffic handed on
// by another protocol.
type ApplicationTunnel struct {
	Protocol TunnelProtocol
	Port     uint16 // 0 = the port asked for
}

// TunnelProtocol is the protocol of an ApplicationTunnel.
type TunnelProtocol uint8

const (
	TunnelNone TunnelProtocol = iota
	TunnelPROXY
)

func (p TunnelProtocol) String() string { return enumName(p, "NONE", "PROXY") }

// NamespacedHostname is the key of a service.
type NamespacedHostname struct{ Namespace, Hostname string }

func (n NamespacedHostname) String() string { return n.Namespace + "/" + n.Hostname }

// ParseNamespacedHostname reads "namespace/hostname".
func ParseNamespacedHostname(s string) (NamespacedHostname, error) {
	ns, host, ok := strings.Cut(s, "/")
	if !ok || host == "" || strings.Contains(host, "/") {
		return NamespacedHostname{}, fmt.Errorf("%q is not namespace/hostname", s)
	}
	return NamespacedHostname{ns, host}, nil
}

// NetworkAddress is an address in a network; networks may reuse addresses.
type NetworkAddress struct {
	Network string
	Addr    netip.Addr
}

func (a NetworkAddress) String() string { return a.Network + "/" + a.Addr.String() }

// GatewayAddress is where a waypoint or a network gateway is found: by the
// hostname of its service, or by the address of a service or a workload.
// Exactly one of Hostname and Address is set.
type GatewayAddress struct {
	Hostname NamespacedHostname
	Address  NetworkAddress
	// HBONEPort is the port of the gateway that speaks HBONE. 0 = 15008.
	HBONEPort uint16
}

func (g GatewayAddress) String() string {
	if g.Hostname.Hostname != "" {
		return g.Hostname.String()
	}
	return g.Address.String()
}

// PortMap maps the ports of a service to target ports. Target 0 is a named
// port: each endpoint says which port that is.
type PortMap map[uint16]uint16

func enumName[E ~uint8](e E, names ...string) string {
	if int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("unknown(%d)", uint8(e))
}
