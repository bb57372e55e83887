package proxy

import (
	"context"
	"crypto/sha256"
	"net"
	"net/netip"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// Edge dials endpoints for a gateway, which has an identity of the mesh and whose
// own traffic nobody captures.
type Edge struct {
	p   *Proxy
	pod *servedPod
}

// EdgeConn is a connection to an endpoint. Without a tunnel Conn is a
// *net.TCPConn, and Peer is the zero ID.
type EdgeConn struct {
	net.Conn
	// Self and Peer are the identities at both ends of the tunnel.
	Self, Peer spiffeid.ID
	// CertHash is the SHA-256 of Self's certificate.
	CertHash [sha256.Size]byte
}

// Edge returns a dialer for the workload that self returns, which may be nil for
// as long as it is not known. Whoever asks for it has acquired its identity, and
// closes the Edge.
func (p *Proxy) Edge(self func() *mesh.Workload) *Edge {
	sp := p.newServing()
	sp.Workload = self
	var dialer net.Dialer
	sp.Dial = func(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
		c, err := dialer.DialContext(ctx, "tcp", dst.String())
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}
	return &Edge{p: p, pod: sp}
}

// Close cuts what is still connected through a tunnel.
func (e *Edge) Close() { e.p.delist(e.pod) }

// Dial connects to dst for a client at src, by the same decision as for a pod: a
// workload of the mesh is reached over HBONE and in no other way, whoever is in
// no mesh in plain TCP. src may be the zero value. The caller closes the
// connection.
func (e *Edge) Dial(ctx context.Context, src, dst netip.AddrPort) (EdgeConn, error) {
	live := &conn{pod: e.pod, kept: true}
	e.p.conns.add(e.pod.hard, live)
	c, err := e.dial(ctx, live, &telemetry.Info{
		Reporter: telemetry.Source, SourceAddr: src, DestinationAddr: dst, Mode: "passthrough",
	})
	if c.Peer.IsZero() {
		e.p.conns.remove(live) // failed, or the gateway's own to count
	}
	return c, err
}

func (e *Edge) dial(ctx context.Context, live *conn, info *telemetry.Info) (EdgeConn, error) {
	up, err := e.open(ctx, live, info)
	if err != nil {
		e.p.fail(live, info, err)
		return EdgeConn{}, err
	}
	if up.stream == nil {
		return EdgeConn{Conn: up.tcp}, nil
	}
	c := EdgeConn{Self: info.SourceID, Peer: info.DestinationID}
	svid, err := e.p.ids.SVID(ctx, info.SourceID)
	if err != nil || c.Peer.IsZero() {
		up.abandon(e.p)
		err = &noIdentityError{err}
		e.p.fail(live, info, err)
		return EdgeConn{}, err
	}
	c.CertHash = sha256.Sum256(svid.Certificates[0].Raw)
	live.setInfo(info)
	s := &edgeStream{Stream: up.stream, p: e.p, live: live, rec: e.p.tel.Open(*info)}
	live.setOpen(s.rec, s.Bytes)
	s.cut = context.AfterFunc(live.ctx, func() { s.Reset(resetCode) })
	c.Conn = s
	return c, nil
}

// open decides and dials.
func (e *Edge) open(ctx context.Context, live *conn, info *telemetry.Info) (upstream, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(live.ctx, cancel)()
	self, err := e.p.workload(ctx, e.pod)
	if err != nil {
		return upstream{}, err
	}
	info.Source, info.SourceID = self, self.Identity()
	route := e.p.store.Outbound(self, info.DestinationAddr)
	info.Service = route.Service
	if route.Kind == mesh.RouteRefuse {
		return upstream{}, &refusedError{route.Reason}
	}
	live.setInfo(info)
	live.setPhase(PhaseDialing)
	return e.p.dial(ctx, e.pod, self, &route, info)
}

// edgeStream is a stream that is recorded when it is closed.
type edgeStream struct {
	*hbone.Stream
	p    *Proxy
	live *conn
	rec  *telemetry.Record
	cut  func() bool
	once sync.Once
}

// Close implements net.Conn.
func (s *edgeStream) Close() error {
	err := s.Stream.Close()
	s.once.Do(func() {
		why := context.Cause(s.live.ctx)
		s.cut()
		s.p.conns.remove(s.live)
		sent, received := s.Bytes()
		s.rec.Close(sent, received, why, endFlag(why))
	})
	return err
}

// EdgeWorkload is a gateway of which no source of workloads knows more than its
// identity. nil = the identity is not that of a service account.
func EdgeWorkload(id spiffeid.ID, node string) *mesh.Workload {
	namespace, account, ok := identity.ParseWorkloadID(id)
	if !ok {
		return nil
	}
	return &mesh.Workload{
		UID: "gateway/" + namespace + "/" + account, Name: account, Namespace: namespace, ServiceAccount: account,
		TrustDomain: id.TrustDomain().Name(), Node: node, CanonicalName: account, WorkloadName: account,
	}
}
