package gateway

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listenerSet is a ListenerSet, and what became of it.
type listenerSet struct {
	obj *gatewayv1.ListenerSet
}

func (s *listenerSet) gateway() types.NamespacedName {
	ref := s.obj.Spec.ParentRef
	name := types.NamespacedName{Namespace: s.obj.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil {
		name.Namespace = string(*ref.Namespace)
	}
	return name
}

// ofGateway says whether the parent is a Gateway at all.
func (s *listenerSet) ofGateway() bool {
	ref := s.obj.Spec.ParentRef
	return (ref.Group == nil || *ref.Group == gatewayv1.GroupName) && (ref.Kind == nil || *ref.Kind == kindGateway)
}

func (s *listenerSet) parent() parent { return parent{kindListenerSet, nameOf(s.obj)} }

func (t *Translator) setListenerSet(o *gatewayv1.ListenerSet) {
	name := nameOf(o)
	s := t.sets[name]
	switch {
	case s == nil:
		s = &listenerSet{}
		t.sets[name] = s
	case unchanged(s.obj, o, s.obj.Spec, o.Spec):
		s.obj = o
		if g := t.gateways[s.gateway()]; g != nil {
			g.status = nil
		}
		return
	default:
		t.unlinkSet(s)
	}
	s.obj = o
	if s.ofGateway() {
		t.setsOf.add(s.gateway(), name)
		t.setsIn.add(name.Namespace, name)
		t.staleGateways.add(s.gateway())
	}
}

func (t *Translator) deleteListenerSet(name types.NamespacedName) {
	if s := t.sets[name]; s != nil {
		t.unlinkSet(s)
		delete(t.sets, name)
	}
}

// unlinkSet takes a ListenerSet from the Gateway that it names.
func (t *Translator) unlinkSet(s *listenerSet) {
	name := nameOf(s.obj)
	t.setsOf.remove(s.gateway(), name)
	t.setsIn.remove(name.Namespace, name)
	t.staleGateways.add(s.gateway())
	// Routes of it are known by no Gateway until the next plan, or for ever.
	t.staleRoutes.addAll(t.routesOf[s.parent()])
}

// listenerSets are those that name the Gateway, in order of precedence: the older
// first, then by name.
func (t *Translator) listenerSets(gateway types.NamespacedName) []*listenerSet {
	var list []*listenerSet
	for name := range t.setsOf[gateway] {
		list = append(list, t.sets[name])
	}
	slices.SortFunc(list, func(a, b *listenerSet) int {
		return cmp.Or(
			a.obj.CreationTimestamp.Time.Compare(b.obj.CreationTimestamp.Time),
			cmp.Compare(a.obj.Namespace, b.obj.Namespace),
			cmp.Compare(a.obj.Name, b.obj.Name))
	})
	return list
}

// allowedSets is spec.allowedListeners.
func allowedSets(g *gatewayv1.Gateway) (namespaceRule, error) {
	rule := namespaceRule{from: gatewayv1.NamespacesFromNone}
	if g.Spec.AllowedListeners == nil || g.Spec.AllowedListeners.Namespaces == nil {
		return rule, nil
	}
	n := g.Spec.AllowedListeners.Namespaces
	rule, err := newNamespaceRule(n.From, n.Selector, g.Namespace, gatewayv1.NamespacesFromNone)
	if err != nil {
		return namespaceRule{from: gatewayv1.NamespacesFromNone}, fmt.Errorf("allowedListeners.namespaces.selector: %w", err)
	}
	return rule, nil
}

// entries are the listeners of a ListenerSet in the form of a Gateway's.
func (s *listenerSet) entries() []gatewayv1.Listener {
	list := make([]gatewayv1.Listener, 0, len(s.obj.Spec.Listeners))
	for _, e := range s.obj.Spec.Listeners {
		list = append(list, gatewayv1.Listener(e))
	}
	return list
}
