package kube

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/adit-mesh/adit/agent/mesh"
)

// endpointSlice is what is kept of an EndpointSlice of a Service. It never
// changes once others can see it, but for the memory of portMap, which is the
// world's.
type endpointSlice struct {
	key
	service   string
	ports     []slicePort // TCP only
	endpoints []endpoint

	mapped  *service // what the following was made for
	portsOf mesh.PortMap
	onlyOf  map[mesh.NamespacedHostname]mesh.PortMap
}

type slicePort struct {
	name string
	port uint16
}

// endpoint is one address in a slice.
type endpoint struct {
	addr  netip.Addr
	pod   string // name of the pod behind it, "" = none that Kubernetes knows
	ready bool
}

// newSlice takes from s what is used; nil for slices of no service and of
// names instead of addresses.
func newSlice(s *discoveryv1.EndpointSlice) *endpointSlice {
	svc := s.Labels[discoveryv1.LabelServiceName]
	if svc == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	r := &endpointSlice{key: keyOf(&s.ObjectMeta), service: svc}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP || p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		sp := slicePort{port: uint16(*p.Port)}
		if p.Name != nil {
			sp.name = *p.Name
		}
		r.ports = append(r.ports, sp)
	}
	slices.SortFunc(r.ports, func(a, b slicePort) int { return strings.Compare(a.name, b.name) })
	r.endpoints = make([]endpoint, 0, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		// Further addresses would be of the same endpoint, and nobody but the
		// first is consumed by Kubernetes itself.
		if len(e.Addresses) == 0 {
			continue
		}
		a, ok := parseAddr(e.Addresses[0])
		if !ok {
			continue
		}
		// Unknown is to be taken as ready.
		r2 := endpoint{addr: a, ready: e.Conditions.Ready == nil || *e.Conditions.Ready}
		if t := e.TargetRef; t != nil && t.Kind == "Pod" && (t.Namespace == "" || t.Namespace == s.Namespace) {
			r2.pod = t.Name
		}
		r.endpoints = append(r.endpoints, r2)
	}
	return r
}

// portMap maps the ports of svc to those of the slice's endpoints. The map is
// shared by all of them.
func (s *endpointSlice) portMap(svc *service) mesh.PortMap {
	if s.mapped == svc {
		return s.portsOf
	}
	m := make(mesh.PortMap, len(svc.ports))
	for _, p := range svc.ports {
		i, ok := slices.BinarySearchFunc(s.ports, p.name, func(sp slicePort, name string) int { return strings.Compare(sp.name, name) })
		if ok {
			m[p.port] = s.ports[i].port
		}
	}
	s.mapped, s.portsOf = svc, m
	s.onlyOf = map[mesh.NamespacedHostname]mesh.PortMap{svc.hostname: m}
	return m
}

// only are the services of an endpoint that is in no other slice. The map is
// shared, which for most endpoints saves one.
func (s *endpointSlice) only(svc *service) map[mesh.NamespacedHostname]mesh.PortMap {
	s.portMap(svc)
	return s.onlyOf
}

// samePorts reports whether two slices serve one service on the same ports, so
// that only endpoints which differ are concerned.
func (s *endpointSlice) samePorts(o *endpointSlice) bool {
	return s.service == o.service && slices.Equal(s.ports, o.ports)
}

// join are the ports of an endpoint that is in two slices of one service, one
// for each address family.
func join(a, b mesh.PortMap) mesh.PortMap {
	if a == nil || maps.Equal(a, b) {
		return b
	}
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}
