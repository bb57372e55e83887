package backend

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress/gateway/certs"
	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// policy is a BackendTLSPolicy and what it comes to.
type policy struct {
	object *gatewayv1.BackendTLSPolicy
	result *evaluation // nil: to be made
	// cas are those that roots was made of.
	cas   []*x509.Certificate
	roots *x509.CertPool
}

func (p *policy) name() types.NamespacedName { return nameOf(p.object) }

// target is what a targetRef names: a Service, or one port of it.
type target struct {
	service types.NamespacedName
	section string // "" = all ports that no other policy names
}

// targets leaves out what is no Service: it is for other controllers.
func (p *policy) targets() []target {
	var ts []target
	for _, r := range p.object.Spec.TargetRefs {
		if r.Group != "" || r.Kind != "Service" {
			continue
		}
		t := target{service: types.NamespacedName{Namespace: p.object.Namespace, Name: string(r.Name)}}
		if r.SectionName != nil {
			t.section = string(*r.SectionName)
		}
		ts = append(ts, t)
	}
	return ts
}

// SetBackendTLSPolicy adds or replaces a BackendTLSPolicy.
func (x *Index) SetBackendTLSPolicy(o *gatewayv1.BackendTLSPolicy) {
	name := nameOf(o)
	p := x.policies[name]
	if p != nil && p.object.Generation == o.Generation && p.object.CreationTimestamp.Equal(&o.CreationTimestamp) && reflect.DeepEqual(&p.object.Spec, &o.Spec) {
		p.object = o // our own status, mostly
		return
	}
	if p == nil {
		p = &policy{}
		x.policies[name] = p
	} else {
		x.detach(p)
	}
	p.object, p.result = o, nil
	for _, t := range p.targets() {
		s := x.service(t.service)
		if s.policies == nil {
			s.policies = make(map[types.NamespacedName]*policy)
		}
		s.policies[name] = p
		x.policyChanged(s)
	}
	x.changes.policies = true
}

// DeleteBackendTLSPolicy removes a BackendTLSPolicy.
func (x *Index) DeleteBackendTLSPolicy(name types.NamespacedName) {
	p := x.policies[name]
	if p == nil {
		return
	}
	x.detach(p)
	delete(x.policies, name)
	x.changes.policies = true
}

func (x *Index) detach(p *policy) {
	for _, t := range p.targets() {
		s := x.services[t.service]
		if s == nil {
			continue // two targetRefs for one Service
		}
		delete(s.policies, p.name())
		x.policyChanged(s)
		x.release(s)
	}
}

// policyChanged: whether a Service can be spoken to, and by which Gateways in
// ways of their own, depends on its policies.
func (x *Index) policyChanged(s *service) {
	x.changes.resolve(s.name)
	x.stale(s)
}

// authorityChanged looks again at the policies that trust a ConfigMap or Secret.
func (x *Index) authorityChanged(kind gatewayv1.Kind, name types.NamespacedName) {
	for _, p := range x.policies {
		if p.object.Namespace != name.Namespace || !slices.ContainsFunc(p.object.Spec.Validation.CACertificateRefs, func(r gatewayv1.LocalObjectReference) bool {
			return r.Group == "" && r.Kind == kind && string(r.Name) == name.Name
		}) {
			continue
		}
		p.result = nil
		x.changes.policies = true
		for _, t := range p.targets() {
			x.policyChanged(x.services[t.service])
		}
	}
}

// policyFor is the policy in force for a port, nil for none: one that names the
// port, or else one that names none.
func (s *service) policyFor(p *corev1.ServicePort) *policy {
	if p.Name != "" {
		if named := s.winner(p.Name); named != nil {
			return named
		}
	}
	return s.winner("")
}

// winner is the policy that prevails for a section: the oldest, or the first by
// name. It does even if it is invalid: the next one would trust others.
func (s *service) winner(section string) *policy {
	var best *policy
	for _, p := range s.policies {
		if slices.Contains(p.targets(), target{s.name, section}) && (best == nil || prevails(p, best)) {
			best = p
		}
	}
	return best
}

func prevails(a, b *policy) bool {
	return cmp.Or(
		a.object.CreationTimestamp.Time.Compare(b.object.CreationTimestamp.Time),
		compareNames(a.name(), b.name()),
	) < 0
}

// evaluation is what a policy comes to, apart from what it competes with.
type evaluation struct {
	serverName string
	roots      *x509.CertPool // nil = the system's
	sans       []upstream.SAN
	invalid    string // why nobody can be spoken to; "" = valid
	// accepted and resolved are the reasons of the conditions, with messages.
	accepted, resolved reason
}

type reason struct {
	name    gatewayv1.PolicyConditionReason
	message string
}

