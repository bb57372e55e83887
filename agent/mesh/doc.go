// Package mesh is what the agent knows of the mesh: workloads, services and
// policies, and the routing decisions that follow from them.
//
// A Store holds the world. Sources (the static file here; istiod and
// Kubernetes elsewhere) write to it with Apply and Replace; the proxy asks it
// for routes. Every question is answered from one immutable snapshot, so an
// answer never mixes two states of the world, and readers never wait for
// writers.
//
// # Limitations
//
// Endpoints on another network need double HBONE through a network gateway,
// which is not implemented: they are never chosen. Workloads that have a
// hostname instead of an address are never chosen either. A tunnel is only
// delivered to the workload's own address: workloads that want their tunnels
// handed on (application tunnels, waypoints behind this agent) are not served.
package mesh
