// Package lab builds small networks out of Linux network namespaces: nodes, pods, the links between them,
// and the evidence of what crossed those links.
//
// Everything goes over netlink; no program is run to build a topology. A namespace appears under /run/netns,
// so `ip netns exec` works on it while the lab stands. The namespace of the calling process is never changed:
// links are created inside lab namespaces with both ends where they belong.
//
//	l, err := lab.New("demo-")
//	defer l.Close()
//	node, err := l.Namespace("node")     // /run/netns/demo-node, lo is up
//	pod, err := l.Namespace("client")
//	err = l.Veth(pod, "eth0", node, "client")
//	err = pod.AddAddr("eth0", netip.MustParsePrefix("10.244.1.2/24"))
//
// # Limitations
//
// Linux only. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN over the namespaces it makes: root, or root of a user
// namespace with its own mount namespace (package labtest arranges that for tests).
package lab
