package kube

import "time"

// KindStatus is how one kind of object is followed.
type KindStatus struct {
	// Name is resource.group, as in "authorizationpolicies.security.istio.io";
	// core kinds have no group.
	Name string
	// Present says that the API server has the kind. Until it has answered, that
	// is not known, and false.
	Present bool
	// Synced says that everything of this kind has been seen.
	Synced bool
	// Connected says that the last request to the API server succeeded.
	Connected bool
	// Objects is how many there are.
	Objects int
	// LastContact is when the API server last sent anything of this kind.
	LastContact time.Time
	// Error is why the kind is not followed, "" if it is.
	Error string
}
