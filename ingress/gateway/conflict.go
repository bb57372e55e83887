package gateway

import (
	"fmt"

	"github.com/adit-mesh/adit/ingress"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// transport is what listeners must have in common to share a port: how a client's
// first bytes are read. Those of TLS, HTTPS among them, are told apart by SNI.
type transport uint8

const (
	noTransport transport = iota // of a port on which listeners contradict each other
	plainHTTP
	overTLS
	plainTCP
	datagrams
)

func (l *listener) transport() transport {
	switch l.protocol {
	case ingress.HTTP:
		return plainHTTP
	case ingress.HTTPS, ingress.TLS:
		return overTLS
	case ingress.TCP:
		return plainTCP
	}
	return datagrams
}

type portKey struct {
	port uint16
	udp  bool
}

// occupied is what the listeners with precedence have made of a port.
type occupied struct {
	transport transport
	hosts     map[string]ingress.Protocol
}

// findConflicts marks listeners that are not distinct. owners are in order of
// precedence: between two of them the first keeps what it has; within one of them
// there is no winner ("the implementation MUST NOT pick one conflicting Listener
// as the winner", GatewaySpec).
func findConflicts(owners []*owner) {
	ports := make(map[portKey]*occupied)
	for _, o := range owners {
		groups := make(map[portKey][]*listener)
		var order []portKey
		for _, l := range o.listeners {
			if l.accepted.reason == string(gatewayv1.ListenerReasonUnsupportedProtocol) {
				continue
			}
			key := portKey{l.port, l.udp}
			if groups[key] == nil {
				order = append(order, key)
			}
			groups[key] = append(groups[key], l)
		}
		for _, key := range order {
			if ports[key] == nil {
				ports[key] = &occupied{transport: common(groups[key]), hosts: make(map[string]ingress.Protocol)}
			}
			ports[key].take(groups[key])
		}
	}
}

// common is the transport of all listeners of a port, noTransport if they differ.
func common(group []*listener) transport {
	for _, l := range group {
		if l.transport() != group[0].transport() {
			return noTransport
		}
	}
	return group[0].transport()
}

// take adds the listeners that one owner has on a port.
func (p *occupied) take(group []*listener) {
	own := make(map[string]*listener)
	for _, l := range group {
		if l.transport() != p.transport {
			l.conflict = because(gatewayv1.ListenerReasonProtocolConflict,
				fmt.Sprintf("port %d is used with another protocol than %s by another listener", l.port, l.spec.Protocol))
			continue
		}
		if protocol, taken := p.hosts[l.host]; taken {
			l.conflict = l.sameHost(protocol)
			continue
		}
		if other := own[l.host]; other != nil {
			l.conflict, other.conflict = l.sameHost(other.protocol), other.sameHost(l.protocol)
			continue
		}
		own[l.host] = l
	}
	for host, l := range own {
		p.hosts[host] = l.protocol
	}
}

// sameHost is the conflict with a listener of the same port and hostname.
func (l *listener) sameHost(protocol ingress.Protocol) verdict {
	switch {
	case l.protocol == ingress.TCP || l.protocol == ingress.UDP:
		return because(gatewayv1.ListenerReasonProtocolConflict,
			fmt.Sprintf("port %d has another %s listener, and nothing tells their clients apart", l.port, l.spec.Protocol))
	case l.protocol != protocol:
		return because(gatewayv1.ListenerReasonProtocolConflict,
			fmt.Sprintf("port %d has a listener of another protocol for %s", l.port, quoteHost(l.host)))
	}
	return because(gatewayv1.ListenerReasonHostnameConflict,
		fmt.Sprintf("port %d has another listener for %s", l.port, quoteHost(l.host)))
}

func quoteHost(host string) string {
	if host == "" {
		return "any hostname"
	}
	return fmt.Sprintf("hostname %q", host)
}
