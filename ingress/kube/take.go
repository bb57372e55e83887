package kube

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// twice is a Secret as it comes by its type, and by its name.
type twice struct{ byType, byName object }

// take passes on what changed.
func (s *Source) take(ctx context.Context) {
	referring := false
	for k, o := range s.inbox.take() {
		if k.kind == "Secret" || k.kind == kindTLSSecret {
			if s.takeSecret(k, o) {
				referring = true
			}
			continue
		}
		referring = s.takeOne(k, o) || referring
	}
	if referring {
		s.named.set(ctx, s.wantNamed())
	}
	s.index.settle()
}

// takeOne passes on one object, and says whether it refers to others by name.
func (s *Source) takeOne(k key, o object) (refers bool) {
	if _, _, custom := resourceOf(k.kind); custom && k.kind != "ReferenceGrant" {
		s.mu.Lock()
		if o == nil {
			delete(s.objects, k)
		} else {
			s.objects[k] = o
		}
		s.mu.Unlock()
	}
	switch k.kind {
	case "Gateway":
		if o == nil {
			delete(s.gateways, k.NamespacedName)
		} else {
			s.gateways[k.NamespacedName] = o.(*gatewayv1.Gateway)
		}
		refers = true
	case "ListenerSet", "BackendTLSPolicy":
		refers = true
	case kindDefinition:
		s.takeDefinition(k.Name, o)
		return false
	case "Service":
		svc, _ := o.(*corev1.Service)
		s.index.set(k.NamespacedName, svc)
	}
	if refers {
		delete(s.refs, k)
		if o != nil {
			if refs := references(o); len(refs) > 0 {
				s.refs[k] = refs
			}
		}
	}
	if o == nil {
		s.translator.Delete(k.kind, k.Namespace, k.Name)
	} else {
		s.translator.Set(o)
	}
	return refers
}

// takeDefinition tells the translator when other versions of Gateway API are
// installed than before.
func (s *Source) takeDefinition(name string, o object) {
	bundle := ""
	if o != nil {
		bundle = o.GetAnnotations()[annotationBundle]
	}
	if s.bundles[name] == bundle {
		return
	}
	if s.bundles[name] = bundle; bundle == "" {
		delete(s.bundles, name)
	}
	s.translator.SetCRDVersions(slices.Compact(slices.Sorted(maps.Values(s.bundles))))
}

// takeSecret passes on a Secret, and says whether it has come or gone by its
// type.
func (s *Source) takeSecret(k key, o object) (moved bool) {
	was := s.secrets[k.NamespacedName]
	now := was
	if k.kind == kindTLSSecret {
		now.byType = o
		moved = (was.byType == nil) != (now.byType == nil)
	} else {
		now.byName = o
	}
	if now == (twice{}) {
		delete(s.secrets, k.NamespacedName)
		s.translator.Delete("Secret", k.Namespace, k.Name)
		return moved
	}
	s.secrets[k.NamespacedName] = now
	s.translator.Set(cmp.Or(now.byType, now.byName))
	return moved
}

// wantNamed are the objects to be followed by their names: those that something
// refers to, and that do not come by their type.
func (s *Source) wantNamed() map[key]bool {
	by := make(map[string][]key)
	for who, refs := range s.refs {
		for _, k := range refs {
			if k.kind != "Secret" || s.secrets[k.NamespacedName].byType == nil {
				by[who.Namespace] = append(by[who.Namespace], k)
			}
		}
	}
	return fairly(by, maxNamed)
}

// fairly takes at most so many keys, the same share of each namespace that refers
// to some: one that refers to thousands shall not take what another needs. The choice is the
// same each time, so what is followed stays.
func fairly(by map[string][]key, most int) map[key]bool {
	want := make(map[key]bool)
	for n, refs := range by {
		slices.SortFunc(refs, func(a, b key) int { return strings.Compare(a.String(), b.String()) })
		by[n] = slices.Compact(refs)
	}
	namespaces := slices.Sorted(maps.Keys(by))
	for i, more := 0, true; more; i++ {
		more = false
		for _, n := range namespaces {
			if refs := by[n]; i < len(refs) {
				if len(want) == most {
					return want
				}
				want[refs[i]], more = true, true
			}
		}
	}
	return want
}
