package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// The network, as a cluster with a routed pod network has it:
//
//	client ──┐                                            ┌── server-b
//	intruder ┼─ cni0 [node-a] eth0 ════ link ════ eth0 [node-b] cni0
//	server-a ┘                      ▲
//	                          the capture
const (
	nsPrefix    = "adit-demo-"
	trustDomain = "cluster.local"
	namespace   = "demo"
	serviceHost = "server.demo.svc.cluster.local"
	servicePort = 80
)

var serviceVIP = netip.MustParseAddr("10.96.0.10")

type node struct {
	name   string
	v4, v6 netip.Addr // on the link
	gw4    netip.Prefix
	gw6    netip.Prefix
	ns     *lab.Namespace
	agent  *agent
}

type pod struct {
	name    string
	account string // service account
	serves  bool
	node    *node
	v4, v6  netip.Addr
	ns      *lab.Namespace
}

// identity is the SPIFFE ID that Istio gives a pod of this service account.
func (p *pod) identity() string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", trustDomain, namespace, p.account)
}

// url is the pod's server at one of its addresses.
func url(addr netip.Addr, port uint16) string {
	return "http://" + netip.AddrPortFrom(addr, port).String()
}

// network is the two nodes and the four pods.
type network struct {
	lab              *lab.Lab
	nodeA, nodeB     *node
	client, intruder *pod
	serverA, serverB *pod
	nodes            []*node
	pods             []*pod
}

func buildNetwork(l *lab.Lab) (*network, error) {
	n := &network{
		lab: l,
		nodeA: &node{
			name: "node-a",
			v4:   netip.MustParseAddr("172.30.0.1"), v6: netip.MustParseAddr("fd00:30::1"),
			gw4: netip.MustParsePrefix("10.244.1.1/24"), gw6: netip.MustParsePrefix("fd00:244:1::1/64"),
		},
		nodeB: &node{
			name: "node-b",
			v4:   netip.MustParseAddr("172.30.0.2"), v6: netip.MustParseAddr("fd00:30::2"),
			gw4: netip.MustParsePrefix("10.244.2.1/24"), gw6: netip.MustParsePrefix("fd00:244:2::1/64"),
		},
	}
	n.client = &pod{name: "client", account: "client", node: n.nodeA,
		v4: netip.MustParseAddr("10.244.1.2"), v6: netip.MustParseAddr("fd00:244:1::2")}
	n.intruder = &pod{name: "intruder", account: "intruder", node: n.nodeA,
		v4: netip.MustParseAddr("10.244.1.3"), v6: netip.MustParseAddr("fd00:244:1::3")}
	n.serverA = &pod{name: "server-a", account: "server", serves: true, node: n.nodeA,
		v4: netip.MustParseAddr("10.244.1.4"), v6: netip.MustParseAddr("fd00:244:1::4")}
	n.serverB = &pod{name: "server-b", account: "server", serves: true, node: n.nodeB,
		v4: netip.MustParseAddr("10.244.2.2"), v6: netip.MustParseAddr("fd00:244:2::2")}
	n.nodes = []*node{n.nodeA, n.nodeB}
	n.pods = []*pod{n.client, n.intruder, n.serverA, n.serverB}

	for _, node := range n.nodes {
		if err := node.create(l); err != nil {
			return nil, err
		}
	}
	if err := n.joinNodes(); err != nil {
		return nil, err
	}
	for _, p := range n.pods {
		if err := p.create(l); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *node) create(l *lab.Lab) (err error) {
	if n.ns, err = l.Namespace(n.name); err != nil {
		return err
	}
	return firstError(
		func() error { return withoutDAD(n.ns) },
		func() error { return n.ns.Sysctl("net.ipv4.ip_forward", "1") },
		func() error { return n.ns.Sysctl("net.ipv6.conf.all.forwarding", "1") },
		func() error { return n.ns.Bridge("cni0") },
		func() error { return n.ns.AddAddr("cni0", n.gw4) },
		func() error { return n.ns.AddAddr("cni0", n.gw6) },
	)
}

func (n *network) joinNodes() error {
	a, b := n.nodeA, n.nodeB
	return firstError(
		func() error { return n.lab.Veth(a.ns, "eth0", b.ns, "eth0") },
		func() error { return a.ns.AddAddr("eth0", netip.PrefixFrom(a.v4, 24)) },
		func() error { return a.ns.AddAddr("eth0", netip.PrefixFrom(a.v6, 64)) },
		func() error { return b.ns.AddAddr("eth0", netip.PrefixFrom(b.v4, 24)) },
		func() error { return b.ns.AddAddr("eth0", netip.PrefixFrom(b.v6, 64)) },
		func() error { return a.ns.AddRoute(b.gw4.Masked(), b.v4, "") },
		func() error { return a.ns.AddRoute(b.gw6.Masked(), b.v6, "") },
		func() error { return b.ns.AddRoute(a.gw4.Masked(), a.v4, "") },
		func() error { return b.ns.AddRoute(a.gw6.Masked(), a.v6, "") },
	)
}

// create joins the pod to its node's bridge. The node's end of the link has the
// pod's name.
func (p *pod) create(l *lab.Lab) (err error) {
	if p.ns, err = l.Namespace(p.name); err != nil {
		return err
	}
	n := p.node
	return firstError(
		func() error { return withoutDAD(p.ns) },
		func() error { return l.Veth(p.ns, "eth0", n.ns, p.name) },
		func() error { return n.ns.Attach("cni0", p.name) },
		func() error { return p.ns.AddAddr("eth0", netip.PrefixFrom(p.v4, n.gw4.Bits())) },
		func() error { return p.ns.AddAddr("eth0", netip.PrefixFrom(p.v6, n.gw6.Bits())) },
		func() error { return p.ns.DefaultRoute(n.gw4.Addr()) },
		func() error { return p.ns.DefaultRoute(n.gw6.Addr()) },
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

// startServer runs the pod's application and waits until it listens.
func (p *pod) startServer(ctx context.Context, binary string) error {
	cmd := exec.Command(binary, "demo", "pod", p.name, fmt.Sprintf(":%d", appPort))
	// Its own process group: Ctrl-C is for the demo, which then stops it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	process, err := p.ns.Start(cmd)
	if err != nil {
		return err
	}
	return poll(ctx, 5*time.Second, func() error {
		select {
		case <-process.Done():
			return permanent{fmt.Errorf("server in %s: %w", p.name, process.Wait())}
		default:
		}
		c, err := p.ns.Dial(ctx, nil, "tcp", fmt.Sprintf("127.0.0.1:%d", appPort))
		if err != nil {
			return fmt.Errorf("server in %s: %w", p.name, err)
		}
		return c.Close()
	})
}

// httpFrom is an ordinary HTTP client inside a namespace: it resolves nothing,
// knows no proxy, and opens a connection per request.
func httpFrom(ns *lab.Namespace) *http.Client {
	return &http.Client{Transport: &http.Transport{
		Proxy:             nil,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			return ns.Dial(ctx, nil, network, addr)
		},
		ResponseHeaderTimeout: 5 * time.Second,
	}}
}
