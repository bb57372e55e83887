// Package kube is the Kubernetes API as a source of Gateway API: every pod of
// the edge follows it and compiles its own configuration, and one of them writes
// statuses and keeps a Service for each Gateway.
//
//	API server ─ reflectors ─ inbox: the latest of each object
//	                            │   a few milliseconds, for the rest of a burst
//	                          owner: Translator ─ Build ─ apply
//	                            │   what should be written
//	                          leader: Services, statuses           (has the Lease)
//
// One goroutine owns the Translator. Kinds that the API server does not have are
// asked for again and again, and followed once it has them. Nothing is applied
// before everything that there is has been seen; while the API server is away,
// what was applied stays in force.
//
// # Services
//
// A Gateway has a Service of type LoadBalancer in the namespace of the edge's
// pods, whose ports go to target ports of this Gateway's own: many Gateways can
// have a port 443 and share the pods. The target ports are recorded in the
// Service itself and nowhere else, so all pods agree on them. A port has the same
// target port for TCP and UDP. In the Gateway's namespace there is an ExternalName
// beside it, by which pods can reach the Gateway.
//
// externalTrafficPolicy is Local: with Cluster, nodes hide the client's address
// behind their own. The balancer's health checks find the nodes that have a pod.
//
// # Secrets
//
// Those of type kubernetes.io/tls are followed, in all namespaces; others, and
// ConfigMaps, one by one as long as something refers to them. Of a Secret only
// certificate, key and CA are kept.
//
// # Limitations
//
// A Gateway has one load balancer, so of spec.addresses one of a family can be
// had. infrastructure.parametersRef means nothing. What this pod has applied
// counts as applied: other pods may be some milliseconds behind.
package kube
