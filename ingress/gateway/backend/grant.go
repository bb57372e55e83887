package backend

import gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

// Referrer is an object that refers to another one.
type Referrer struct {
	Group     gatewayv1.Group
	Kind      gatewayv1.Kind
	Namespace string
}

// Referent is the object that is referred to.
type Referent struct {
	Group     gatewayv1.Group
	Kind      gatewayv1.Kind
	Namespace string
	Name      string
}

// Permits says whether from may refer to to: it is in the same namespace, or a
// ReferenceGrant there allows it.
func (x *Index) Permits(from Referrer, to Referent) bool {
	if from.Namespace == to.Namespace {
		return true
	}
	for _, g := range x.grants[to.Namespace] {
		if grants(&g.Spec, from, to) {
			return true
		}
	}
	return false
}

func grants(g *gatewayv1.ReferenceGrantSpec, from Referrer, to Referent) bool {
	for _, f := range g.From {
		if f.Group != from.Group || f.Kind != from.Kind || string(f.Namespace) != from.Namespace {
			continue
		}
		for _, t := range g.To {
			if t.Group == to.Group && t.Kind == to.Kind && (t.Name == nil || *t.Name == "" || string(*t.Name) == to.Name) {
				return true
			}
		}
	}
	return false
}
