package gateway

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/gateway/certs"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ReasonCertificateExpired and ReasonCertificateNotYetValid are reasons of
// ResolvedRefs for a certificate that is in order but for its dates. It is served
// nevertheless: who refuses it is the client. Gateway API leaves such reasons to
// implementations.
const (
	ReasonCertificateExpired     gatewayv1.ListenerConditionReason = "CertificateExpired"
	ReasonCertificateNotYetValid gatewayv1.ListenerConditionReason = "CertificateNotYetValid"
)

// certificate is a Secret's.
type certificate = tls.Certificate

// reference is a Secret or ConfigMap that a Gateway or one of its ListenerSets
// refers to.
type reference struct {
	kind string
	types.NamespacedName
}

// referrer looks up what a parent refers to, and notes that it did.
type referrer struct {
	t    *Translator
	from parent
	uses set[reference]
}

// permitted notes a reference, and says why it may not be followed.
func (r referrer) permitted(to reference) string {
	r.uses.add(to)
	from := backend.Referrer{Group: gatewayv1.GroupName, Kind: gatewayv1.Kind(r.from.kind), Namespace: r.from.Namespace}
	if r.t.index.Permits(from, backend.Referent{Kind: gatewayv1.Kind(to.kind), Namespace: to.Namespace, Name: to.Name}) {
		return ""
	}
	return fmt.Sprintf("no ReferenceGrant in namespace %q lets a %s of namespace %q refer to %s %q",
		to.Namespace, r.from.kind, r.from.Namespace, to.kind, to.Name)
}

// found is a certificate that was referred to, or why there is none. There can be
// both.
type found struct {
	certificate *certificate
	// Of these at most one is set.
	forbidden string
	problem   *certs.Error
}

// secret follows a reference to a certificate. A Secret that has come to hold
// nonsense leaves the certificate it had before in use, as long as it exists: who
// made the mistake reads it in the status, and its clients need not.
func (r referrer) secret(ref gatewayv1.SecretObjectReference) found {
	if (ref.Group != nil && *ref.Group != "") || (ref.Kind != nil && *ref.Kind != "Secret") {
		return found{problem: &certs.Error{Reason: certs.WrongType, Message: fmt.Sprintf("%q is a %s; certificates are in Secrets",
			ref.Name, groupKind(value(ref.Group), value(ref.Kind)))}}
	}
	name := r.from.secretName(ref)
	if why := r.permitted(reference{"Secret", name}); why != "" {
		return found{forbidden: why}
	}
	c, err := r.t.index.Certs().Certificate(name)
	if err != nil && err.Reason != certs.NotFound { // which names it
		err = &certs.Error{Reason: err.Reason, Message: fmt.Sprintf("Secret %s: %s", name, err.Message)}
	}
	if err == nil {
		r.t.lastGood[name] = c
		return found{certificate: c}
	}
	if err.Reason == certs.NotFound || err.Reason == certs.WrongType {
		delete(r.t.lastGood, name)
		return found{problem: err}
	}
	if c = r.t.lastGood[name]; c != nil {
		return found{c, "", &certs.Error{Reason: err.Reason,
			Message: err.Message + "; the certificate that was there before is still served"}}
	}
	return found{problem: err}
}

func value[T ~string](p *T) T {
	if p == nil {
		return ""
	}
	return *p
}

func groupKind[G, K ~string](group G, kind K) string {
	if kind == "" {
		kind = "Secret"
	}
	if group == "" {
		return string(kind)
	}
	return string(kind) + "." + string(group)
}

// resolveCertificates finds what the listener presents to clients.
func (l *listener) resolveCertificates(r referrer) []*certificate {
	var list []*certificate
	var messages []string
	var reason gatewayv1.ListenerConditionReason
	for _, ref := range l.spec.TLS.CertificateRefs {
		f := r.secret(ref)
		if f.certificate != nil {
			list = append(list, f.certificate)
		}
		switch {
		case f.forbidden != "":
			reason = cmp.Or(reason, gatewayv1.ListenerReasonRefNotPermitted)
			messages = append(messages, f.forbidden)
		case f.problem != nil:
			reason = cmp.Or(reason, gatewayv1.ListenerReasonInvalidCertificateRef)
			messages = append(messages, f.problem.Message)
		}
	}
	if len(l.spec.TLS.CertificateRefs) == 0 {
		reason, messages = gatewayv1.ListenerReasonInvalidCertificateRef, []string{"certificateRefs is empty, and without a certificate TLS cannot end here"}
	}
	if reason != "" {
		l.unresolve(because(reason, "tls: "+sentence(messages...)))
	}
	if len(list) == 0 {
		l.broken = because(gatewayv1.ListenerReasonInvalid, "there is no certificate to serve: "+sentence(messages...))
	}
	return list
}

// unresolve adds to what ResolvedRefs says. The first reason stands.
func (l *listener) unresolve(why verdict) {
	if l.unresolved.ok() {
		l.unresolved = why
		return
	}
	l.unresolved.message = sentence(l.unresolved.message, why.message)
}

// validity is what the dates of certificates come to now. It notes when that
// will be something else.
func (w *statusWriter) validity(list []*certificate) (v verdict) {
	for _, c := range list {
		if c.Leaf == nil {
			continue
		}
		for _, at := range []time.Time{c.Leaf.NotBefore, c.Leaf.NotAfter.Add(1)} {
			if at.After(w.now) && (w.until.IsZero() || at.Before(w.until)) {
				w.until = at
			}
		}
		if err := certs.Validity(c, w.now); err != nil && v.ok() {
			reason := ReasonCertificateExpired
			if err.Reason == certs.NotYetValid {
				reason = ReasonCertificateNotYetValid
			}
			v = because(reason, err.Message+"; it is used as it is")
		}
	}
	return v
}
