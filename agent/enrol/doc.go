// Package enrol finds the network namespaces of a node's Kubernetes pods that
// are to be captured.
//
// A namespace comes from the pod's container runtime, by way of the CNI plugin
// (cmd/adit-cni), before the pod's first process starts; the plugin waits until
// the pod is captured. For pods that run already when the agent starts, or were
// labelled later, it comes from /proc, by the pod's UID in the name of a
// process's cgroup. Either is believed only if the pod's address is found
// inside.
//
//	kubelet ─ runtime ─ adit-cni ──ADD, netns──> Enrol ──Set──> Enroller
//	                        ^                      │  ^            │
//	                        └──────── ok ──────────┘  └─── Wait ───┘
//
// A pod is released only because Kubernetes says that it is not to be captured.
// One that Kubernetes does not list, because it has been deleted by force or
// the API server has not got round to it, stays captured until its sandbox is
// over: its processes may still be there.
//
// # Limitations
//
// A pod that its runtime starts without calling the plugin is captured only
// once it runs, and once its address is in its status.
//
// The agent has to be in the PID namespace of the node, and may not be captured
// itself.
package enrol
