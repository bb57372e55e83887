package mesh

import (
	"math"
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var serviceFields = []string{
	"name", "namespace", "hostname", "vips", "ports", "subjectAltNames", "waypoint", "weightedWaypoints",
	"loadBalancer", "ipFamilies", "canonical", "ingressUseWaypoint", "visibility",
}

func (p *worldParser) service(a at) *Service {
	s := &Service{}
	got := p.object(a, serviceFields)
	for _, e := range got {
		v := e.value
		switch e.key {
		case "name":
			s.Name = p.str(v)
		case "namespace":
			s.Namespace = p.str(v)
		case "hostname":
			s.Hostname = strings.ToLower(p.str(v))
		case "vips":
			for _, item := range p.list(v) {
				if vip, ok := p.vip(item); ok {
					p.unique(item, "VIP", vip.String(), "services must not overlap; give each its own address or range")
					s.VIPs = append(s.VIPs, vip)
				}
			}
		case "ports":
			s.Ports = p.ports(v, 0)
		case "subjectAltNames":
			s.SubjectAltNames = p.subjectAltNames(v)
		case "waypoint":
			s.Waypoint = p.gateway(v)
		case "weightedWaypoints":
			for _, item := range p.list(v) {
				s.WeightedWaypoints = append(s.WeightedWaypoints, p.weightedWaypoint(item))
			}
		case "loadBalancer":
			s.LoadBalancing = p.loadBalancer(v)
		case "ipFamilies":
			s.IPFamilies = enum(p, v, enumNames[IPFamilies]{
				{"Dual", DualStack}, {"IPv4", IPv4Only}, {"IPv6", IPv6Only}, {"Automatic", AutomaticFamilies},
				{"IPv4Only", IPv4Only}, {"IPv6Only", IPv6Only}})
		case "canonical":
			s.Canonical = p.boolean(v)
		case "ingressUseWaypoint":
			s.IngressUseWaypoint = p.boolean(v)
		case "visibility":
			s.Visibility = enum(p, v, enumNames[Visibility]{{"Public", Public}, {"Namespace", NamespaceOnly}})
		}
	}
	if !p.require(a, got, "name", "namespace", "hostname") {
		return s
	}
	if s.Hostname == "" {
		p.errorf(at{a.node, a.field("hostname")}, "is empty; write the name that clients use")
	}
	p.unique(a, "service", s.Key().String(), "write its fields once")
	return s
}

// vip reads "network/address" or "network/address/length"; the network may be
// empty.
func (p *worldParser) vip(a at) (VIP, bool) {
	s := p.str(a)
	network, rest, ok := strings.Cut(s, "/")
	if _, err := netip.ParseAddr(network); err == nil {
		p.errorf(a, "%s has no network; write /%s, or the network's name before the slash", quote(s), s)
		return VIP{}, false
	}
	if addr, err := netip.ParseAddr(rest); ok && err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return VIP{network, netip.PrefixFrom(addr, addr.BitLen())}, true
	}
	if prefix, err := netip.ParsePrefix(rest); ok && err == nil {
		if prefix != prefix.Masked() {
			p.errorf(a, "%s has bits beyond its length; write %s", quote(s), VIP{network, prefix.Masked()})
			return VIP{}, false
		}
		return VIP{network, prefix}, true
	}
	if s != "" {
		p.errorf(a, "%s is not a VIP; write network/address or network/address/length, the network may be empty: /10.1.0.1", quote(s))
	}
	return VIP{}, false
}

func (p *worldParser) weightedWaypoint(a at) WeightedWaypoint {
	var w WeightedWaypoint
	got := p.object(a, []string{"destination", "weight"})
	for _, e := range got {
		switch e.key {
		case "destination":
			if g := p.gateway(e.value); g != nil {
				w.Destination = *g
			} else {
				p.errorf(e.value, "has no value; write a gateway")
			}
		case "weight":
			w.Weight = uint32(p.number(e.value, 0, math.MaxUint32))
		}
	}
	p.require(a, got, "destination", "weight")
	return w
}

func (p *worldParser) loadBalancer(a at) LoadBalancing {
	var lb LoadBalancing
	for _, e := range p.object(a, []string{"routingPreferences", "mode", "healthPolicy"}) {
		switch e.key {
		case "routingPreferences":
			for _, item := range p.list(e.value) {
				lb.RoutingPreference = append(lb.RoutingPreference, enum(p, item, enumNames[LocalityScope]{
					{"Region", ScopeRegion}, {"Zone", ScopeZone}, {"Subzone", ScopeSubzone},
					{"Node", ScopeNode}, {"Cluster", ScopeCluster}, {"Network", ScopeNetwork}}))
			}
		case "mode":
			lb.Mode = enum(p, e.value, enumNames[LoadBalancingMode]{
				{"Standard", ModeStandard}, {"Strict", ModeStrict}, {"Failover", ModeFailover},
				{"Passthrough", ModePassthrough}, {"UnspecifiedMode", ModeStandard}})
		case "healthPolicy":
			lb.HealthPolicy = enum(p, e.value, enumNames[HealthPolicy]{{"OnlyHealthy", OnlyHealthy}, {"AllowAll", AllowAll}})
		}
	}
	if (lb.Mode == ModeStrict || lb.Mode == ModeFailover) && len(lb.RoutingPreference) == 0 {
		p.errorf(a, "mode %s compares localities, but routingPreferences is empty; list scopes such as Region, Zone", lb.Mode)
	}
	return lb
}

func (p *worldParser) subjectAltNames(a at) []string {
	items := p.list(a)
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = p.str(item)
		if strings.HasPrefix(out[i], "spiffe:") {
			if _, err := spiffeid.FromString(out[i]); err != nil {
				p.errorf(item, "%s is not a SPIFFE ID: %v", quote(out[i]), err)
			}
		}
	}
	return out
}
