// Package kube is the Kubernetes API as a source of the mesh: it follows the
// cluster's objects and writes workloads, services and policies to a
// mesh.Store, and it decides which pods of its node are to be captured.
//
// It takes the part that istiod has in Istio's ambient mode, for one node at a
// time. Each agent follows pods, services, EndpointSlices, namespaces and nodes,
// and Istio's PeerAuthentication and AuthorizationPolicy once the API server has
// those kinds. Nothing is in the store before everything has been seen, so that
// no workload comes before its policies. While the API server is away, what is
// known stays in force.
//
// # From an event to the store
//
//	API server ─ Reflector ─ tracker: object → record      (record: what is used of it)
//	                            │
//	                          world: put in its table, mark by the indexes what depends on it
//	                            │   a few milliseconds, for the rest of a burst
//	                          batch: build what is marked, drop what is as in the store
//	                            │
//	                          mesh.Store.Apply
//
// One changed endpoint is one workload built, whatever the size of its service.
//
// # How a peer is dialled
//
// A peer must be dialled by HBONE exactly while the agent of its node captures
// it. Only that agent knows, and what it says travels by way of the API server:
// the annotation ambient.istio.io/redirection=enabled. So the protocol of a pod
// is that of its annotation, whatever its labels say by now:
//
//   - A new pod is captured by the CNI plugin before its first process runs, and
//     annotated then, normally before its status has an address. Nobody dials it
//     before.
//   - A running pod that has just been labelled still takes plaintext, and no
//     tunnel, until its agent has got to it. The annotation comes after that.
//   - A pod that has just lost its label takes tunnels until its agent lets go of
//     it, which removes the annotation when plaintext passes again.
//   - While an agent restarts, the rules in its pods stay, and so does the
//     annotation. Plaintext would not get through either.
//
// Between capture and the sight of the annotation a peer is dialled in
// plaintext. A PERMISSIVE pod takes that. One whose PeerAuthentication is STRICT,
// on any port, and whose labels ask for capture, is dialled by HBONE without
// waiting for the annotation: its owner has said that plaintext must not be, so
// a connection that fails until the pod is captured is the right answer, and one
// in plaintext never is. Nor does removing the annotation by hand, or a node
// that has no agent, make such a pod's peers talk in plaintext.
//
// For the pods of its own node an agent goes by what Annotate was told last, not
// by what the API server has of it.
//
// # Endpoints
//
// Which pods serve a service is what its EndpointSlices say, as for kube-proxy;
// whether they are ready is what the pods say, which is known first. An endpoint
// that names no pod is the pod at its address, if there is one in the mesh, else
// a workload of its own that is dialled in plaintext. Of two pods with one
// address the one whose sandbox was made last has it.
//
// # Limitations
//
// Waypoints, ServiceEntries, WorkloadEntries, other clusters and other networks
// are not followed: a label istio.io/use-waypoint has no effect here, nor has a
// policy with targetRefs. Session affinity, topology hints and the fallback to
// endpoints that are terminating are not imitated. A service is found by its
// cluster IPs and its load balancer's, not by externalIPs. A service of type
// ExternalName is not part of the mesh: its clients are carried to what the name
// resolves to. An address that is excluded from a load balancer by
// loadBalancerSourceRanges is not excluded for pods of the mesh.
//
// Only security.istio.io/v1 is read; the API server serves it for objects of
// other versions too.
package kube
