package ingress

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// Backends reaches the backends of streams, and is told of all clusters. [FromSet]
// makes one of an [upstream.Set].
type Backends interface {
	// Apply replaces the clusters. Those whose pointer is unchanged cost nothing.
	Apply(map[string]*upstream.Config)
	// DialStream connects to an endpoint of a cluster for client, over TCP; with
	// the cluster's TLS, if it has one, for a client whose TLS ended here. The
	// caller closes the connection, and calls release then.
	DialStream(ctx context.Context, cluster string, client netip.AddrPort, ended bool) (c net.Conn, release func(), err error)
	// DialPacket is DialStream for UDP: a Write is a datagram, and so is what a
	// Read gives.
	DialPacket(ctx context.Context, cluster string, client netip.AddrPort) (c net.Conn, release func(), err error)
}

// FromSet reaches backends through set, which only the Server gives Configs to.
// The caller closes set when Run has returned.
func FromSet(set *upstream.Set) Backends { return fromSet{set} }

type fromSet struct{ *upstream.Set }

func (f fromSet) DialStream(ctx context.Context, key string, client netip.AddrPort, ended bool) (net.Conn, func(), error) {
	c, err := f.cluster(key)
	if err != nil {
		return nil, nil, err
	}
	dial := c.DialStream
	if ended {
		dial = c.DialStreamTLS
	}
	conn, host, err := dial(ctx, client)
	if err != nil {
		return nil, nil, err
	}
	return conn, host.Hold(), nil
}

func (f fromSet) DialPacket(ctx context.Context, key string, _ netip.AddrPort) (net.Conn, func(), error) {
	c, err := f.cluster(key)
	if err != nil {
		return nil, nil, err
	}
	conn, host, err := c.DialPacket(ctx)
	if err != nil {
		return nil, nil, err
	}
	return conn, host.Hold(), nil
}

func (f fromSet) cluster(key string) (*upstream.Cluster, error) {
	if c := f.Cluster(key); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("no cluster %q", key)
}
