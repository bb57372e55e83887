package proxy

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
)

var gatewayID = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/gateway")

// edge is a gateway of n.
func (n *node) edge(self *mesh.Workload) *Edge {
	n.lab.t.Helper()
	if self != nil {
		n.lab.mesh.Acquire(self.Identity())
	}
	e := n.Edge(func() *mesh.Workload { return self })
	n.lab.t.Cleanup(e.Close)
	return e
}

// TestEdgeReachesTheMeshByTunnel: a pod of the mesh is dialled over HBONE, and both
// ends are told.
func TestEdgeReachesTheMeshByTunnel(t *testing.T) {
	l := newLab(t)
	server := l.workload("server")
	l.world.Policies = []policy.Policy{allow("gateway-only", gatewayID)}
	l.apply()
	far, near := l.node(nil), l.node(nil)
	far.serve(server, netip.AddrPortFrom(l.addr(), 80)).app(echo)
	self := EdgeWorkload(gatewayID, "node-a")
	e := near.edge(self)
	client := netip.MustParseAddrPort("192.0.2.7:4711")
	c, err := e.Dial(t.Context(), client, netip.AddrPortFrom(server.Addresses[0], 8080))
	if err != nil {
		t.Fatal(err)
	}
	if c.Self != gatewayID || c.Peer != server.Identity() {
		t.Errorf("the tunnel is from %s to %s; want from %s to %s", c.Self, c.Peer, gatewayID, server.Identity())
	}
	svid, err := l.mesh.Manager.SVID(t.Context(), gatewayID)
	if err != nil || c.CertHash != sha256.Sum256(svid.Certificates[0].Raw) {
		t.Errorf("the hash is not that of the gateway's certificate (%v)", err)
	}
	roundTrip(t, c)
	if n := near.LiveAll(); n != 0 {
		t.Errorf("%d connections keep the agent from stopping; one that is kept for the next request should not", n)
	}
	if infos := near.Connections(); len(infos) != 1 || infos[0].Mode != "hbone" || infos[0].Source != client {
		t.Errorf("the operator is told of %+v", infos)
	}
	c.Close()
	near.log.wait("the tunnelled connection is recorded", map[string]any{"direction": "outbound"})
}

// TestEdgeOfAnotherIdentityIsRefused: policy at the far end decides by the
// gateway's identity.
func TestEdgeOfAnotherIdentityIsRefused(t *testing.T) {
	l := newLab(t)
	server := l.workload("server")
	l.world.Policies = []policy.Policy{allow("gateway-only", gatewayID)}
	l.apply()
	n := l.node(nil)
	n.serve(server, netip.AddrPortFrom(l.addr(), 80)).app(echo)
	other := EdgeWorkload(spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/other"), "node-a")
	c, err := n.edge(other).Dial(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(server.Addresses[0], 8080))
	if err == nil {
		c.Close()
		t.Fatal("an identity that the policy does not allow was let in")
	}
}

// TestEdgeLeavesOthersInPlaintext: an address of no pod, and a pod without the
// mesh, are plain TCP sockets, which splice(2) takes.
func TestEdgeLeavesOthersInPlaintext(t *testing.T) {
	l := newLab(t)
	plain := l.workload("plain")
	plain.Protocol = mesh.TCP
	l.apply()
	n := l.node(nil)
	e := n.edge(EdgeWorkload(gatewayID, "node-a"))
	for _, addr := range []netip.Addr{plain.Addresses[0], l.addr()} {
		dst := serveTCP(t, netip.AddrPortFrom(addr, 0), echo)
		c, err := e.Dial(t.Context(), netip.AddrPort{}, dst)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Conn.(*net.TCPConn); !ok || !c.Peer.IsZero() {
			t.Errorf("%s was reached as a %T with peer %s; want a plain socket", dst, c.Conn, c.Peer)
		}
		roundTrip(t, c)
		c.Close()
	}
	if infos := n.Connections(); len(infos) > 0 {
		t.Errorf("plain connections are the gateway's own to tell of, and here are %+v", infos)
	}
}

// TestEdgeThatIsNotKnownYet: a gateway whose own workload has not been heard of
// waits for it, and no longer than its caller.
func TestEdgeThatIsNotKnownYet(t *testing.T) {
	l := newLab(t)
	server := l.workload("server")
	l.apply()
	e := l.node(nil).edge(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := e.Dial(ctx, netip.AddrPort{}, netip.AddrPortFrom(server.Addresses[0], 8080))
	if err == nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Errorf("dialled without an identity: %v", err)
	}
}

// TestEdgeThatCloses cuts what is connected through tunnels.
func TestEdgeThatCloses(t *testing.T) {
	l := newLab(t)
	server := l.workload("server")
	l.apply()
	n := l.node(nil)
	n.serve(server, netip.AddrPortFrom(l.addr(), 80)).app(echo)
	e := n.edge(EdgeWorkload(gatewayID, "node-a"))
	c, err := e.Dial(t.Context(), netip.AddrPort{}, netip.AddrPortFrom(server.Addresses[0], 8080))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	e.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a tunnelled connection outlives the gateway")
	}
}
