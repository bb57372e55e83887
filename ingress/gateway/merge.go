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
// not ours, and entries of other controllers. It says false if nothing differs, or
// if obj is of another kind than the status.
func (s Status) Merge(obj runtime.Object) (runtime.Object, bool) {
	next := obj.DeepCopyObject()
	switch o := next.(type) {
	case *gatewayv1.GatewayClass:
		if s.Class == nil {
			return obj, false
		}
		o.Status.Conditions = mergeConditions(o.Status.Conditions, s.Class.Conditions, classConditions)
		o.Status.SupportedFeatures = s.Class.SupportedFeatures
		return next, !equality.Semantic.DeepEqual(obj.(*gatewayv1.GatewayClass).Status, o.Status)
	case *gatewayv1.Gateway:
		if s.Gateway == nil {
			return obj, false
		}
		before := o.Status.Listeners
		conditions := mergeConditions(o.Status.Conditions, s.Gateway.Conditions, gatewayConditions)
		s.Gateway.DeepCopyInto(&o.Status)
		o.Status.Conditions = conditions
		for i := range o.Status.Listeners {
			l := &o.Status.Listeners[i]
			if j := slices.IndexFunc(before, func(b gatewayv1.ListenerStatus) bool { return b.Name == l.Name }); j >= 0 {
				l.Conditions = mergeConditions(before[j].Conditions, l.Conditions, listenerConditions)
			}
		}
		return next, !equality.Semantic.DeepEqual(obj.(*gatewayv1.Gateway).Status, o.Status)
	case *gatewayv1.ListenerSet:
		if s.ListenerSet == nil {
			return obj, false
		}
		before := o.Status.Listeners
		conditions := mergeConditions(o.Status.Conditions, s.ListenerSet.Conditions, gatewayConditions)
		s.ListenerSet.DeepCopyInto(&o.Status)
		o.Status.Conditions = conditions
		for i := range o.Status.Listeners {
			l := &o.Status.Listeners[i]
			if j := slices.IndexFunc(before, func(b gatewayv1.ListenerEntryStatus) bool { return b.Name == l.Name }); j >= 0 {
				l.Conditions = mergeConditions(before[j].Conditions, l.Conditions, listenerConditions)
			}
		}
		return next, !equality.Semantic.DeepEqual(obj.(*gatewayv1.ListenerSet).Status, o.Status)
	case *gatewayv1.HTTPRoute:
		return next, s.mergeParents(kindHTTPRoute, &o.Status.RouteStatus)
	case *gatewayv1.GRPCRoute:
		return next, s.mergeParents(kindGRPCRoute, &o.Status.RouteStatus)
	case *gatewayv1.TLSRoute:
		return next, s.mergeParents(kindTLSRoute, &o.Status.RouteStatus)
	case *gatewayv1.TCPRoute:
		return next, s.mergeParents(kindTCPRoute, &o.Status.RouteStatus)
	case *gatewayv1.UDPRoute:
		return next, s.mergeParents(kindUDPRoute, &o.Status.RouteStatus)
	case *gatewayv1.BackendTLSPolicy:
		return next, s.mergeAncestors("BackendTLSPolicy", &o.Status)
	case *ClientTrafficPolicy:
		return next, s.mergeAncestors("ClientTrafficPolicy", &o.Status)
	}
	return obj, false
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

// mergeParents puts our entries in the place of those that are ours, and says
// whether that changes anything.
func (s Status) mergeParents(kind string, status *gatewayv1.RouteStatus) bool {
	if s.Kind != kind {
		return false
	}
	before := status.Parents
	merged := []gatewayv1.RouteParentStatus{} // parents is required
	done := make(set[int])
	for _, p := range before {
		if !slices.Contains(s.Controllers, string(p.ControllerName)) {
			merged = append(merged, p)
			continue
		}
		for i, w := range s.Parents {
			if !done.has(i) && w.ControllerName == p.ControllerName && sameRef(w.ParentRef, p.ParentRef) {
				done.add(i)
				w.Conditions = mergeConditions(p.Conditions, w.Conditions, routeConditions)
				merged = append(merged, w)
				break
			}
		}
	}
	for i, w := range s.Parents {
		if !done.has(i) {
			merged = append(merged, w)
		}
	}
	status.Parents = merged
	return !equality.Semantic.DeepEqual(before, merged)
}

// mergeAncestors is mergeParents for a policy.
func (s Status) mergeAncestors(kind string, status *gatewayv1.PolicyStatus) bool {
	if s.Kind != kind {
		return false
	}
	before := status.Ancestors
	merged := []gatewayv1.PolicyAncestorStatus{} // ancestors is required
	done := make(set[int])
	for _, a := range before {
		if !slices.Contains(s.Controllers, string(a.ControllerName)) {
			merged = append(merged, a)
			continue
		}
		for i, w := range s.Ancestors {
			if !done.has(i) && w.ControllerName == a.ControllerName && sameRef(w.AncestorRef, a.AncestorRef) {
				done.add(i)
				w.Conditions = mergeConditions(a.Conditions, w.Conditions, policyConditions)
				merged = append(merged, w)
				break
			}
		}
	}
	for i, w := range s.Ancestors {
		if !done.has(i) {
			merged = append(merged, w)
		}
	}
	status.Ancestors = merged
	return !equality.Semantic.DeepEqual(before, merged)
}
