package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// tunnelKey is what two streams must have in common to share a tunnel. Tunnels
// are never shared between pods: the peer takes the tunnel's certificate for
// the source of every stream in it.
type tunnelKey struct {
	instance uint64 // of the servedPod, for the socket lives in its namespace
	uid      string // of the source workload
	source   spiffeid.ID
	dst      netip.AddrPort
	expect   string
	peerUID  string // "" if the peer is no known workload
}

// upstream is what a dial brought: a stream, or a TCP connection.
type upstream struct {
	stream *hbone.Stream
	tcp    *net.TCPConn
	// delivery is the other end of a same-node connection, whose tcp it is.
	delivery *admission
}

// dial tries the hops of a route in turn until one can take the first byte.
// info then tells of that hop, or of the last that was tried. (It is a pointer
// here and below because copies of it made every connection's stack grow twice.)
func (p *Proxy) dial(ctx context.Context, pod *servedPod, self *mesh.Workload, route *mesh.Route, info *telemetry.Info) (upstream, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	var earlier []string
	for i := range route.Hops {
		hop := &route.Hops[i]
		up, err := p.dialShare(ctx, len(route.Hops)-i, pod, self, route, hop, info)
		if err == nil {
			return up, nil
		}
		if i == len(route.Hops)-1 || !retryable(err) || ctx.Err() != nil {
			if earlier != nil {
				err = fmt.Errorf("%w (tried before: %s)", err, strings.Join(earlier, "; "))
			}
			return up, err
		}
		p.log.Debug("dial another endpoint", "pod", pod.uid, "failed", hop.Dial, "error", err)
		earlier = append(earlier, err.Error())
	}
	return upstream{}, &refusedError{"no endpoint to dial"}
}

// minShare is the least time that one of several endpoints is given.
const minShare = 2 * time.Second

