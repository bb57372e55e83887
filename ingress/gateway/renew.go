package gateway

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// renewCertificates looks after the Gateways of which a Secret changed. Most of
// the time one certificate takes the place of another, and nothing but the
// listeners that refer to it have to be looked at; else the Gateway is planned
// anew.
func (t *Translator) renewCertificates() {
	for secret := range t.staleSecrets {
		for name := range t.usedBy[reference{"Secret", secret}] {
			if !t.staleGateways.has(name) && !t.renew(t.gateways[name], secret) {
				t.staleGateways.add(name)
			}
		}
	}
	clear(t.staleSecrets)
}

// renew resolves the certificates of the listeners that refer to a Secret. It says
// false if that makes a difference beyond those listeners, and the Gateway is to
// be planned anew.
func (t *Translator) renew(g *gateway, secret types.NamespacedName) bool {
	if s := g.obj.Spec.TLS; s != nil && s.Backend != nil && s.Backend.ClientCertificateRef != nil {
		return false
	}
	for _, o := range g.owners {
		for _, l := range o.listeners {
			if !l.refersTo(secret) {
				continue
			}
			valid, conflict := l.valid(), l.conflict
			if !valid {
				return false
			}
			l.read(l.spec)
			l.conflict = conflict
			l.finish(referrer{t, o.parent, g.uses}, &g.frontend, nil)
			if l.valid() != valid {
				return false
			}
		}
	}
	g.status, g.portsStale = nil, true
	return true
}

// refersTo says whether a certificate of the listener is that Secret's.
func (l *listener) refersTo(secret types.NamespacedName) bool {
	return l.spec.TLS != nil && slices.ContainsFunc(l.spec.TLS.CertificateRefs, func(ref gatewayv1.SecretObjectReference) bool {
		return l.parent.secretName(ref) == secret
	})
}

// secretName is the name of the Secret that a reference of the parent is to.
func (p parent) secretName(ref gatewayv1.SecretObjectReference) types.NamespacedName {
	name := types.NamespacedName{Namespace: p.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	return name
}
