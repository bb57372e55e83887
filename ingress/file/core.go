package file

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/adit-mesh/adit/ingress/file/schema"
)

// What an API server fills in, and refuses, in the kinds of its own that the
// edge reads.

func wrong(format string, path []any, args ...any) schema.Problem {
	return schema.Problem{Path: path, Message: fmt.Sprintf(format, args...)}
}

func finishNamespace(o object) []schema.Problem {
	n := o.(*corev1.Namespace)
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = make(map[string]string, 1)
	}
	labels[corev1.LabelMetadataName] = n.Name
	n.Labels = labels
	return nil
}

func finishService(o object) (bad []schema.Problem) {
	s := o.(*corev1.Service)
	if s.Spec.Type == "" {
		s.Spec.Type = corev1.ServiceTypeClusterIP
	}
	names := make(map[string]bool, len(s.Spec.Ports))
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
		at := []any{"spec", "ports", i}
		if p.Port < 1 || p.Port > 65535 {
			bad = append(bad, wrong("is %d, want 1 to 65535", append(at, "port"), p.Port))
		}
		if len(s.Spec.Ports) > 1 && p.Name == "" {
			bad = append(bad, wrong("is required of a Service with several ports", append(at, "name")))
		} else if names[p.Name] {
			bad = append(bad, wrong("%q is there twice", append(at, "name"), p.Name))
		}
		names[p.Name] = true
	}
	return bad
}

func finishSlice(o object) (bad []schema.Problem) {
	s := o.(*discoveryv1.EndpointSlice)
	if s.Labels[discoveryv1.LabelServiceName] == "" {
		bad = append(bad, wrong("is required: it names the Service whose endpoints these are", []any{"metadata", "labels", discoveryv1.LabelServiceName}))
	}
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		bad = append(bad, wrong("is required: IPv4, IPv6 or FQDN", []any{"addressType"}))
	default:
		bad = append(bad, wrong("is %q; it must be IPv4, IPv6 or FQDN", []any{"addressType"}, s.AddressType))
	}
	for i := range s.Endpoints {
		if len(s.Endpoints[i].Addresses) == 0 {
			bad = append(bad, wrong("is required", []any{"endpoints", i, "addresses"}))
		}
		for j, a := range s.Endpoints[i].Addresses {
			if msg := badAddress(s.AddressType, a); msg != "" {
				bad = append(bad, wrong("%q %s", []any{"endpoints", i, "addresses", j}, a, msg))
			}
		}
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new(string)
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
		switch {
		case p.Port == nil:
			bad = append(bad, wrong("is required", []any{"ports", i, "port"}))
		case *p.Port < 1 || *p.Port > 65535:
			bad = append(bad, wrong("is %d, want 1 to 65535", []any{"ports", i, "port"}, *p.Port))
		}
	}
	return bad
}

func badAddress(t discoveryv1.AddressType, a string) string {
	addr, err := netip.ParseAddr(a)
	switch {
	case t == discoveryv1.AddressTypeIPv4 && (err != nil || !addr.Is4()):
		return "is no IPv4 address"
	case t == discoveryv1.AddressTypeIPv6 && (err != nil || !addr.Is6()):
		return "is no IPv6 address"
	case t == discoveryv1.AddressTypeFQDN && len(validation.IsDNS1123Subdomain(a)) > 0:
		return "is no DNS name"
	}
	return ""
}

func finishConfigMap(o object) (bad []schema.Problem) {
	c := o.(*corev1.ConfigMap)
	for name := range c.BinaryData {
		if _, twice := c.Data[name]; twice {
			bad = append(bad, wrong("is in data as well", []any{"binaryData", name}))
		}
	}
	return bad
}

func finishSecret(o object) []schema.Problem {
	s := o.(*corev1.Secret)
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for name, v := range s.StringData {
		s.Data[name] = []byte(v)
	}
	s.StringData = nil
	return nil
}

// sum tells versions apart.
type sum = [sha256.Size]byte