// dialShare dials one hop in its share of the time that is left, so that an
// endpoint that never answers does not use up the turn of the next.
func (p *Proxy) dialShare(ctx context.Context, left int, pod *servedPod, self *mesh.Workload, route *mesh.Route, hop *mesh.Hop, info *telemetry.Info) (upstream, error) {
	if left > 1 {
		deadline, _ := ctx.Deadline()
		share := max(time.Until(deadline)/time.Duration(left), minShare)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	info.Destination, info.DestinationID = hop.Workload, spiffeid.ID{}
	info.HBONEAddr, info.Authority, info.MutualTLS = netip.AddrPort{}, "", false
	switch {
	case hop.Protocol != mesh.HBONE:
		return p.dialTCP(ctx, pod, route, hop, info)
	// A process may give its socket any address that its pod has, ::1 among them.
	// Over a tunnel the destination would see the pod's own, so another one is
	// not taken from the socket either.
	case p.cfg.SameNode == SameNodeDirect && !hop.Waypoint && hop.Workload != nil &&
		slices.Contains(self.Addresses, info.SourceAddr.Addr()):
		if peer := p.local(hop.Workload.UID); peer != nil {
			return p.deliverLocal(ctx, peer, self, hop, info)
		}
	}
	return p.dialHBONE(ctx, pod, self, route, hop, info)
}

func (p *Proxy) dialTCP(ctx context.Context, pod *servedPod, route *mesh.Route, hop *mesh.Hop, info *telemetry.Info) (upstream, error) {
	info.Mode = "tcp"
	if route.Kind == mesh.RoutePassthrough {
		info.Mode = "passthrough"
	}
	start := time.Now()
	c, err := pod.Dial(ctx, hop.Dial)
	if err != nil {
		return upstream{}, fmt.Errorf("dial %s: %w", hop.Dial, err)
	}
	p.tel.ConnectLatency("tcp", time.Since(start))
	if p.joinedMeanwhile(hop) {
		_ = c.SetLinger(0)
		c.Close()
		return upstream{}, fmt.Errorf("dial %s: %w", hop.Dial, errJoined)
	}
	return upstream{tcp: c}, nil
}

// joinedMeanwhile reports whether the address of a plain TCP hop has become that
// of another workload, of the mesh, while it was dialled: an address that nobody
// has is dialled until somebody gets it.
func (p *Proxy) joinedMeanwhile(hop *mesh.Hop) bool {
	now := p.store.Workload(hop.Dial.Addr())
	return now != nil && now.Protocol == mesh.HBONE && (hop.Workload == nil || hop.Workload.UID != now.UID)
}

func (p *Proxy) dialHBONE(ctx context.Context, pod *servedPod, self *mesh.Workload, route *mesh.Route, hop *mesh.Hop, info *telemetry.Info) (upstream, error) {
	id := self.Identity()
	info.Mode = "hbone"
	info.HBONEAddr, info.Authority = hop.Dial, hop.Authority
	if len(hop.Expect) == 1 {
		info.DestinationID = hop.Expect[0]
	}
	// Without a certificate there is no tunnel, and a mesh peer is never
	// dialled without one.
	if _, err := p.ids.SVID(ctx, id); err != nil {
		return upstream{}, &noIdentityError{err}
	}
	to := hop.Dial // the tunnel outlives the route
	target := hbone.Target{
		Key:  keyOf(pod, id, hop),
		Dial: func(ctx context.Context) (net.Conn, error) { return dialConn(ctx, pod.Dial, to) },
		TLS:  p.ids.ClientTLS(id, hop.Expect),
	}
	start := time.Now()
	s, err := p.pool.Dial(ctx, target, connectRequest(self, route, hop, info))
	if err != nil {
		return upstream{}, fmt.Errorf("dial %s as %s: %w", hop.Dial, id, err)
	}
	p.tel.ConnectLatency("hbone", time.Since(start))
	if peer, err := identity.PeerID(s.ConnectionState()); err == nil {
		info.DestinationID = peer
		info.MutualTLS = true
	}
	return upstream{stream: s}, nil
}

// dialConn keeps a nil *net.TCPConn from becoming a non-nil net.Conn.
func dialConn(ctx context.Context, dial func(context.Context, netip.AddrPort) (*net.TCPConn, error), dst netip.AddrPort) (net.Conn, error) {
	c, err := dial(ctx, dst)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func keyOf(pod *servedPod, id spiffeid.ID, hop *mesh.Hop) tunnelKey {
	k := tunnelKey{instance: pod.instance, uid: pod.uid, source: id, dst: hop.Dial, expect: joinIDs(hop.Expect)}
	if hop.Workload != nil {
		k.peerUID = hop.Workload.UID
	}
	return k
}

func joinIDs(ids []spiffeid.ID) string {
	if len(ids) == 1 {
		return ids[0].String()
	}
	var sb strings.Builder
	for _, id := range ids {
		sb.WriteString(id.String())
		sb.WriteByte(' ')
	}
	return sb.String()
}

// connectRequest says where the stream goes and, for the peer's telemetry, who
// sends it.
func connectRequest(self *mesh.Workload, route *mesh.Route, hop *mesh.Hop, info *telemetry.Info) hbone.Request {
	host := ""
	if route.Service != nil {
		host = route.Service.Hostname
	}
	return hbone.Request{
		Authority: hop.Authority,
		Header: []hbone.Header{
			{Name: "baggage", Value: baggageOf(self).String()},
			{Name: "forwarded", Value: hbone.FormatForwarded(info.SourceAddr, host)},
			{Name: "traceparent", Value: hbone.NewTraceparent()},
		},
	}
}

func baggageOf(w *mesh.Workload) hbone.Baggage {
	return hbone.Baggage{
		Cluster:        w.ClusterID,
		Namespace:      w.Namespace,
		WorkloadType:   w.WorkloadType.String(),
		WorkloadName:   w.WorkloadName,
		ServiceName:    w.CanonicalName,
		ServiceVersion: w.CanonicalRevision,
		Region:         w.Locality.Region,
		Zone:           w.Locality.Zone,
	}
}
