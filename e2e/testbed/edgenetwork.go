package testbed

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/adit-mesh/adit/e2e/lab"
)

// EdgeIdentity is who the edge is in the mesh.
const EdgeIdentity = "spiffe://" + TrustDomain + "/ns/adit-system/sa/adit-ingress"

// OnlyEdge lets the edge's identity in, and so nobody else.
const OnlyEdge = `# Whoever is not named here is refused.
- name: only-the-edge
  namespace: ` + Namespace + `
  scope: Namespace
  action: Allow
  rules:
  - - - principals: [{Exact: ` + TrustDomain + `/ns/adit-system/sa/adit-ingress}]
`

// EdgeNetwork is a machine at the border, a client outside, and a node with two
// pods inside:
//
//	client ═══ eth0 [edge] eth1 ═══ link ═══ eth0 [node] cni0 ─┬─ web
//	                                                           └─ next
//
// The node's end of a pod's link has the name of the pod.
type EdgeNetwork struct {
	Client, Edge *lab.Namespace
	// Outside is where clients reach the edge.
	Outside, Outside6 netip.Addr
	ClientV4          netip.Addr
	Node              *Node
	Web, Next         *Pod
}

// BuildEdge makes the network in l, whose Close removes it.
func BuildEdge(l *lab.Lab) (*EdgeNetwork, error) {
	node := &Node{
		Name: "node",
		V4:   netip.MustParseAddr("172.30.0.2"), V6: netip.MustParseAddr("fd00:30::2"),
		gateway4: netip.MustParsePrefix("10.244.2.1/24"), gateway6: netip.MustParsePrefix("fd00:244:2::1/64"),
	}
	n := &EdgeNetwork{
		Outside: netip.MustParseAddr("172.18.255.200"), Outside6: netip.MustParseAddr("fd00:18::200"),
		ClientV4: netip.MustParseAddr("172.18.0.1"),
		Node:     node,
		Web: &Pod{Name: "web", Account: "web", Server: true, Node: node,
			V4: netip.MustParseAddr("10.244.2.2"), V6: netip.MustParseAddr("fd00:244:2::2")},
		Next: &Pod{Name: "next", Account: "web", Server: true, Node: node,
			V4: netip.MustParseAddr("10.244.2.3"), V6: netip.MustParseAddr("fd00:244:2::3")},
	}
	var err error
	if n.Client, err = l.Namespace("client"); err != nil {
		return nil, err
	}
	if n.Edge, err = l.Namespace("edge"); err != nil {
		return nil, err
	}
	err = firstError(
		func() error { return node.create(l) },
		func() error { return l.Veth(n.Client, "eth0", n.Edge, "eth0") },
		func() error { return n.Client.AddAddr("eth0", netip.PrefixFrom(n.ClientV4, 16)) },
		func() error { return n.Client.AddAddr("eth0", netip.MustParsePrefix("fd00:18::1/64")) },
		func() error { return n.Edge.AddAddr("eth0", netip.PrefixFrom(n.Outside, 16)) },
		func() error { return n.Edge.AddAddr("eth0", netip.PrefixFrom(n.Outside6, 64)) },
		func() error { return l.Veth(n.Edge, "eth1", node.NS, "eth0") },
		func() error { return n.Edge.AddAddr("eth1", netip.MustParsePrefix("172.30.0.1/24")) },
		func() error { return n.Edge.AddAddr("eth1", netip.MustParsePrefix("fd00:30::1/64")) },
		func() error { return node.NS.AddAddr("eth0", netip.PrefixFrom(node.V4, 24)) },
		func() error { return node.NS.AddAddr("eth0", netip.PrefixFrom(node.V6, 64)) },
		func() error { return n.Edge.AddRoute(node.gateway4.Masked(), node.V4, "") },
		func() error { return n.Edge.AddRoute(node.gateway6.Masked(), node.V6, "") },
		func() error { return n.Web.create(l) },
		func() error { return n.Next.create(l) },
	)
	if err != nil {
		return nil, err
	}
	return n, l.Settle()
}

// World is the mesh file that the edge and the node's agent read, with pods as
// its workloads and policies given as a YAML list.
func (n *EdgeNetwork) World(policies string, pods ...*Pod) string {
	var b strings.Builder
	b.WriteString("# Read by the edge and by the node's agent. Save a change and they follow it at once.\nworkloads:")
	if len(pods) == 0 {
		b.WriteString(" []")
	}
	b.WriteString("\n")
	for _, p := range pods {
		b.WriteString(p.workload())
	}
	if policies != "" {
		b.WriteString("policies:\n" + policies)
	}
	return b.String()
}

// workload is the pod's entry in a mesh file.
func (p *Pod) workload() string {
	return fmt.Sprintf(`- uid: demo//v1/Pod/%[1]s/%[2]s
  name: %[2]s
  namespace: %[1]s
  workloadName: %[2]s
  canonicalName: %[2]s
  serviceAccount: %[3]s
  trustDomain: %[4]s
  node: %[5]s
  netns: %[6]s
  workloadIps: [%[7]s, "%[8]s"]
  protocol: HBONE
`, Namespace, p.Name, p.Account, TrustDomain, p.Node.Name, p.NS.Path(), p.V4, p.V6)
}
