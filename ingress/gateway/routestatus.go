package gateway

import (
	"fmt"
	"slices"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway/compile"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ReasonHostnameConflict is the reason of Accepted for an HTTPRoute or GRPCRoute
// of which the hostnames intersect with those of an older route of the other kind
// on the same listener. Gateway API asks for the condition, and names no reason.
const ReasonHostnameConflict gatewayv1.RouteConditionReason = "HostnameConflict"

func (t *Translator) routeStatus(s *routeState) Status {
	status := Status{Kind: s.kind, Namespace: s.Namespace, Name: s.Name, UID: s.meta.GetUID(), Generation: s.generation, Controllers: t.options.ControllerNames}
	for _, r := range s.results {
		accepted := r.accepted(s)
		wanted := []condition{accepted, r.resolved()}
		if p := r.compiled[0].partial; p != nil && accepted.status == metav1.ConditionTrue {
			wanted = append(wanted, is(gatewayv1.RouteConditionPartiallyInvalid, p.Reason, p.Message))
		}
		status.Parents = append(status.Parents, gatewayv1.RouteParentStatus{
			ParentRef:      *r.ref.DeepCopy(),
			ControllerName: gatewayv1.GatewayController(r.controller),
			Conditions:     conditions(parentConditions(s.current.Parents, r.ref, r.controller), s.generation, t.options.Now(), wanted...),
		})
	}
	return status
}

func (r *parentResult) accepted(s *routeState) condition {
	if !r.refused.ok() {
		return isNot(gatewayv1.RouteConditionAccepted, r.refused)
	}
	if !r.gateway.accepted.ok() {
		return condition{string(gatewayv1.RouteConditionAccepted), metav1.ConditionUnknown, string(gatewayv1.RouteReasonPending),
			fmt.Sprintf("Gateway %s is not accepted: %s", r.gateway.name(), r.gateway.accepted.message)}
	}
	for _, c := range r.compiled {
		if !c.accepted.True {
			return isNot(gatewayv1.RouteConditionAccepted, because(c.accepted.Reason, c.accepted.Message))
		}
	}
	var idle []string
	rejected := 0
	for _, l := range r.listeners {
		a := l.attachments[s.routeKey]
		if a.rejected != nil {
			rejected++
			idle = append(idle, fmt.Sprintf("listener %s: %s %s is older and has hostnames of this route, which one kind of route alone can have",
				l.name, a.rejected.kind, a.rejected.NamespacedName))
		} else if by := l.idle(a); by != "" {
			idle = append(idle, fmt.Sprintf("listener %s: %s", l.name, by))
		}
	}
	if rejected == len(r.listeners) {
		return isNot(gatewayv1.RouteConditionAccepted, because(ReasonHostnameConflict, sentence(idle...)))
	}
	return is(gatewayv1.RouteConditionAccepted, gatewayv1.RouteReasonAccepted, sentence(append([]string{"the route is accepted"}, idle...)...))
}

// idle says which older route keeps a TLSRoute, TCPRoute or UDPRoute from serving
// on the listener. "": none.
func (l *listener) idle(a *attachment) string {
	if l.protocol < ingress.TLS || len(l.streams) == 0 {
		return ""
	}
	for _, s := range l.streams {
		if s.Owner == a.compiled.owner {
			if l.protocol == ingress.TLS && len(s.Hostnames) < len(a.hosts) {
				return "some of its hostnames are served by older routes"
			}
			return ""
		}
	}
	if l.protocol == ingress.TLS {
		return "all of its hostnames are served by older routes, and this one is idle"
	}
	return fmt.Sprintf("%s %s/%s is older and serves all of it; this route is idle", l.streams[0].Owner.Kind, l.streams[0].Owner.Namespace, l.streams[0].Owner.Name)
}

func (r *parentResult) resolved() condition {
	all := compile.Condition{}
	for _, c := range r.compiled {
		all = c.resolved
		if !all.True {
			return isNot(gatewayv1.RouteConditionResolvedRefs, because(all.Reason, all.Message))
		}
	}
	return is(gatewayv1.RouteConditionResolvedRefs, all.Reason, all.Message)
}

func parentConditions(list []gatewayv1.RouteParentStatus, ref gatewayv1.ParentReference, controller string) []metav1.Condition {
	i := slices.IndexFunc(list, func(p gatewayv1.RouteParentStatus) bool {
		return string(p.ControllerName) == controller && sameRef(p.ParentRef, ref)
	})
	if i < 0 {
		return nil
	}
	return list[i].Conditions
}

func sameRef(a, b gatewayv1.ParentReference) bool {
	return samePointer(a.Group, b.Group) && samePointer(a.Kind, b.Kind) && samePointer(a.Namespace, b.Namespace) &&
		a.Name == b.Name && samePointer(a.SectionName, b.SectionName) && samePointer(a.Port, b.Port)
}

func samePointer[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
