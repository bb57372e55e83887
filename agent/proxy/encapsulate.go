package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// Encapsulate is an HBONE client without capture: each connection that Listener
// accepts is carried in a CONNECT stream to Peer.
type Encapsulate struct {
	Listener  net.Listener // closed by ServeEncapsulate
	Peer      string       // host:port
	Authority Template
	Header    []HeaderTemplate
	// Identity is whose SVID is presented; the caller has acquired it.
	Identity spiffeid.ID
	// Expect are the identities of which the peer must prove one.
	Expect []spiffeid.ID
}

// roleKey is the tunnel key of an Encapsulate.
type roleKey struct {
	instance uint64
	peer     string
}

// ServeEncapsulate serves e until ctx ends, and then drains as ServePod does.
func (p *Proxy) ServeEncapsulate(ctx context.Context, e Encapsulate) error {
	sp := p.newServing()
	defer sp.cut(ErrClosed)
	key := roleKey{instance: sp.instance, peer: e.Peer}
	defer p.pool.Evict(func(k any) bool { return k == key })

	target := hbone.Target{
		Key:  key,
		Dial: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", e.Peer) },
		TLS:  p.ids.ClientTLS(e.Identity, e.Expect),
	}
	return p.serveRole(ctx, sp, e.Listener, func(sp *servedPod, c *net.TCPConn, local netip.AddrPort) {
		p.encapsulate(sp, e, target, c, local)
	})
}

// encapsulate carries one connection. It closes c.
func (p *Proxy) encapsulate(sp *servedPod, e Encapsulate, target hbone.Target, c *net.TCPConn, local netip.AddrPort) {
	remote := addrPort(c.RemoteAddr())
	info := telemetry.Info{
		Reporter: telemetry.Source, Mode: "hbone",
		SourceAddr: remote, DestinationAddr: local, SourceID: e.Identity,
		Authority: e.Authority.Expand(local, remote),
	}
	live := &conn{info: info}
	p.conns.add(sp.hard, live)
	defer p.conns.remove(live)
	live.setPhase(PhaseDialing)

	live.watch.start(c, live.cancel)
	s, err := p.dialPeer(live.ctx, e, target, info.Authority, local, remote)
	live.watch.stop()
	sp.leaving.free()
	if cut := context.Cause(live.ctx); cut != nil {
		if err == nil {
			s.Reset(resetCode)
		}
		err = cut
	}
	if err != nil {
		p.fail(live, &info, err)
		reset(c)
		return
	}
	info.HBONEAddr = addrPort(s.RemoteAddr())
	if peer, err := identity.PeerID(s.ConnectionState()); err == nil {
		info.DestinationID, info.MutualTLS = peer, true
	}
	live.setInfo(&info)
	rec := p.tel.Open(info)
	live.setOpen(rec, s.Bytes, c)
	res, err := p.carryStream(live, c, s)
	rec.Close(res.ToStream, res.FromStream, err, endFlag(err))
}

func (p *Proxy) dialPeer(ctx context.Context, e Encapsulate, target hbone.Target, authority string, local, remote netip.AddrPort) (*hbone.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	if _, err := p.ids.SVID(ctx, e.Identity); err != nil {
		return nil, &noIdentityError{err}
	}
	req := hbone.Request{Authority: authority}
	for _, h := range e.Header {
		req.Header = append(req.Header, hbone.Header{Name: h.Name, Value: h.Value.Expand(local, remote)})
	}
	s, err := p.pool.Dial(ctx, target, req)
	if err != nil {
		return nil, fmt.Errorf("dial %s as %s: %w", e.Peer, e.Identity, err)
	}
	return s, nil
}

// serveRole runs the accept loop of a role and drains it.
func (p *Proxy) serveRole(ctx context.Context, sp *servedPod, l net.Listener, serve func(*servedPod, *net.TCPConn, netip.AddrPort)) error {
	loop := make(chan error, 1)
	go func() { loop <- p.acceptLoop(ctx, sp, l, sp.leaving, serve) }()
	var err error
	select {
	case <-ctx.Done():
		time.Sleep(backlogGrace)
		l.Close()
		<-loop
	case err = <-loop:
		if err == nil {
			err = errors.New("listener closed by another")
		}
	}
	p.drainConnections(ctx, sp)
	return err
}
