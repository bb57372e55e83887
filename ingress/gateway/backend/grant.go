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
func (x *Index) Permits(from Referrer, to Referent) bool { return false }
