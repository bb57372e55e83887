package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// Terminate is an HBONE server without capture: each CONNECT stream of a peer
// in Allow is carried on as a TCP connection.
type Terminate struct {
	Listener net.Listener // closed by ServeTerminate
	// Identity is whose SVID is presented; the caller has acquired it.
	Identity spiffeid.ID
	// Allow are the peers that may use it. Empty refuses everybody.
	Allow []spiffeid.ID
	// Upstream is where streams go, as host:port. "" = to their authority.
	Upstream string

	onRequest func(*hbone.Request) // tests see what was asked for
}

// ServeTerminate serves t until ctx ends, and then drains as ServePod does.
func (p *Proxy) ServeTerminate(ctx context.Context, t Terminate) error {
	sp := p.newServing()
	defer sp.cut(ErrClosed)
	server := hbone.NewServer(hbone.ServerConfig{
		TLS:     p.ids.ServerTLS(t.Identity),
		Handler: func(ctx context.Context, s *hbone.Stream) { p.terminate(ctx, sp, t, s) },
		Logger:  p.log,
		OnHandshake: p.onHandshake(telemetry.Info{
			Reporter: telemetry.Destination, Mode: "hbone", DestinationAddr: addrPort(t.Listener.Addr()), DestinationID: t.Identity,
		}),
	})
	serving := make(chan error, 1)
	go func() { serving <- server.Serve(t.Listener) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-serving:
		if errors.Is(err, hbone.ErrServerClosed) {
			err = nil
		}
	}
	p.drainServer(ctx, sp, server)
	return err
}

// terminate carries one stream.
func (p *Proxy) terminate(ctx context.Context, sp *servedPod, t Terminate, s *hbone.Stream) {
	if !sp.inflight.enter() {
		_ = s.Reject(503)
		return
	}
	defer sp.inflight.leave()
	if t.onRequest != nil {
		t.onRequest(s.Request())
	}

	info := telemetry.Info{
		Reporter: telemetry.Destination, Mode: "hbone", MutualTLS: true,
		SourceAddr: addrPort(s.RemoteAddr()), DestinationAddr: addrPort(s.LocalAddr()),
		HBONEAddr: addrPort(s.LocalAddr()), Authority: s.Request().Authority, DestinationID: t.Identity,
	}
	if b := s.Request().Get("baggage"); b != "" {
		baggage := hbone.ParseBaggage(b)
		info.SourceBaggage = &baggage
	}
	live := &conn{info: info}
	p.conns.add(sp.hard, live)
	defer p.conns.remove(live)

	upstream, err := p.openUpstream(ctx, live, t, s, &info)
	if err != nil {
		p.fail(live, &info, err)
		_ = s.Reject(statusOf(err))
		return
	}
	live.setInfo(&info)
	rec := p.tel.Open(info)
	if err := s.Accept(); err != nil {
		reset(upstream)
		rec.Close(0, 0, fmt.Errorf("answer the peer: %w", err), telemetry.FlagNone)
		return
	}
	live.setOpen(rec, func() (sent, received int64) { received, sent = s.Bytes(); return }, upstream)
	res, err := p.carryStream(live, upstream, s)
	rec.Close(res.FromStream, res.ToStream, err, endFlag(err))
}

// openUpstream authorizes the peer of s and dials where the stream goes.
func (p *Proxy) openUpstream(ctx context.Context, live *conn, t Terminate, s *hbone.Stream, info *telemetry.Info) (*net.TCPConn, error) {
	peer, err := identity.PeerID(s.ConnectionState())
	if err != nil {
		return nil, &deniedError{decision: policy.Decision{Reason: err.Error()}}
	}
	info.SourceID = peer
	if !slices.Contains(t.Allow, peer) {
		return nil, &deniedError{decision: policy.Decision{Reason: fmt.Sprintf("%s is not in the allow list of %s", peer, t.Listener.Addr())}}
	}
	dst := t.Upstream
	if dst == "" {
		dst = s.Request().Authority
	}
	live.setPhase(PhaseDialing)

	ctx, cancel := context.WithTimeout(ctx, p.cfg.DialTimeout)
	defer cancel()
	stop := context.AfterFunc(live.ctx, cancel)
	defer stop()
	c, err := new(net.Dialer).DialContext(ctx, "tcp", dst)
	if cut := context.Cause(live.ctx); cut != nil {
		if err == nil {
			c.Close()
		}
		return nil, cut
	}
	if err != nil {
		return nil, fmt.Errorf("dial upstream: %w", err)
	}
	info.DestinationAddr = addrPort(c.RemoteAddr())
	return c.(*net.TCPConn), nil
}
