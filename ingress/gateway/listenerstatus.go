package gateway

import (
	"fmt"

	"github.com/adit-mesh/adit/ingress"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listenerStatus are the conditions of a listener.
type listenerStatus struct {
	accepted, conflicted, resolved, programmed condition
	overlap                                    verdict
}

func (s listenerStatus) conditions() []condition {
	list := []condition{s.accepted, s.conflicted, s.resolved, s.programmed}
	if !s.overlap.ok() {
		// It has negative polarity, and is absent if there is nothing to tell.
		list = append(list, is(gatewayv1.ListenerConditionOverlappingTLSConfig, s.overlap.reason, s.overlap.message))
	}
	return list
}

func (w *statusWriter) listener(l *listener) listenerStatus {
	s := listenerStatus{
		accepted:   is(gatewayv1.ListenerConditionAccepted, gatewayv1.ListenerReasonAccepted, "the listener is accepted"),
		conflicted: condition{string(gatewayv1.ListenerConditionConflicted), metav1.ConditionFalse, string(gatewayv1.ListenerReasonNoConflicts), "no other listener has its port and hostname"},
		resolved:   is(gatewayv1.ListenerConditionResolvedRefs, gatewayv1.ListenerReasonResolvedRefs, "all references are resolved"),
		overlap:    l.overlap,
	}
	var dates verdict
	if l.tls != nil {
		dates = w.validity(l.tls.Certificates)
	}
	if !l.unresolved.ok() {
		s.resolved = isNot(gatewayv1.ListenerConditionResolvedRefs, l.unresolved)
	} else if !dates.ok() {
		s.resolved = isNot(gatewayv1.ListenerConditionResolvedRefs, dates)
	}
	socket, note := w.socket(l)
	switch {
	case !l.conflict.ok():
		s.accepted = isNot(gatewayv1.ListenerConditionAccepted, l.conflict)
		s.conflicted = is(gatewayv1.ListenerConditionConflicted, l.conflict.reason, l.conflict.message)
	case !l.accepted.ok():
		s.accepted = isNot(gatewayv1.ListenerConditionAccepted, l.accepted)
	case socket.reason == string(gatewayv1.ListenerReasonPortUnavailable):
		s.accepted = isNot(gatewayv1.ListenerConditionAccepted, socket)
	}
	s.programmed = is(gatewayv1.ListenerConditionProgrammed, gatewayv1.ListenerReasonProgrammed, "the listener is served"+note)
	switch {
	case !l.conflict.ok():
		s.programmed = isNot(gatewayv1.ListenerConditionProgrammed, l.conflict)
	case !l.accepted.ok():
		s.programmed = isNot(gatewayv1.ListenerConditionProgrammed, because(gatewayv1.ListenerReasonInvalid, l.accepted.message))
	case !l.broken.ok():
		s.programmed = isNot(gatewayv1.ListenerConditionProgrammed, l.broken)
	case !w.g.accepted.ok():
		s.programmed = isNot(gatewayv1.ListenerConditionProgrammed, because(gatewayv1.ListenerReasonInvalid, "the Gateway is not accepted"))
	case !socket.ok():
		s.programmed = isNot(gatewayv1.ListenerConditionProgrammed, socket)
	}
	return s
}

// socket says why the listener's port is not open. note is what is to be told
// although it is.
func (w *statusWriter) socket(l *listener) (why verdict, note string) {
	b, ok := w.bound[portKey{l.port, l.udp}]
	switch {
	case !ok:
		return verdict{}, "" // the listener has none, for a reason of its own
	case !b.known:
		return because(gatewayv1.ListenerReasonPending, fmt.Sprintf("it is not known yet where port %d is to be served", l.port)), ""
	case !b.ok():
		return because(gatewayv1.ListenerReasonPortUnavailable, fmt.Sprintf("port %d is served for Gateway %s, which has precedence", l.port, b.taken)), ""
	}
	if err := w.applied.Failed[b.bind]; err != nil {
		return because(gatewayv1.ListenerReasonPortUnavailable, fmt.Sprintf("port %d cannot be served: %v", l.port, err)), ""
	}
	switch err := w.applied.NoQUIC[b.bind]; {
	case l.protocol != ingress.HTTPS:
	case b.noMirror && l.quic.http3 != "off":
		note = fmt.Sprintf("; but not over HTTP/3: UDP port %d is that of a UDP listener", l.port)
	case err != nil:
		note = fmt.Sprintf("; but not over HTTP/3: %v", err)
	}
	return verdict{}, note
}

// supportedKinds are the kinds of routes that the listener takes. It is never
// nil, so that it is written even if there is none.
func (l *listener) supportedKinds() []gatewayv1.RouteGroupKind {
	kinds := []gatewayv1.RouteGroupKind{}
	for _, k := range l.kinds {
		kinds = append(kinds, gatewayv1.RouteGroupKind{Group: new(gatewayv1.Group(gatewayv1.GroupName)), Kind: gatewayv1.Kind(k)})
	}
	return kinds
}

// attachedRoutes counts the routes on the listener that are accepted there.
func (l *listener) attachedRoutes() int32 {
	n := int32(0)
	if !l.gateway.accepted.ok() {
		return n // none of them is
	}
	for _, a := range l.attachments {
		if a.compiled.accepted.True && a.rejected == nil {
			n++
		}
	}
	return n
}
