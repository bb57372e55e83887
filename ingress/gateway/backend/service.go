package backend

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// service is all that is known of a Service by its name. It may have endpoints
// and policies before it exists.
type service struct {
	name     types.NamespacedName
	object   *corev1.Service // nil: there is none
	slices   map[types.NamespacedName]*discoveryv1.EndpointSlice
	policies map[types.NamespacedName]*policy
	clusters map[string]*cluster // those that Resolve gave, by key
}

// port finds a port by its number and protocol.
func (s *service) port(number int32, protocol corev1.Protocol) *corev1.ServicePort {
	if s.object == nil {
		return nil
	}
	for i := range s.object.Spec.Ports {
		if p := &s.object.Spec.Ports[i]; p.Port == number && protocolOf(p.Protocol) == protocol {
			return p
		}
	}
	return nil
}

func protocolOf(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// dropClustersOfMissingPorts keeps the map from growing with the ports that a
// Service had in its life.
func (s *service) dropClustersOfMissingPorts() {
	for key, c := range s.clusters {
		if s.port(c.port, c.protocol()) == nil {
			delete(s.clusters, key)
		}
	}
}

// sameReferents says whether references resolve alike to both: what a port is
// backed by does not matter.
func sameReferents(a, b *corev1.ServiceSpec) bool {
	if (a.Type == corev1.ServiceTypeExternalName) != (b.Type == corev1.ServiceTypeExternalName) || len(a.Ports) != len(b.Ports) {
		return false
	}
	for i := range a.Ports {
		p, q := a.Ports[i], b.Ports[i]
		if p.Name != q.Name || p.Port != q.Port || protocolOf(p.Protocol) != protocolOf(q.Protocol) || !reflect.DeepEqual(p.AppProtocol, q.AppProtocol) {
			return false
		}
	}
	return true
}

// sameEndpoints says whether two states of an EndpointSlice have the same
// endpoints: the rest of it, such as annotations, changes with no effect here.
func sameEndpoints(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType && reflect.DeepEqual(a.Ports, b.Ports) && reflect.DeepEqual(a.Endpoints, b.Endpoints)
}
