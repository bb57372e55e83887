package kube

import (
	"net/netip"
	"slices"
	"strings"

	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/adit-mesh/adit/agent/mesh"
)

// service is what is kept of a Service. It never changes once others can see
// it.
type service struct {
	key
	vips         []netip.Addr
	ports        []servicePort // TCP only, as is the mesh
	external     string        // of type ExternalName: the name it stands for
	selects      bool          // has a selector
	notReady     bool          // publishNotReadyAddresses
	nodeLocal    bool          // internalTrafficPolicy: Local
	distribution distribution
	families     mesh.IPFamilies
	hostname     mesh.NamespacedHostname // as the mesh knows it
}

type servicePort struct {
	name   string
	port   uint16
	target uint16 // 0 = a named port, which each endpoint resolves
}

// distribution is a preference for near endpoints.
type distribution uint8

const (
	noPreference distribution = iota
	sameZone
	sameNode
	anyEndpoint // asked for, so that a namespace's preference does not apply
)

func newService(s *corev1.Service, clusterDomain string) *service {
	r := &service{
		key:          keyOf(&s.ObjectMeta),
		selects:      len(s.Spec.Selector) > 0,
		notReady:     s.Spec.PublishNotReadyAddresses,
		distribution: distributionOf(s.Spec.TrafficDistribution, s.Annotations),
	}
	r.hostname = mesh.NamespacedHostname{
		Namespace: s.Namespace,
		Hostname:  hostname(r.key, clusterDomain),
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		r.external = s.Spec.ExternalName
		return r
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil {
		r.nodeLocal = *p == corev1.ServiceInternalTrafficPolicyLocal
	}
	for _, ip := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
		r.addVIP(ip)
	}
	for i := range s.Status.LoadBalancer.Ingress {
		// With mode Proxy the nodes leave the address to the load balancer, and
		// so must the mesh.
		in := &s.Status.LoadBalancer.Ingress[i]
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			r.addVIP(in.IP)
		}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol != corev1.ProtocolTCP && p.Protocol != "" || p.Port < 1 || p.Port > 65535 {
			continue
		}
		sp := servicePort{name: p.Name, port: uint16(p.Port)}
		switch {
		case !r.selects || p.TargetPort.Type == intstr.String:
			// Whoever wrote the endpoints says which port it is.
		case p.TargetPort.IntVal >= 1 && p.TargetPort.IntVal <= 65535:
			sp.target = uint16(p.TargetPort.IntVal)
		case p.TargetPort.IntVal == 0:
			sp.target = sp.port
		}
		r.ports = append(r.ports, sp)
	}
	switch f := s.Spec.IPFamilies; {
	case len(f) == 2:
		r.families = mesh.DualStack
	case len(f) == 1 && f[0] == corev1.IPv4Protocol:
		r.families = mesh.IPv4Only
	case len(f) == 1 && f[0] == corev1.IPv6Protocol:
		r.families = mesh.IPv6Only
	}
	return r
}

// hostname is the name of a Service in DNS.
func hostname(k key, clusterDomain string) string {
	return k.name + "." + k.namespace + ".svc." + clusterDomain
}

func (s *service) addVIP(ip string) {
	if a, ok := parseAddr(ip); ok && !slices.Contains(s.vips, a) {
		s.vips = append(s.vips, a)
	}
}

// distributionOf reads the preference of a service or, by annotation alone, of
// a namespace.
func distributionOf(spec *string, annotations map[string]string) distribution {
	if spec != nil {
		switch *spec {
		case corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferClose:
			return sameZone
		case corev1.ServiceTrafficDistributionPreferSameNode:
			return sameNode
		}
	}
	switch v := strings.ToLower(annotations[annotation.NetworkingTrafficDistribution.Name]); v {
	case "":
		return noPreference
	case "prefersamezone", "preferclose":
		return sameZone
	case "prefersamenode":
		return sameNode
	default:
		return anyEndpoint
	}
}

// inMesh reports whether the service has endpoints that the mesh can choose
// from. One of type ExternalName is a name in DNS and nothing else: its clients
// connect to what that name resolves to.
func (s *service) inMesh() bool { return s.external == "" }

// build makes the mesh's service. inherited is the namespace's preference.
func (s *service) build(network string, inherited distribution) *mesh.Service {
	m := &mesh.Service{
		Name:          s.name,
		Namespace:     s.namespace,
		Hostname:      s.hostname.Hostname,
		Ports:         make(mesh.PortMap, len(s.ports)),
		IPFamilies:    s.families,
		Canonical:     true, // nobody else may take a Service's name
		LoadBalancing: s.loadBalancing(inherited),
	}
	for _, a := range s.vips {
		m.VIPs = append(m.VIPs, mesh.VIP{Network: network, Prefix: netip.PrefixFrom(a, a.BitLen())})
	}
	for _, p := range s.ports {
		m.Ports[p.port] = p.target
	}
	return m
}

func (s *service) loadBalancing(inherited distribution) mesh.LoadBalancing {
	var lb mesh.LoadBalancing
	if s.notReady {
		lb.HealthPolicy = mesh.AllowAll
	}
	if s.nodeLocal {
		lb.Mode, lb.RoutingPreference = mesh.ModeStrict, []mesh.LocalityScope{mesh.ScopeNode}
		return lb
	}
	d := s.distribution
	if d == noPreference {
		d = inherited
	}
	switch d {
	case sameZone:
		lb.Mode = mesh.ModeFailover
		lb.RoutingPreference = []mesh.LocalityScope{mesh.ScopeNetwork, mesh.ScopeRegion, mesh.ScopeZone}
	case sameNode:
		lb.Mode = mesh.ModeFailover
		lb.RoutingPreference = []mesh.LocalityScope{
			mesh.ScopeNetwork, mesh.ScopeRegion, mesh.ScopeZone, mesh.ScopeSubzone, mesh.ScopeNode,
		}
	}
	return lb
}
