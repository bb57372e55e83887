package testbed

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// What all pods have in common.
const (
	TrustDomain = "cluster.local"
	Namespace   = "demo"
	ServiceHost = "server.demo.svc.cluster.local"
	ServicePort = 80
	AppPort     = 8080
)

// ServiceVIP is the address of the one service, which server-b stands behind.
var ServiceVIP = netip.MustParseAddr("10.96.0.10")

// Node is a network namespace with a bridge for its pods.
type Node struct {
	Name   string
	V4, V6 netip.Addr // on the link between the nodes
	NS     *lab.Namespace

	gateway4, gateway6 netip.Prefix // on the bridge
}

// Pod is a network namespace on a node's bridge.
type Pod struct {
	Name    string
	Account string // service account
	Server  bool   // an application listens on AppPort
	Node    *Node
	V4, V6  netip.Addr
	NS      *lab.Namespace
}

// Identity is the SPIFFE ID that Istio gives a pod of this service account.
func (p *Pod) Identity() string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", TrustDomain, Namespace, p.Account)
}

// Network is the two nodes and the four pods, routed as a cluster's pod network
// is:
//
//	client ──┐                                            ┌── server-b
//	intruder ┼─ cni0 [node-a] eth0 ════ link ════ eth0 [node-b] cni0
//	server-a ┘
//
// The node's end of a pod's link has the name of the pod.
type Network struct {
	NodeA, NodeB                       *Node
	Client, Intruder, ServerA, ServerB *Pod
	Nodes                              []*Node
	Pods                               []*Pod
}

// Build makes the network in l, whose Close removes it.
func Build(l *lab.Lab) (*Network, error) {
	a := &Node{
		Name: "node-a",
		V4:   netip.MustParseAddr("172.30.0.1"), V6: netip.MustParseAddr("fd00:30::1"),
		gateway4: netip.MustParsePrefix("10.244.1.1/24"), gateway6: netip.MustParsePrefix("fd00:244:1::1/64"),
	}
	b := &Node{
		Name: "node-b",
		V4:   netip.MustParseAddr("172.30.0.2"), V6: netip.MustParseAddr("fd00:30::2"),
		gateway4: netip.MustParsePrefix("10.244.2.1/24"), gateway6: netip.MustParsePrefix("fd00:244:2::1/64"),
	}
	n := &Network{
		NodeA: a, NodeB: b,
		Client: &Pod{Name: "client", Account: "client", Node: a,
			V4: netip.MustParseAddr("10.244.1.2"), V6: netip.MustParseAddr("fd00:244:1::2")},
		Intruder: &Pod{Name: "intruder", Account: "intruder", Node: a,
			V4: netip.MustParseAddr("10.244.1.3"), V6: netip.MustParseAddr("fd00:244:1::3")},
		ServerA: &Pod{Name: "server-a", Account: "server", Server: true, Node: a,
			V4: netip.MustParseAddr("10.244.1.4"), V6: netip.MustParseAddr("fd00:244:1::4")},
		ServerB: &Pod{Name: "server-b", Account: "server", Server: true, Node: b,
			V4: netip.MustParseAddr("10.244.2.2"), V6: netip.MustParseAddr("fd00:244:2::2")},
	}
	n.Nodes = []*Node{n.NodeA, n.NodeB}
	n.Pods = []*Pod{n.Client, n.Intruder, n.ServerA, n.ServerB}
	for _, node := range n.Nodes {
		if err := node.create(l); err != nil {
			return nil, err
		}
	}
	if err := n.joinNodes(l); err != nil {
		return nil, err
	}
	for _, p := range n.Pods {
		if err := p.create(l); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *Node) create(l *lab.Lab) (err error) {
	if n.NS, err = l.Namespace(n.Name); err != nil {
		return err
	}
	return firstError(
		func() error { return withoutDAD(n.NS) },
		func() error { return n.NS.Sysctl("net.ipv4.ip_forward", "1") },
		func() error { return n.NS.Sysctl("net.ipv6.conf.all.forwarding", "1") },
		func() error { return n.NS.Bridge("cni0") },
		func() error { return n.NS.AddAddr("cni0", n.gateway4) },
		func() error { return n.NS.AddAddr("cni0", n.gateway6) },
	)
}

func (n *Network) joinNodes(l *lab.Lab) error {
	a, b := n.NodeA, n.NodeB
	return firstError(
		func() error { return l.Veth(a.NS, "eth0", b.NS, "eth0") },
		func() error { return a.NS.AddAddr("eth0", netip.PrefixFrom(a.V4, 24)) },
		func() error { return a.NS.AddAddr("eth0", netip.PrefixFrom(a.V6, 64)) },
		func() error { return b.NS.AddAddr("eth0", netip.PrefixFrom(b.V4, 24)) },
		func() error { return b.NS.AddAddr("eth0", netip.PrefixFrom(b.V6, 64)) },
		func() error { return a.NS.AddRoute(b.gateway4.Masked(), b.V4, "") },
		func() error { return a.NS.AddRoute(b.gateway6.Masked(), b.V6, "") },
		func() error { return b.NS.AddRoute(a.gateway4.Masked(), a.V4, "") },
		func() error { return b.NS.AddRoute(a.gateway6.Masked(), a.V6, "") },
	)
}

func (p *Pod) create(l *lab.Lab) (err error) {
	if p.NS, err = l.Namespace(p.Name); err != nil {
		return err
	}
	n := p.Node
	return firstError(
		func() error { return withoutDAD(p.NS) },
		func() error { return l.Veth(p.NS, "eth0", n.NS, p.Name) },
		func() error { return n.NS.Attach("cni0", p.Name) },
		func() error { return p.NS.AddAddr("eth0", netip.PrefixFrom(p.V4, n.gateway4.Bits())) },
		func() error { return p.NS.AddAddr("eth0", netip.PrefixFrom(p.V6, n.gateway6.Bits())) },
		func() error { return p.NS.DefaultRoute(n.gateway4.Addr()) },
		func() error { return p.NS.DefaultRoute(n.gateway6.Addr()) },
	)
}

// withoutDAD makes IPv6 work at once: a router whose link-local address is
// still being checked for duplicates solicits no neighbour for 2 s.
func withoutDAD(ns *lab.Namespace) error {
	return firstError(
		func() error { return ns.Sysctl("net.ipv6.conf.all.accept_dad", "0") },
		func() error { return ns.Sysctl("net.ipv6.conf.default.accept_dad", "0") },
	)
}

func firstError(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// HTTPFrom is an ordinary HTTP client inside a namespace: it resolves nothing,
// knows no proxy, and opens a connection per request.
func HTTPFrom(ns *lab.Namespace) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			return ns.Dial(ctx, nil, network, addr)
		},
		ResponseHeaderTimeout: 5 * time.Second,
	}}
}
