package gateway

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Merge puts what the status should say into a copy of obj, the object as it was
// last read, and leaves what others say as it is: conditions of types that are
// not ours, and entries of other controllers. It returns obj itself, and false, if
// nothing differs, or if obj is of another kind than the status.
func (s Status) Merge(obj runtime.Object) (runtime.Object, bool) {
	switch o := obj.(type) {
	case *gatewayv1.GatewayClass:
		if s.Class == nil {
			return obj, false
		}
		next := s.Class.DeepCopy()
		next.Conditions = mergeConditions(o.Status.Conditions, next.Conditions, classConditions)
		return replaced(o, &o.Status, next, func(c *gatewayv1.GatewayClass) { c.Status = *next })
	case *gatewayv1.Gateway:
		if s.Gateway == nil {
			return obj, false
		}
		next := s.Gateway.DeepCopy()
		next.Conditions = mergeConditions(o.Status.Conditions, next.Conditions, gatewayConditions)
		for i := range next.Listeners {
			l := &next.Listeners[i]
			for _, before := range o.Status.Listeners {
				if before.Name == l.Name {
					l.Conditions = mergeConditions(before.Conditions, l.Conditions, listenerConditions)
				}
			}
		}
		return replaced(o, &o.Status, next, func(c *gatewayv1.Gateway) { c.Status = *next })
	case *gatewayv1.ListenerSet:
		if s.ListenerSet == nil {
			return obj, false
		}
		next := s.ListenerSet.DeepCopy()
		next.Conditions = mergeConditions(o.Status.Conditions, next.Conditions, gatewayConditions)
		for i := range next.Listeners {
			l := &next.Listeners[i]
			for _, before := range o.Status.Listeners {
				if before.Name == l.Name {
					l.Conditions = mergeConditions(before.Conditions, l.Conditions, listenerConditions)
				}
			}
		}
		return replaced(o, &o.Status, next, func(c *gatewayv1.ListenerSet) { c.Status = *next })
	case *gatewayv1.HTTPRoute:
		next := s.parents(kindHTTPRoute, o.Status.Parents)
		return replaced(o, &o.Status.Parents, &next, func(c *gatewayv1.HTTPRoute) { c.Status.Parents = next })
	case *gatewayv1.GRPCRoute:
		next := s.parents(kindGRPCRoute, o.Status.Parents)
		return replaced(o, &o.Status.Parents, &next, func(c *gatewayv1.GRPCRoute) { c.Status.Parents = next })
	case *gatewayv1.TLSRoute:
		next := s.parents(kindTLSRoute, o.Status.Parents)
		return replaced(o, &o.Status.Parents, &next, func(c *gatewayv1.TLSRoute) { c.Status.Parents = next })
	case *gatewayv1.TCPRoute:
		next := s.parents(kindTCPRoute, o.Status.Parents)
		return replaced(o, &o.Status.Parents, &next, func(c *gatewayv1.TCPRoute) { c.Status.Parents = next })
	case *gatewayv1.UDPRoute:
		next := s.parents(kindUDPRoute, o.Status.Parents)
		return replaced(o, &o.Status.Parents, &next, func(c *gatewayv1.UDPRoute) { c.Status.Parents = next })
	case *gatewayv1.BackendTLSPolicy:
		next := s.ancestors("BackendTLSPolicy", o.Status.Ancestors)
		return replaced(o, &o.Status.Ancestors, &next, func(c *gatewayv1.BackendTLSPolicy) { c.Status.Ancestors = next })
	case *ClientTrafficPolicy:
		next := s.ancestors("ClientTrafficPolicy", o.Status.Ancestors)
		return replaced(o, &o.Status.Ancestors, &next, func(c *ClientTrafficPolicy) { c.Status.Ancestors = next })
	}
	return obj, false
}

// replaced is a copy of o that set was given, unless before and next are equal.
// Most of the time they are, and nothing is copied.
func replaced[O runtime.Object, S any](o O, before, next *S, set func(O)) (runtime.Object, bool) {
	if equality.Semantic.DeepEqual(before, next) {
		return o, false
	}
	c := o.DeepCopyObject().(O)
	set(c)
	return c, true
}

