package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/agent/kube"
)

// TestEdgeDialsNobodyBeforeTheMeshIsKnown: a workload of the mesh that is not known
// yet would be dialled in plaintext.
func TestEdgeDialsNobodyBeforeTheMeshIsKnown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	source, err := kube.New(kube.Config{REST: &rest.Config{Host: "http://127.0.0.1:1"}, NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{agent: &Agent{kube: &kubernetes{source: source}}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	c, err := e.DialEndpoint(ctx, netip.AddrPort{}, netip.MustParseAddrPort(ln.Addr().String()))
	if !errors.Is(err, context.DeadlineExceeded) || c.Conn != nil {
		t.Errorf("got %v, %v; want to wait until it is known whose address that is", c.Conn, err)
	}
}
