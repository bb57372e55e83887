package inspect

import (
	"net/netip"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
)

// Security is what protects a connection on its way.
type Security string

// What protects a connection. "" is not decided yet.
const (
	MutualTLS Security = "mTLS"
	// SameNode connections never leave the agent: it has both sockets, and so
	// is as sure of the identities as certificates would make it.
	SameNode  Security = "same-node"
	Plaintext Security = "plaintext"
)

func securityOf(mode string) Security {
	switch mode {
	case "hbone":
		return MutualTLS
	case "local":
		return SameNode
	}
	return Plaintext
}

// Connection is one live connection, by the agent at one of its ends. GET
// /connections is all of them. One that stays on a node is listed twice, once
// for each end, as is one between the nodes of two agents.
type Connection struct {
	proxy.ConnInfo
	Node string `json:"node,omitempty"`
	// SourcePod and DestinationPod are "namespace/name", or "" for an address
	// of which nothing is known.
	SourcePod      string   `json:"sourcePod,omitempty"`
	DestinationPod string   `json:"destinationPod,omitempty"`
	Security       Security `json:"security,omitempty"`
}

// ListConnections lists the live connections, oldest first.
func (a *Agent) ListConnections() []Connection {
	node := a.info().Node
	infos := a.connections()
	list := make([]Connection, 0, len(infos))
	for _, info := range infos {
		c := Connection{ConnInfo: info, Node: node}
		source := a.Store.Workload(info.Source.Addr())
		destination := a.Store.Workload(info.Destination.Addr())
		if info.Direction == "inbound" {
			destination = a.podOf(info.Pod, destination)
		} else {
			source = a.podOf(info.Pod, source)
			// The address of a service is nobody's; the tunnel goes to somebody.
			if hop, err := netip.ParseAddrPort(info.HBONE); err == nil && destination == nil {
				destination = a.Store.Workload(hop.Addr())
			}
		}
		if source != nil {
			c.SourcePod = nameOf(source)
		}
		if destination != nil {
			c.DestinationPod = nameOf(destination)
		}
		if info.Phase == proxy.PhaseOpen {
			c.Security = securityOf(info.Mode)
		}
		list = append(list, c)
	}
	return list
}

// podOf is the workload that the agent knows to be at its own end.
func (a *Agent) podOf(uid string, byAddress *mesh.Workload) *mesh.Workload {
	if w := a.Store.WorkloadByUID(uid); w != nil {
		return w
	}
	return byAddress
}