// The types of conditions that are ours. One of them that is not wanted is
// removed.
var (
	classConditions = []string{
		string(gatewayv1.GatewayClassConditionStatusAccepted),
		string(gatewayv1.GatewayClassConditionStatusSupportedVersion),
	}
	gatewayConditions = []string{
		string(gatewayv1.GatewayConditionAccepted),
		string(gatewayv1.GatewayConditionProgrammed),
		string(gatewayv1.GatewayConditionResolvedRefs),
		string(gatewayv1.GatewayConditionInsecureFrontendValidationMode),
	}
	listenerConditions = []string{
		string(gatewayv1.ListenerConditionAccepted),
		string(gatewayv1.ListenerConditionConflicted),
		string(gatewayv1.ListenerConditionResolvedRefs),
		string(gatewayv1.ListenerConditionProgrammed),
		string(gatewayv1.ListenerConditionOverlappingTLSConfig),
	}
	routeConditions = []string{
		string(gatewayv1.RouteConditionAccepted),
		string(gatewayv1.RouteConditionResolvedRefs),
		string(gatewayv1.RouteConditionPartiallyInvalid),
	}
	policyConditions = []string{
		string(gatewayv1.PolicyConditionAccepted),
		string(gatewayv1.BackendTLSPolicyConditionResolvedRefs),
	}
)

// mergeConditions replaces the conditions of the types that are ours. One that
// was written for a later generation than we know of stays: what we say is about
// an older object. The order is kept.
func mergeConditions(current, wanted []metav1.Condition, ours []string) []metav1.Condition {
	var merged []metav1.Condition
	for _, c := range current {
		i := indexCondition(wanted, c.Type)
		switch {
		case i >= 0 && c.ObservedGeneration > wanted[i].ObservedGeneration:
			merged = append(merged, c)
		case i >= 0:
			w := wanted[i]
			if c.Status == w.Status && !c.LastTransitionTime.IsZero() {
				w.LastTransitionTime = c.LastTransitionTime
			}
			merged = append(merged, w)
		case !slices.Contains(ours, c.Type):
			merged = append(merged, c)
		}
	}
	for _, w := range wanted {
		if indexCondition(merged, w.Type) < 0 {
			merged = append(merged, w)
		}
	}
	return merged
}

// parents puts our entries in the place of those of before that are ours. A status
// of another kind changes nothing.
func (s Status) parents(kind string, before []gatewayv1.RouteParentStatus) []gatewayv1.RouteParentStatus {
	if s.Kind != kind {
		return before
	}
	merged := []gatewayv1.RouteParentStatus{} // parents is required
	wanted := slices.Clone(s.Parents)
	for _, p := range before {
		if !slices.Contains(s.Controllers, string(p.ControllerName)) {
			merged = append(merged, p)
			continue
		}
		i := slices.IndexFunc(wanted, func(w gatewayv1.RouteParentStatus) bool {
			return w.ControllerName == p.ControllerName && sameRef(w.ParentRef, p.ParentRef)
		})
		if i >= 0 {
			w := wanted[i]
			w.Conditions = mergeConditions(p.Conditions, w.Conditions, routeConditions)
			merged = append(merged, w)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	return append(merged, wanted...)
}

// ancestors is parents for a policy.
func (s Status) ancestors(kind string, before []gatewayv1.PolicyAncestorStatus) []gatewayv1.PolicyAncestorStatus {
	if s.Kind != kind {
		return before
	}
	merged := []gatewayv1.PolicyAncestorStatus{} // ancestors is required
	wanted := slices.Clone(s.Ancestors)
	for _, a := range before {
		if !slices.Contains(s.Controllers, string(a.ControllerName)) {
			merged = append(merged, a)
			continue
		}
		i := slices.IndexFunc(wanted, func(w gatewayv1.PolicyAncestorStatus) bool {
			return w.ControllerName == a.ControllerName && sameRef(w.AncestorRef, a.AncestorRef)
		})
		if i >= 0 {
			w := wanted[i]
			w.Conditions = mergeConditions(a.Conditions, w.Conditions, policyConditions)
			merged = append(merged, w)
			wanted = slices.Delete(wanted, i, i+1)
		}
	}
	return append(merged, wanted...)
}
