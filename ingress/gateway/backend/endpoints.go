package backend

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// candidates are the endpoints of one address family of a port.
type candidates struct {
	ready []candidate
	// draining are serving, but terminating: better than nobody.
	draining []candidate
}

type candidate struct {
	upstream.Endpoint
	hints *discoveryv1.EndpointHints
}

// endpoints are those that connections to a port go to, each once, in order.
//
// It chooses as kube-proxy does for a ClusterIP: the ready ones, or else those
// that still serve while they terminate. Of a dual-stack Service it takes those
// of the first family that has any, since the same pods stand in both.
func (s *service) endpoints(p *corev1.ServicePort, o Options) []upstream.Endpoint {
	var v4, v6, names candidates
	for _, slice := range s.slices {
		number, ok := targetPort(slice, p)
		if !ok {
			continue
		}
		family := &v4
		switch slice.AddressType {
		case discoveryv1.AddressTypeIPv4:
		case discoveryv1.AddressTypeIPv6:
			family = &v6
		case discoveryv1.AddressTypeFQDN:
			family = &names
		default:
			continue
		}
		for i := range slice.Endpoints {
			family.add(&slice.Endpoints[i], slice.AddressType, number, s.object.Spec.PublishNotReadyAddresses)
		}
	}
	families := []*candidates{&v4, &v6, &names}
	if f := s.object.Spec.IPFamilies; len(f) > 0 && f[0] == corev1.IPv6Protocol {
		families = []*candidates{&v6, &v4, &names}
	}
	var chosen []candidate
	for _, f := range families {
		if len(chosen) == 0 {
			chosen = f.ready
		}
	}
	for _, f := range families {
		if len(chosen) == 0 {
			chosen = f.draining
		}
	}
	if s.locality() == upstream.Anywhere {
		chosen = nearby(chosen, o)
	}
	return sortedEndpoints(chosen)
}

// locality is what a Service's trafficDistribution asks for. The hints that its
// endpoints have for it are not needed then: who picks one knows where each is,
// and goes farther if the near ones fail, which hints do not allow.
func (s *service) locality() upstream.Locality {
	if d := s.object.Spec.TrafficDistribution; d != nil {
		switch *d {
		case corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferClose:
			return upstream.SameZone
		case corev1.ServiceTrafficDistributionPreferSameNode:
			return upstream.SameNode
		}
	}
	return upstream.Anywhere
}

// targetPort is the number that the endpoints of a slice have for a Service's
// port. Slices name their ports as the Service does; a named targetPort has been
// turned into a number there, which may be another in each slice.
func targetPort(slice *discoveryv1.EndpointSlice, p *corev1.ServicePort) (uint16, bool) {
	for i := range slice.Ports {
		sp := &slice.Ports[i]
		name, protocol := "", corev1.ProtocolTCP
		if sp.Name != nil {
			name = *sp.Name
		}
		if sp.Protocol != nil {
			protocol = protocolOf(*sp.Protocol)
		}
		if name != p.Name || protocol != protocolOf(p.Protocol) {
			continue
		}
		number := p.Port
		switch {
		case sp.Port != nil:
			number = *sp.Port
		case p.TargetPort.Type == intstr.Int && p.TargetPort.IntVal != 0:
			number = p.TargetPort.IntVal // the slice is for whatever port
		}
		if number < 1 || number > 65535 {
			return 0, false
		}
		return uint16(number), true
	}
	return 0, false
}

func (c *candidates) add(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, port uint16, publishNotReady bool) {
	if len(e.Addresses) == 0 {
		return
	}
	// Addresses past the first have no meaning (EndpointSlice's documentation).
	var ep upstream.Endpoint
	if kind == discoveryv1.AddressTypeFQDN {
		ep.Host, ep.Port = e.Addresses[0], port
	} else {
		addr, err := netip.ParseAddr(e.Addresses[0])
		if err != nil || addr.Unmap().Is4() != (kind == discoveryv1.AddressTypeIPv4) {
			return
		}
		ep.Addr = netip.AddrPortFrom(addr.Unmap(), port)
	}
	if e.Zone != nil {
		ep.Zone = *e.Zone
	}
	if e.NodeName != nil {
		ep.Node = *e.NodeName
	}
	is := func(b *bool, unset bool) bool {
		if b == nil {
			return unset
		}
		return *b
	}
	switch {
	case is(e.Conditions.Ready, true) || publishNotReady:
		c.ready = append(c.ready, candidate{ep, e.Hints})
	case is(e.Conditions.Serving, true) && is(e.Conditions.Terminating, false):
		c.draining = append(c.draining, candidate{ep, e.Hints})
	}
}

// nearby leaves those that the hints mean for this node, or else for this zone.
// As with kube-proxy hints count only if every endpoint has one and one is for
// here, since otherwise they are being changed.
func nearby(all []candidate, o Options) []candidate {
	here := func(place string, hinted func(*discoveryv1.EndpointHints) []string) []candidate {
		if place == "" {
			return nil
		}
		var near []candidate
		for _, c := range all {
			if c.hints == nil {
				return nil
			}
			places := hinted(c.hints)
			if len(places) == 0 {
				return nil
			}
			if slices.Contains(places, place) {
				near = append(near, c)
			}
		}
		return near
	}
	if near := here(o.Node, hintedNodes); len(near) > 0 {
		return near
	}
	if near := here(o.Zone, hintedZones); len(near) > 0 {
		return near
	}
	return all
}

func hintedNodes(h *discoveryv1.EndpointHints) (names []string) {
	for _, n := range h.ForNodes {
		names = append(names, n.Name)
	}
	return names
}

func hintedZones(h *discoveryv1.EndpointHints) (names []string) {
	for _, z := range h.ForZones {
		names = append(names, z.Name)
	}
	return names
}

// sortedEndpoints makes a list that does not depend on the order of slices. An
// endpoint stands in two of them for a moment while it is moved.
func sortedEndpoints(cs []candidate) []upstream.Endpoint {
	if len(cs) == 0 {
		return nil
	}
	eps := make([]upstream.Endpoint, len(cs))
	for i := range cs {
		eps[i] = cs[i].Endpoint
	}
	slices.SortFunc(eps, func(a, b upstream.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Node, b.Node))
	})
	return slices.CompactFunc(eps, func(a, b upstream.Endpoint) bool {
		return a.Addr == b.Addr && a.Host == b.Host && a.Port == b.Port
	})
}
