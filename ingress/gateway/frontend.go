package gateway

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/adit-mesh/adit/ingress/gateway/certs"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// clientValidation is what a Gateway asks of the certificates of clients, by
// default or on one port.
type clientValidation struct {
	pool     *x509.CertPool
	cas      []*x509.Certificate // in pool
	insecure bool                // AllowInsecureFallback

	unresolved verdict
	none       verdict // no reference is valid: nobody can be let in
}

// frontend is spec.tls.frontend of a Gateway.
type frontend struct {
	byDefault *clientValidation
	perPort   map[uint16]*clientValidation // nil value: none is asked for on that port
}

func (f *frontend) on(port uint16) *clientValidation {
	if v, ok := f.perPort[port]; ok {
		return v
	}
	return f.byDefault
}

func (f *frontend) insecure() bool {
	if f.byDefault != nil && f.byDefault.insecure {
		return true
	}
	for _, v := range f.perPort {
		if v != nil && v.insecure {
			return true
		}
	}
	return false
}

// resolveFrontend reads spec.tls.frontend. before is that of the last plan: what
// consists of the same certificates is the same pool.
func resolveFrontend(spec *gatewayv1.GatewayTLSConfig, r referrer, before frontend) frontend {
	f := frontend{perPort: make(map[uint16]*clientValidation)}
	if spec == nil || spec.Frontend == nil {
		return f
	}
	f.byDefault = resolveValidation(spec.Frontend.Default.Validation, r, before.byDefault)
	for _, p := range spec.Frontend.PerPort {
		f.perPort[uint16(p.Port)] = resolveValidation(p.TLS.Validation, r, before.perPort[uint16(p.Port)])
	}
	return f
}

func resolveValidation(spec *gatewayv1.FrontendTLSValidation, r referrer, before *clientValidation) *clientValidation {
	if spec == nil {
		return nil
	}
	v := &clientValidation{insecure: spec.Mode == gatewayv1.AllowInsecureFallback}
	var reason gatewayv1.ListenerConditionReason
	var messages []string
	for _, ref := range spec.CACertificateRefs {
		cas, why, message := r.authorities(ref)
		if message != "" {
			reason = cmp.Or(reason, why)
			messages = append(messages, message)
		}
		v.cas = append(v.cas, cas...)
	}
	if len(spec.CACertificateRefs) == 0 {
		reason, messages = gatewayv1.ListenerReasonInvalidCACertificateRef, []string{"caCertificateRefs is empty"}
	}
	if reason != "" {
		v.unresolved = because(reason, "client validation: "+sentence(messages...))
	}
	if len(v.cas) == 0 {
		v.none = because(gatewayv1.ListenerReasonNoValidCACertificate,
			"no client can be let in without a CA to verify its certificate: "+sentence(messages...))
		return v
	}
	if before != nil && before.pool != nil && slices.Equal(before.cas, v.cas) {
		v.pool = before.pool
		return v
	}
	v.pool = x509.NewCertPool()
	for _, c := range v.cas {
		v.pool.AddCert(c)
	}
	return v
}

// authorities follows a reference to CA certificates.
func (r referrer) authorities(ref gatewayv1.ObjectReference) ([]*x509.Certificate, gatewayv1.ListenerConditionReason, string) {
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		return nil, gatewayv1.ListenerReasonInvalidCACertificateKind,
			fmt.Sprintf("%q is a %s; CA certificates are in ConfigMaps", ref.Name, groupKind(ref.Group, ref.Kind))
	}
	name := types.NamespacedName{Namespace: r.from.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	if why := r.permitted(reference{"ConfigMap", name}); why != "" {
		return nil, gatewayv1.ListenerReasonRefNotPermitted, why
	}
	cas, err := r.t.index.Certs().ConfigMapCAs(name)
	if err != nil && err.Reason == certs.NotFound {
		return nil, gatewayv1.ListenerReasonInvalidCACertificateRef, err.Message
	}
	if err != nil {
		return nil, gatewayv1.ListenerReasonInvalidCACertificateRef, fmt.Sprintf("ConfigMap %s: %s", name, err.Message)
	}
	return cas, "", ""
}
