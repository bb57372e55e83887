package gateway

import (
	"maps"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// statusCache holds statuses that are still true, and the order of objects.
type statusCache struct {
	classes    map[string]*Status
	policyObjs map[types.NamespacedName]*gatewayv1.BackendTLSPolicy
	policies   []Status
	routes     sortedKeys
	length     int // of the last list
}

func (c *statusCache) dropClass(name string) { delete(c.classes, name) }

// sortedKeys is a set of routes that is gone through in order.
type sortedKeys struct {
	keys  set[routeKey]
	order []routeKey
}

func (s *sortedKeys) add(k routeKey) {
	if s.keys == nil {
		s.keys = make(set[routeKey])
	}
	s.keys.add(k)
	s.order = nil
}

func (s *sortedKeys) remove(k routeKey) {
	delete(s.keys, k)
	s.order = nil
}

func (s *sortedKeys) all() []routeKey {
	if s.order == nil {
		s.order = slices.SortedFunc(maps.Keys(s.keys), func(a, b routeKey) int {
			if a.kind != b.kind {
				return strings.Compare(a.kind, b.kind)
			}
			return compareNames(a.NamespacedName, b.NamespacedName)
		})
	}
	return s.order
}

// Statuses is what the status of every object should say after the last Build:
// classes, Gateways and their ListenerSets, routes, policies, each in order of
// name. applied is what the Config of that Build came to, and placed where the
// Gateways are reached; a Gateway that placed does not have is not programmed.
func (t *Translator) Statuses(applied ingress.Applied, placed map[types.NamespacedName]Placement) []Status {
	list := make([]Status, 0, t.cache.length)
	for _, name := range slices.Sorted(maps.Keys(t.classes)) {
		if c := t.classes[name]; slices.Contains(t.options.ControllerNames, string(c.Spec.ControllerName)) {
			if t.cache.classes == nil {
				t.cache.classes = make(map[string]*Status)
			}
			if t.cache.classes[name] == nil {
				t.cache.classes[name] = new(t.classStatus(c))
			}
			list = append(list, *t.cache.classes[name])
		}
	}
	for _, g := range t.ours() {
		list = append(list, t.gatewayStatuses(g, applied, placed)...)
	}
	for _, key := range t.cache.routes.all() {
		s := t.routes[key]
		if s.status == nil {
			s.status = new(t.routeStatus(s))
		}
		if len(s.status.Parents) > 0 || t.hasOurs(s) {
			list = append(list, *s.status)
		}
	}
	list = append(list, t.policyStatuses()...)
	list = append(list, t.clientStatuses()...)
	t.cache.length = len(list)
	return list
}

// hasOurs says whether the route's status has entries that this controller wrote.
func (t *Translator) hasOurs(s *routeState) bool {
	return slices.ContainsFunc(s.current.Parents, func(p gatewayv1.RouteParentStatus) bool {
		return slices.Contains(t.options.ControllerNames, string(p.ControllerName))
	})
}

func (c *statusCache) setPolicy(o *gatewayv1.BackendTLSPolicy) {
	if c.policyObjs == nil {
		c.policyObjs = make(map[types.NamespacedName]*gatewayv1.BackendTLSPolicy)
	}
	c.policyObjs[nameOf(o)], c.policies = o, nil
}

func (c *statusCache) deletePolicy(name types.NamespacedName) {
	delete(c.policyObjs, name)
	c.policies = nil
}

// maxAncestors is how many entries a policy's status holds, whoever they are of.
const maxAncestors = 16

// policyStatuses are those of BackendTLSPolicies.
func (t *Translator) policyStatuses() []Status {
	if t.cache.policies != nil && !t.policiesStale {
		return t.cache.policies
	}
	t.policiesStale = false
	t.cache.policies = []Status{}
	if len(t.cache.policyObjs) == 0 {
		return nil
	}
	for _, p := range t.index.PolicyStatuses(t.gatewaysTo) {
		o := t.cache.policyObjs[p.Policy]
		if o == nil {
			continue
		}
		s := Status{Kind: "BackendTLSPolicy", Namespace: o.Namespace, Name: o.Name, UID: o.UID, Generation: p.Generation, Controllers: t.options.ControllerNames}
		for _, a := range p.Ancestors {
			g := t.gateways[a.Gateway]
			if g == nil {
				continue
			}
			ref := gatewayRef(a.Gateway, nil)
			var wanted []condition
			for _, c := range a.Conditions {
				wanted = append(wanted, condition{c.Type, c.Status, c.Reason, c.Message})
			}
			s.Ancestors = append(s.Ancestors, gatewayv1.PolicyAncestorStatus{
				AncestorRef:    ref,
				ControllerName: gatewayv1.GatewayController(g.controller),
				Conditions:     conditions(ancestorConditions(o.Status.Ancestors, ref, g.controller), p.Generation, t.options.Now(), wanted...),
			})
		}
		s.Ancestors = t.fit(s.Ancestors, o.Status.Ancestors)
		if len(s.Ancestors) > 0 || t.ancestorsOfOurs(o.Status.Ancestors) {
			t.cache.policies = append(t.cache.policies, s)
		}
	}
	return t.cache.policies
}

// fit leaves room in a status for the entries of other controllers.
func (t *Translator) fit(ours, current []gatewayv1.PolicyAncestorStatus) []gatewayv1.PolicyAncestorStatus {
	room := maxAncestors
	for _, a := range current {
		if !slices.Contains(t.options.ControllerNames, string(a.ControllerName)) {
			room--
		}
	}
	return ours[:min(len(ours), max(room, 0))]
}

func (t *Translator) ancestorsOfOurs(current []gatewayv1.PolicyAncestorStatus) bool {
	return slices.ContainsFunc(current, func(a gatewayv1.PolicyAncestorStatus) bool {
		return slices.Contains(t.options.ControllerNames, string(a.ControllerName))
	})
}

// gatewaysTo are the Gateways of which a route that is attached leads to a
// Service, in order of name.
func (t *Translator) gatewaysTo(service types.NamespacedName) []types.NamespacedName {
	names := make(set[types.NamespacedName])
	for key := range t.routesTo[service] {
		names.addAll(t.routes[key].gateways())
	}
	return slices.SortedFunc(maps.Keys(names), compareNames)
}

// gatewayRef names a Gateway, or a listener of it, as an ancestor.
func gatewayRef(name types.NamespacedName, section *gatewayv1.SectionName) gatewayv1.ParentReference {
	return gatewayv1.ParentReference{
		Group:       new(gatewayv1.Group(gatewayv1.GroupName)),
		Kind:        new(gatewayv1.Kind(kindGateway)),
		Namespace:   new(gatewayv1.Namespace(name.Namespace)),
		Name:        gatewayv1.ObjectName(name.Name),
		SectionName: section,
	}
}

func ancestorConditions(list []gatewayv1.PolicyAncestorStatus, ref gatewayv1.ParentReference, controller string) []metav1.Condition {
	for _, a := range list {
		if string(a.ControllerName) == controller && sameRef(a.AncestorRef, ref) {
			return a.Conditions
		}
	}
	return nil
}
