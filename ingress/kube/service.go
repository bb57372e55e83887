package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress/gateway"
)

// What marks a Service as ours, and says whose it is. Labels find it; the
// annotation has the name whole, which a label may be too short for.
const (
	labelManaged    = "app.kubernetes.io/managed-by"
	managedBy       = "adit-ingress"
	labelGateway    = "gateway.networking.k8s.io/gateway-name"
	labelNamespace  = "gateway.networking.k8s.io/gateway-namespace"
	labelInstance   = "app.kubernetes.io/instance" // the namespace of the pods: there may be others
	labelRole       = "adit-mesh.github.io/role"
	annotationOwner = "adit-mesh.github.io/gateway"
	annotationSum   = "adit-mesh.github.io/sum"
)

// role is what a Service of ours is for.
type role string

const (
	roleBalancer role = "balancer" // TCP and UDP
	roleUDP      role = "udp"      // UDP, where the balancer does not mix
	roleAlias    role = "alias"    // the name in the Gateway's namespace
)

// settings are those of Services.
type settings struct {
	namespace     string // of the pods
	selector      map[string]string
	clusterDomain string
	separateUDP   bool
	policy        corev1.ServiceExternalTrafficPolicy
	class         string // loadBalancerClass
}

// plan is what a Gateway needs of the cluster.
type plan struct {
	name    types.NamespacedName
	gateway *gatewayv1.Gateway
	ports   []gateway.GatewayPort
	targets map[uint16]uint16 // port: target port
}

// serviceName is the name of a Gateway's Service: readable, unique, and a DNS
// label.
func serviceName(gw types.NamespacedName, r role) string {
	sum := sha256.Sum256([]byte(gw.String()))
	suffix := "-" + hex.EncodeToString(sum[:4])
	if r == roleUDP {
		suffix += "-udp"
	}
	name := strings.ReplaceAll("gw-"+gw.Namespace+"-"+gw.Name, ".", "-")
	return strings.TrimRight(name[:min(len(name), validation.DNS1035LabelMaxLength-len(suffix))], "-") + suffix
}

// aliasName is the name by which pods of its namespace find a Gateway.
func aliasName(gw types.NamespacedName) string {
	const suffix = "-adit"
	name := strings.ReplaceAll(gw.Name, ".", "-")
	if len(name)+len(suffix) > validation.DNS1035LabelMaxLength || name != gw.Name || len(validation.IsDNS1035Label(name)) > 0 {
		sum := sha256.Sum256([]byte(gw.Name))
		tail := "-" + hex.EncodeToString(sum[:4]) + suffix
		name = "gw-" + name
		return strings.TrimRight(name[:min(len(name), validation.DNS1035LabelMaxLength-len(tail))], "-") + tail
	}
	return name + suffix
}

// isOurs says whether a Service is one that the pods of a namespace made, and for
// what.
func isOurs(s *corev1.Service, instance string) (gw types.NamespacedName, r role, ok bool) {
	namespace, name, found := strings.Cut(s.Annotations[annotationOwner], "/")
	if s.Labels[labelManaged] != managedBy || s.Labels[labelInstance] != instance || !found {
		return types.NamespacedName{}, "", false
	}
	return types.NamespacedName{Namespace: namespace, Name: name}, role(s.Labels[labelRole]), true
}

// desired are the Services that a Gateway should have, as they are applied.
func (p *plan) desired(s settings) (all []*corev1.Service) {
	if len(p.ports) == 0 {
		return nil
	}
	var tcp, udp []corev1.ServicePort
	for _, port := range p.ports {
		add := func(name string, protocol corev1.Protocol) corev1.ServicePort {
			out := corev1.ServicePort{Name: name, Protocol: protocol, Port: int32(port.Port)}
			out.TargetPort.IntVal = int32(p.targets[port.Port])
			return out
		}
		switch {
		case port.UDP:
			udp = append(udp, add(port.Name, corev1.ProtocolUDP))
		case port.QUIC:
			udp = append(udp, add(port.Name+"-quic", corev1.ProtocolUDP))
			fallthrough
		default:
			tcp = append(tcp, add(port.Name, corev1.ProtocolTCP))
		}
	}
	switch {
	case !s.separateUDP || len(udp) == 0 || len(tcp) == 0:
		all = append(all, p.balancer(s, roleBalancer, append(tcp, udp...)))
	default:
		all = append(all, p.balancer(s, roleBalancer, tcp), p.balancer(s, roleUDP, udp))
	}
	return append(all, p.alias(s))
}

