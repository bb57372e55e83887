package bench

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/agent/telemetry"
)

// proxyHalf is an agent's whole proxy with one or two pods: what the data path costs when decisions, policy and metrics
// are made for each connection. Capture is left out: the pods' listeners are plain ones, whose address is the destination.
// There is no access log.
//
//	side A            pod client: its outbound connections go to workload server by HBONE, which means to side B
//	side B            pod server: its HBONE listener
//	side same-node    both pods: client's connections are delivered to server directly
//	side pass-through pod client: the destination is nobody's workload
type proxyHalf struct {
	warm
	proxy *proxy.Proxy
	store *mesh.Store
	order agentOrder
}

// destination is the address that the client connects to: side A's listener stands in for it.
var destination = netip.MustParseAddrPort(addrA).Addr()

func newProxyHalf(o agentOrder) (half, error) {
	manager, err := newManager(o.CADir)
	if err != nil {
		return nil, err
	}
	client := &mesh.Workload{
		UID: "bench/client", Name: "client", Namespace: "bench", ServiceAccount: "client", TrustDomain: benchTrustDomain,
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Protocol: mesh.HBONE,
	}
	server := &mesh.Workload{
		UID: "bench/server", Name: "server", Namespace: "bench", ServiceAccount: "server", TrustDomain: benchTrustDomain,
		Addresses: []netip.Addr{destination}, Protocol: mesh.HBONE,
	}
	world := mesh.World{Workloads: []*mesh.Workload{client, server}}
	if o.Side == sidePassThrough {
		world.Workloads = world.Workloads[:1]
	}
	h := &proxyHalf{store: mesh.NewStore(), order: o}
	if err := h.store.Replace(world); err != nil {
		return nil, err
	}
	manager.Acquire(client.Identity())
	manager.Acquire(server.Identity())
	h.proxy = proxy.New(proxy.Config{
		Store: h.store, Identity: manager, Telemetry: telemetry.New(telemetry.Config{}), SameNode: proxy.SameNodeDirect,
	})
	return h, nil
}

func (h *proxyHalf) serve(l net.Listener) {
	go h.proxy.Run(context.Background())
	if h.order.Side == sideB {
		h.servePod("bench/server", pod{hbone: l})
		return
	}
	if h.order.Side == sideSameNode {
		// The client's first connection must find the server's pod.
		served := make(chan struct{})
		go h.servePod("bench/server", pod{hbone: &announced{Listener: silent(), accepting: served}})
		<-served
	}
	h.servePod("bench/client", pod{outbound: l, hbone: silent()})
}

// pod is what of a pod is used.
type pod struct{ outbound, hbone net.Listener }

func (h *proxyHalf) servePod(uid string, p pod) error {
	if p.outbound == nil {
		p.outbound = silent()
	}
	next := h.order.onward()
	return h.proxy.ServePod(context.Background(), proxy.Pod{
		UID:      uid,
		Workload: func() *mesh.Workload { return h.store.WorkloadByUID(uid) },
		Outbound: p.outbound, Inbound: silent(), HBONE: p.hbone,
		// Wherever the proxy decides to go, the loopback has one place that stands in for it.
		Dial: func(_ context.Context, _ netip.AddrPort) (*net.TCPConn, error) { return dialTCP(next) },
		DialApp: func(_ context.Context, _ netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
			return dialTCP(next)
		},
	})
}

// silent is a listener on which nobody ever comes.
func silent() net.Listener {
	return &silentListener{closed: make(chan struct{})}
}

type silentListener struct {
	once   sync.Once
	closed chan struct{}
}

func (l *silentListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *silentListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *silentListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero} }

// announced tells when it is first accepted from.
type announced struct {
	net.Listener
	once      sync.Once
	accepting chan struct{}
}

func (l *announced) Accept() (net.Conn, error) {
	l.once.Do(func() { close(l.accepting) })
	return l.Listener.Accept()
}
