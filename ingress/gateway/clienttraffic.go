package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// ClientTrafficPolicy is as much of gateway.envoyproxy.io/v1alpha1's as is
// honoured: http3, which is on in any case. What else it says is refused.
type ClientTrafficPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   ClientTrafficPolicySpec `json:"spec"`
	Status gatewayv1.PolicyStatus  `json:"status,omitempty"`
}

// ClientTrafficPolicySpec is the specification of a ClientTrafficPolicy.
type ClientTrafficPolicySpec struct {
	// Targets are those of targetRef, as it was up to v0.6, and of targetRefs.
	Targets []PolicyTarget
	// HTTP3 says that http3 is there, and empty.
	HTTP3 bool
	// Refused are the fields that are not honoured, in order.
	Refused []string
}

// PolicyTarget is what a ClientTrafficPolicy is for.
type PolicyTarget struct {
	Group       gatewayv1.Group        `json:"group"`
	Kind        gatewayv1.Kind         `json:"kind"`
	Name        gatewayv1.ObjectName   `json:"name"`
	Namespace   *gatewayv1.Namespace   `json:"namespace,omitempty"` // in targetRef alone
	SectionName *gatewayv1.SectionName `json:"sectionName,omitempty"`
}

// DeepCopyObject makes a ClientTrafficPolicy a runtime.Object.
func (p *ClientTrafficPolicy) DeepCopyObject() runtime.Object {
	c := &ClientTrafficPolicy{TypeMeta: p.TypeMeta, Spec: p.Spec}
	p.ObjectMeta.DeepCopyInto(&c.ObjectMeta)
	p.Status.DeepCopyInto(&c.Status)
	c.Spec.Targets = slices.Clone(p.Spec.Targets) // what they point to is never written
	c.Spec.Refused = slices.Clone(p.Spec.Refused)
	return c
}

// UnmarshalJSON reads a specification. A field that is not known is no error: it
// is among Refused.
func (s *ClientTrafficPolicySpec) UnmarshalJSON(data []byte) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	*s = ClientTrafficPolicySpec{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		value := fields[name]
		switch name {
		case "targetRef":
			var target PolicyTarget
			if err := json.Unmarshal(value, &target); err != nil {
				return fmt.Errorf("targetRef: %w", err)
			}
			s.Targets = append(s.Targets, target)
		case "targetRefs":
			var targets []PolicyTarget
			if err := json.Unmarshal(value, &targets); err != nil {
				return fmt.Errorf("targetRefs: %w", err)
			}
			s.Targets = append(s.Targets, targets...)
		case "http3":
			if bytes.Equal(value, []byte("null")) {
				continue
			}
			var inner map[string]json.RawMessage
			if err := json.Unmarshal(value, &inner); err != nil {
				return fmt.Errorf("http3: %w", err)
			}
			s.HTTP3 = true
			for _, field := range slices.Sorted(maps.Keys(inner)) {
				s.Refused = append(s.Refused, "http3."+field)
			}
		default:
			s.Refused = append(s.Refused, name)
		}
	}
	return nil
}

// MarshalJSON writes the specification as it is understood.
func (s ClientTrafficPolicySpec) MarshalJSON() ([]byte, error) {
	fields := map[string]any{}
	if len(s.Targets) > 0 {
		fields["targetRefs"] = s.Targets
	}
	if s.HTTP3 {
		fields["http3"] = struct{}{}
	}
	return json.Marshal(fields)
}

// DecodeClientTrafficPolicy reads a ClientTrafficPolicy in JSON.
func DecodeClientTrafficPolicy(raw []byte) (*ClientTrafficPolicy, error) {
	p := new(ClientTrafficPolicy)
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("ClientTrafficPolicy: %w", err)
	}
	return p, nil
}

// targets are the Gateways of the policy, and the listener of each if it names
// one.
func (p *ClientTrafficPolicy) targets() []policyTarget {
	var list []policyTarget
	for _, ref := range p.Spec.Targets {
		if ref.Group != gatewayv1.GroupName || ref.Kind != kindGateway {
			continue
		}
		t := policyTarget{gateway: types.NamespacedName{Namespace: p.Namespace, Name: string(ref.Name)}, section: value(ref.SectionName)}
		if ref.Namespace != nil && string(*ref.Namespace) != p.Namespace {
			t.elsewhere = true
			t.gateway.Namespace = string(*ref.Namespace)
		}
		list = append(list, t)
	}
	return list
}

