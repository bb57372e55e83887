package kube

// Annotate sets the annotation ambient.istio.io/redirection of a pod to state,
// "enabled", "pending" or "" for none. It never blocks: the annotation is
// written when the API server takes it, the last state counts, and a pod that
// is gone is forgotten. For the routes of this agent the state holds at once.
func (s *Source) Annotate(ref PodRef, state string) {}

// Event tells whoever looks at a pod with kubectl describe. kind is "Normal"
// or "Warning", reason one word in CamelCase. Events of one pod with one reason
// are one event that is counted. It never blocks; what cannot be written soon
// is lost.
func (s *Source) Event(ref PodRef, kind, reason, message string) {}