func (p *plan) balancer(s settings, r role, ports []corev1.ServicePort) *corev1.Service {
	svc := p.service(s, s.namespace, serviceName(p.name, r), r)
	slices.SortFunc(ports, func(a, b corev1.ServicePort) int { return strings.Compare(a.Name, b.Name) })
	policy := corev1.IPFamilyPolicyPreferDualStack
	svc.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: s.selector, Ports: ports,
		IPFamilyPolicy: &policy, ExternalTrafficPolicy: s.policy,
	}
	if s.class != "" {
		svc.Spec.LoadBalancerClass = &s.class
	}
	if static := staticAddresses(p.gateway); len(static) > 0 {
		// Most balancers refuse one address for a Service of two families.
		policy = corev1.IPFamilyPolicySingleStack
		svc.Spec.LoadBalancerIP = static[0]
		if a, err := netip.ParseAddr(static[0]); err == nil {
			family := corev1.IPv4Protocol
			if a.Is6() {
				family = corev1.IPv6Protocol
			}
			svc.Spec.IPFamilies = []corev1.IPFamily{family}
		}
	}
	return svc
}

func (p *plan) alias(s settings) *corev1.Service {
	svc := p.service(s, p.name.Namespace, aliasName(p.name), roleAlias)
	svc.Spec = corev1.ServiceSpec{
		Type:         corev1.ServiceTypeExternalName,
		ExternalName: serviceName(p.name, roleBalancer) + "." + s.namespace + ".svc." + s.clusterDomain,
	}
	// In its own namespace a Gateway can own it, and it goes without us too.
	svc.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: gatewayv1.GroupVersion.String(), Kind: "Gateway", Name: p.name.Name, UID: p.gateway.UID,
	}}
	return svc
}

// service is a Service with the metadata that all of ours have.
func (p *plan) service(s settings, namespace, name string, r role) *corev1.Service {
	svc := &corev1.Service{}
	svc.APIVersion, svc.Kind, svc.Namespace, svc.Name = "v1", "Service", namespace, name
	svc.Labels, svc.Annotations = make(map[string]string), make(map[string]string)
	if i := p.gateway.Spec.Infrastructure; i != nil {
		for k, v := range i.Labels {
			svc.Labels[string(k)] = string(v)
		}
		for k, v := range i.Annotations {
			svc.Annotations[string(k)] = string(v)
		}
	}
	maps.Copy(svc.Labels, map[string]string{
		labelManaged: managedBy, labelInstance: s.namespace, labelRole: string(r), "app.kubernetes.io/part-of": "adit",
		labelGateway: labelValue(p.name.Name), labelNamespace: p.name.Namespace,
	})
	svc.Annotations[annotationOwner] = p.name.String()
	return svc
}

// labelValue cuts a name to what a label holds.
func labelValue(name string) string {
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	tail := "-" + hex.EncodeToString(sum[:4])
	return strings.TrimRight(name[:validation.LabelValueMaxLength-len(tail)], "-.") + tail
}

// staticAddresses are the IP addresses that a Gateway asks for.
func staticAddresses(g *gatewayv1.Gateway) (out []string) {
	for _, a := range g.Spec.Addresses {
		if a.Value != "" && (a.Type == nil || *a.Type == gatewayv1.IPAddressType) {
			out = append(out, a.Value)
		}
	}
	return out
}