type policyTarget struct {
	gateway   types.NamespacedName
	section   gatewayv1.SectionName // "" = all listeners
	elsewhere bool                  // in another namespace than the policy, which it may not be
}

// trafficPolicies are the ClientTrafficPolicies, and what became of them.
type trafficPolicies struct {
	objects map[types.NamespacedName]*ClientTrafficPolicy
	stale   bool
	cache   []Status
}

func newTrafficPolicies() *trafficPolicies {
	return &trafficPolicies{objects: make(map[types.NamespacedName]*ClientTrafficPolicy)}
}

func (c *trafficPolicies) set(p *ClientTrafficPolicy) {
	c.objects[nameOf(p)], c.stale = p, true
}

func (c *trafficPolicies) delete(name types.NamespacedName) {
	delete(c.objects, name)
	c.stale = true
}

// clientStatuses are the statuses of ClientTrafficPolicies. Of two for the same
// target the older has effect.
func (t *Translator) clientStatuses() []Status {
	if !t.clients.stale {
		return t.clients.cache
	}
	t.clients.stale, t.clients.cache = false, nil
	list := slices.SortedFunc(maps.Values(t.clients.objects), func(a, b *ClientTrafficPolicy) int {
		if c := a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return compareNames(nameOf(a), nameOf(b))
	})
	taken := make(map[policyTarget]types.NamespacedName)
	for _, p := range list {
		s := Status{Kind: "ClientTrafficPolicy", Namespace: p.Namespace, Name: p.Name, UID: p.UID, Generation: p.Generation, Controllers: t.options.ControllerNames}
		for _, target := range p.targets() {
			g := t.gateways[target.gateway]
			if g == nil || g.controller == "" {
				continue
			}
			accepted := is(gatewayv1.PolicyConditionAccepted, gatewayv1.PolicyReasonAccepted, p.effect())
			if v := t.refuseClientPolicy(p, target, g, taken); !v.ok() {
				accepted = isNot(gatewayv1.PolicyConditionAccepted, v)
			}
			var section *gatewayv1.SectionName
			if target.section != "" {
				section = new(target.section)
			}
			ref := gatewayRef(target.gateway, section)
			s.Ancestors = append(s.Ancestors, gatewayv1.PolicyAncestorStatus{
				AncestorRef:    ref,
				ControllerName: gatewayv1.GatewayController(g.controller),
				Conditions:     conditions(ancestorConditions(p.Status.Ancestors, ref, g.controller), p.Generation, t.options.Now(), accepted),
			})
		}
		s.Ancestors = t.fit(s.Ancestors, p.Status.Ancestors)
		if len(s.Ancestors) > 0 || t.ancestorsOfOurs(p.Status.Ancestors) {
			t.clients.cache = append(t.clients.cache, s)
		}
	}
	slices.SortFunc(t.clients.cache, func(a, b Status) int {
		return compareNames(types.NamespacedName{Namespace: a.Namespace, Name: a.Name}, types.NamespacedName{Namespace: b.Namespace, Name: b.Name})
	})
	return t.clients.cache
}

func (p *ClientTrafficPolicy) effect() string {
	if p.Spec.HTTP3 {
		return "HTTP/3 is served by every HTTPS listener that does not turn it off itself"
	}
	return "the policy says nothing; HTTP/3 is served with and without it"
}

// refuseClientPolicy says why a policy has no effect on a target.
func (t *Translator) refuseClientPolicy(p *ClientTrafficPolicy, target policyTarget, g *gateway, taken map[policyTarget]types.NamespacedName) verdict {
	if target.elsewhere {
		return because(gatewayv1.PolicyReasonInvalid, fmt.Sprintf("the policy is in namespace %q, and so must be the Gateway it is for", p.Namespace))
	}
	if target.section != "" && !slices.ContainsFunc(g.owners[0].listeners, func(l *listener) bool { return l.name == string(target.section) }) {
		return because(gatewayv1.PolicyReasonTargetNotFound, fmt.Sprintf("Gateway %s has no listener %q", target.gateway, target.section))
	}
	if by, ok := taken[target]; ok {
		return because(gatewayv1.PolicyReasonConflicted, fmt.Sprintf("ClientTrafficPolicy %s is older and for the same target", by))
	}
	taken[target] = nameOf(p)
	if len(p.Spec.Refused) > 0 {
		return because(gatewayv1.PolicyReasonInvalid,
			fmt.Sprintf("of a ClientTrafficPolicy only http3: {} is supported, and this one also says %s; remove that, or what it asks for would silently not be done",
				strings.Join(p.Spec.Refused, ", ")))
	}
	return verdict{}
}
