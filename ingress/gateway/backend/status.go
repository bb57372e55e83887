package backend

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	return nil
}