// sumOf names what a Service should be, so that a field which is not wanted any
// more is seen to be there.
func sumOf(s *corev1.Service) string {
	raw, err := json.Marshal([]any{s.Labels, s.Annotations, s.OwnerReferences, s.Spec})
	if err != nil {
		return "" // cannot be: it is made of plain values
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// asWanted says whether a Service is as it should be. It may have more labels
// and annotations than ours.
func asWanted(have, want *corev1.Service) bool {
	contains := func(all, some map[string]string) bool {
		for k, v := range some {
			if got, ok := all[k]; !ok || got != v {
				return false
			}
		}
		return true
	}
	return have.Annotations[annotationSum] == sumOf(want) &&
		contains(have.Labels, want.Labels) && contains(have.Annotations, want.Annotations) &&
		have.Spec.Type == want.Spec.Type && have.Spec.ExternalName == want.Spec.ExternalName &&
		maps.Equal(have.Spec.Selector, want.Spec.Selector) &&
		have.Spec.ExternalTrafficPolicy == want.Spec.ExternalTrafficPolicy &&
		have.Spec.LoadBalancerIP == want.Spec.LoadBalancerIP &&
		slices.Equal(portsOf(have), portsOf(want))
}

// portsOf are the ports of a Service in an order of their own.
func portsOf(s *corev1.Service) (out []string) {
	for _, p := range s.Spec.Ports {
		out = append(out, fmt.Sprintf("%s %s %d %s", p.Name, p.Protocol, p.Port, p.TargetPort.String()))
	}
	slices.Sort(out)
	return out
}

// placement is where a Gateway can be reached by what its Services say. services
// has them by role; one that is not there is nil.
func placement(g *gatewayv1.Gateway, services map[role]*corev1.Service, conflict string) gateway.Placement {
	problem := func(reason gatewayv1.GatewayConditionReason, format string, args ...any) *gateway.PlacementProblem {
		return &gateway.PlacementProblem{Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	svc := services[roleBalancer]
	switch {
	case conflict != "":
		return gateway.Placement{Problem: problem(gatewayv1.GatewayReasonNoResources, "%s", conflict)}
	case svc == nil:
		return gateway.Placement{Problem: problem(gatewayv1.GatewayReasonAddressNotAssigned, "the Service for it has not been made yet")}
	}
	assigned := addressesOf(svc)
	if udp := services[roleUDP]; udp != nil {
		for _, a := range addressesOf(udp) {
			if !slices.ContainsFunc(assigned, func(b gatewayv1.GatewayStatusAddress) bool { return a.Value == b.Value }) {
				assigned = append(assigned, a)
			}
		}
	}
	static := staticAddresses(g)
	if len(static) == 0 {
		if len(assigned) == 0 {
			return gateway.Placement{Problem: problem(gatewayv1.GatewayReasonAddressNotAssigned,
				"no address yet for Service %s/%s; is there a load balancer in this cluster? See `kubectl describe service -n %s %s`",
				svc.Namespace, svc.Name, svc.Namespace, svc.Name)}
		}
		return gateway.Placement{Addresses: assigned[:min(len(assigned), maxAddresses)]}
	}
	var p gateway.Placement
	var missing []string
	for _, want := range static {
		i := slices.IndexFunc(assigned, func(a gatewayv1.GatewayStatusAddress) bool { return sameAddress(a.Value, want) })
		if i < 0 {
			missing = append(missing, want)
		} else if len(p.Addresses) < maxAddresses {
			p.Addresses = append(p.Addresses, assigned[i])
		}
	}
	if len(missing) > 0 {
		p.Problem = problem(gatewayv1.GatewayReasonAddressNotUsable,
			"the load balancer of Service %s/%s does not have %s", svc.Namespace, svc.Name, strings.Join(missing, ", "))
	}
	return p
}

// maxAddresses is how many a Gateway's status holds.
const maxAddresses = 16

func sameAddress(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return a == b || errX == nil && errY == nil && x == y
}

func addressesOf(s *corev1.Service) (out []gatewayv1.GatewayStatusAddress) {
	for _, in := range s.Status.LoadBalancer.Ingress {
		ip, host := gatewayv1.IPAddressType, gatewayv1.HostnameAddressType
		if in.IP != "" {
			out = append(out, gatewayv1.GatewayStatusAddress{Type: &ip, Value: in.IP})
		}
		if in.Hostname != "" {
			out = append(out, gatewayv1.GatewayStatusAddress{Type: &host, Value: in.Hostname})
		}
	}
	return out
}

// targetsOf are the target ports that a Service of ours gives ports.
func targetsOf(s *corev1.Service) map[uint16]uint16 {
	out := make(map[uint16]uint16, len(s.Spec.Ports))
	for _, p := range s.Spec.Ports {
		if t := p.TargetPort.IntValue(); t > 0 && t < 65536 && p.Port > 0 && p.Port < 65536 {
			out[uint16(p.Port)] = uint16(t)
		}
	}
	return out
}