func (x *Index) evaluate(p *policy) *evaluation {
	if p.result != nil {
		return p.result
	}
	v := &p.object.Spec.Validation
	e := &evaluation{
		serverName: string(v.Hostname),
		accepted:   reason{gatewayv1.PolicyReasonAccepted, "the policy is accepted"},
		resolved:   reason{gatewayv1.BackendTLSPolicyReasonResolvedRefs, "all references are resolved"},
	}
	if len(p.object.Spec.Options) > 0 {
		e.accepted.message += "; none of its options is known, and they are not heeded"
	}
	p.result = e
	if len(v.CACertificateRefs) > 0 {
		x.trust(p, e)
	}
	sans, why := subjectAltNames(v.SubjectAltNames)
	if why == "" {
		why = invalidValidation(v)
	}
	if why != "" {
		e.accepted = reason{gatewayv1.PolicyReasonInvalid, why}
	}
	e.sans = sans
	if e.accepted.name != gatewayv1.PolicyReasonAccepted {
		e.invalid = e.accepted.message
	}
	return e
}

// trust resolves caCertificateRefs. A policy with one that is valid is in force,
// with no trust in the others.
func (x *Index) trust(p *policy, e *evaluation) {
	var cas []*x509.Certificate
	for _, r := range p.object.Spec.Validation.CACertificateRefs {
		name := types.NamespacedName{Namespace: p.object.Namespace, Name: string(r.Name)}
		var found []*x509.Certificate
		var err *certs.Error
		switch {
		case r.Group == "" && r.Kind == "ConfigMap":
			found, err = x.certs.ConfigMapCAs(name)
		case r.Group == "" && r.Kind == "Secret":
			found, err = x.certs.SecretCAs(name)
		default:
			e.unresolved(gatewayv1.BackendTLSPolicyReasonInvalidKind, fmt.Sprintf("caCertificateRefs names %s of kind %q of group %q; ConfigMap and Secret of the core group are supported", r.Name, r.Kind, r.Group))
			continue
		}
		if err != nil {
			e.unresolved(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef, fmt.Sprintf("%s %s of caCertificateRefs: %s", r.Kind, name, err.Message))
			continue
		}
		cas = append(cas, found...)
	}
	if len(cas) == 0 {
		e.accepted = reason{gatewayv1.BackendTLSPolicyReasonNoValidCACertificate, e.resolved.message}
		return
	}
	if p.roots == nil || !slices.EqualFunc(p.cas, cas, (*x509.Certificate).Equal) {
		p.cas, p.roots = cas, x509.NewCertPool()
		for _, c := range cas {
			p.roots.AddCert(c)
		}
	}
	e.roots = p.roots
}

// unresolved keeps the reason of the first reference, and the messages of all.
func (e *evaluation) unresolved(name gatewayv1.PolicyConditionReason, message string) {
	if e.resolved.name == gatewayv1.BackendTLSPolicyReasonResolvedRefs {
		e.resolved = reason{name, message}
	} else {
		e.resolved.message += "; " + message
	}
}

// invalidValidation says what the definition of the kind would not have let in,
// which files pass by, and which system's certificates are not known.
func invalidValidation(v *gatewayv1.BackendTLSPolicyValidation) string {
	wellKnown := gatewayv1.WellKnownCACertificatesType("")
	if v.WellKnownCACertificates != nil {
		wellKnown = *v.WellKnownCACertificates
	}
	host := string(v.Hostname)
	_, notIP := netip.ParseAddr(host)
	switch {
	case host == "" || notIP == nil || strings.ContainsAny(host, "*/: "):
		return fmt.Sprintf("hostname %q is not the name of a host", host)
	case len(v.CACertificateRefs) > 0 && wellKnown != "":
		return "caCertificateRefs and wellKnownCACertificates exclude each other"
	case len(v.CACertificateRefs) == 0 && wellKnown == "":
		return "neither caCertificateRefs nor wellKnownCACertificates says whom to trust"
	case wellKnown != "" && wellKnown != gatewayv1.WellKnownCACertificatesSystem:
		return fmt.Sprintf("wellKnownCACertificates %q is not known; %q is", wellKnown, gatewayv1.WellKnownCACertificatesSystem)
	}
	return ""
}

func subjectAltNames(names []gatewayv1.SubjectAltName) (sans []upstream.SAN, invalid string) {
	for i, n := range names {
		switch n.Type {
		case gatewayv1.HostnameSubjectAltNameType:
			if n.Hostname == "" {
				return nil, fmt.Sprintf("subjectAltNames[%d] has no hostname", i)
			}
			sans = append(sans, upstream.SAN{DNS: strings.ToLower(string(n.Hostname))})
		case gatewayv1.URISubjectAltNameType:
			if u, err := url.Parse(string(n.URI)); err != nil || !u.IsAbs() {
				return nil, fmt.Sprintf("subjectAltNames[%d]: %q is not an absolute URI", i, n.URI)
			}
			sans = append(sans, upstream.SAN{URI: string(n.URI)})
		default:
			return nil, fmt.Sprintf("subjectAltNames[%d] is of type %q; Hostname and URI are supported", i, n.Type)
		}
	}
	return sans, ""
}
