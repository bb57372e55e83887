package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/agent/mesh"
)

// TestAddressThatJoinsTheMesh: an address that was nobody's is dialled in
// plaintext, and becomes that of a pod of the mesh before somebody answers.
func TestAddressThatJoinsTheMesh(t *testing.T) {
	l := newLab(t)
	client := l.workload("client")
	dst := netip.AddrPortFrom(l.addr(), 8080)
	heard := make(chan []byte, 4)
	real := serveTCP(t, netip.AddrPortFrom(l.addr(), 8080), func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		heard <- b
	})
	l.apply()
	n := l.node(nil)
	n.serve(client, dst, func(p *Pod) {
		p.Dial = func(ctx context.Context, _ netip.AddrPort) (*net.TCPConn, error) {
			c, err := dialFrom(ctx, client.Addresses[0], real)
			w := &mesh.Workload{
				UID: "cluster//Pod/default/late", Name: "late", Namespace: "default", ServiceAccount: "late",
				Addresses: []netip.Addr{dst.Addr()}, Protocol: mesh.HBONE,
			}
			if err := l.store.Apply(mesh.Update{Workloads: []*mesh.Workload{w}}); err != nil {
				t.Error(err)
			}
			return c, err
		}
	})
	c, err := dialFrom(t.Context(), client.Addresses[0], dst)
	if err == nil {
		_, _ = c.Write([]byte("secret"))
		_, _ = io.ReadAll(c)
		c.Close()
	}
	if b := <-heard; len(b) > 0 {
		t.Errorf("a pod of the mesh was sent %q in plaintext", b)
	}
	eventually(t, "the log says why", func() bool {
		lines := n.log.all()
		return len(lines) == 1 && strings.Contains(fmt.Sprint(lines[0]["error"]), "has been given this address meanwhile")
	})
}
