// Package cluster runs a real Kubernetes cluster on one machine: etcd, API server and controllers on a control
// plane, and containerd, kubelet and kube-proxy on each of two or more nodes. It needs neither Docker nor a registry.
//
//	c, err := cluster.Up(ctx, cluster.Config{})
//	defer c.Down(ctx)
//	out, err := c.Kubectl(ctx, "apply", "-k", "deploy/overlays/default")
//
// Every node is a set of namespaces (network, processes, mounts, host name) around a process 1 of its own, so that
// /etc/cni/net.d, /opt/cni/bin, /run and /var/lib are the node's, a pod with hostPID sees the node's processes, and
// killing one process ends a node with all that is on it. The nodes are joined by a switch in the control plane's
// network namespace; the host's is left alone. From the host the API server is at a port of 127.0.0.1.
//
// A cluster outlives the process that made it: Attach finds it again and Down removes it. What an interrupted Up left
// is removed by the next Up or Down, found by the namespaces it is in rather than by remembered process numbers.
//
// # Limitations
//
// Linux, root, one cluster of a name on a machine. It is run with cgroup version 1, as there is on the machine it is
// developed on; with version 2 the controllers have to be enabled in the root group. Kernel settings that a kubelet
// wants and that are not per namespace are shown to it, not made. Containers may use all of the host's memory.
package cluster
