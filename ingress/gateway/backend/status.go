package backend

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// PolicyStatus is what a BackendTLSPolicy's status says of our Gateways.
type PolicyStatus struct {
	Policy     types.NamespacedName
	Generation int64
	// Ancestors are in order of name. Empty: no Gateway of ours is concerned, and
	// entries of ours are to be removed. There may be more than the 16 that a
	// status holds, entries of other controllers included.
	Ancestors []Ancestor
}

// Ancestor is a Gateway that reaches a Service which the policy is about.
type Ancestor struct {
	Gateway types.NamespacedName
	// Conditions are Accepted and ResolvedRefs, without LastTransitionTime.
	Conditions []metav1.Condition
}

// PolicyStatuses is the status of every BackendTLSPolicy, in order of name.
// gateways are those with a route that leads to a Service, whether that Service
// exists or not.
func (x *Index) PolicyStatuses(gateways func(service types.NamespacedName) []types.NamespacedName) []PolicyStatus {
	var all []PolicyStatus
	for _, name := range sortedNames(x.policies) {
		p := x.policies[name]
		reached := make(map[types.NamespacedName][]target)
		for _, t := range p.targets() {
			for _, g := range gateways(t.service) {
				if !slices.Contains(reached[g], t) {
					reached[g] = append(reached[g], t)
				}
			}
		}
		st := PolicyStatus{Policy: name, Generation: p.object.Generation}
		for _, g := range sortedNames(reached) {
			st.Ancestors = append(st.Ancestors, Ancestor{Gateway: g, Conditions: x.conditions(p, reached[g])})
		}
		all = append(all, st)
	}
	return all
}

// conditions are those of a policy toward a Gateway that reaches these targets.
func (x *Index) conditions(p *policy, targets []target) []metav1.Condition {
	e := x.evaluate(p)
	accepted := e.accepted
	if lost := x.conflicts(p, targets); lost != "" {
		accepted = reason{gatewayv1.PolicyReasonConflicted, lost}
	}
	if missing := x.missing(targets); missing != "" {
		accepted = reason{gatewayv1.PolicyReasonTargetNotFound, missing}
	}
	return []metav1.Condition{
		condition(p, gatewayv1.PolicyConditionAccepted, accepted, gatewayv1.PolicyReasonAccepted),
		condition(p, gatewayv1.BackendTLSPolicyConditionResolvedRefs, e.resolved, gatewayv1.BackendTLSPolicyReasonResolvedRefs),
	}
}

func condition(p *policy, kind gatewayv1.PolicyConditionType, r reason, good gatewayv1.PolicyConditionReason) metav1.Condition {
	status := metav1.ConditionFalse
	if r.name == good {
		status = metav1.ConditionTrue
	}
	return metav1.Condition{Type: string(kind), Status: status, ObservedGeneration: p.object.Generation, Reason: string(r.name), Message: r.message}
}

// conflicts says for which targets another policy prevails; "" for none. One is
// enough for the policy not to take precedence, even if it is in force for
// others.
func (x *Index) conflicts(p *policy, targets []target) string {
	var lost, kept []string
	for _, t := range targets {
		if w := x.services[t.service].winner(t.section); w != p {
			lost = append(lost, fmt.Sprintf("policy %s, which is older or first by name, is about %s too", w.name(), t))
		} else {
			kept = append(kept, t.String())
		}
	}
	if len(lost) > 0 && len(kept) > 0 {
		lost = append(lost, "this policy is in force for "+strings.Join(kept, ", "))
	}
	return strings.Join(lost, "; ")
}

// missing says which targets do not exist; "" for none.
func (x *Index) missing(targets []target) string {
	var gone []string
	for _, t := range targets {
		switch s := x.services[t.service]; {
		case s.object == nil:
			gone = append(gone, fmt.Sprintf("there is no Service %s", t.service))
		case t.section != "" && !s.hasPortNamed(t.section):
			gone = append(gone, fmt.Sprintf("Service %s has no port named %s", t.service, t.section))
		}
	}
	return strings.Join(gone, "; ")
}

func (s *service) hasPortNamed(name string) bool {
	for i := range s.object.Spec.Ports {
		if s.object.Spec.Ports[i].Name == name {
			return true
		}
	}
	return false
}

func (t target) String() string {
	if t.section == "" {
		return "Service " + t.service.String()
	}
	return fmt.Sprintf("port %s of Service %s", t.section, t.service)
}
