package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// arrival is a connection to a local pod that has not been let in yet.
type arrival struct {
	pod  *servedPod
	self *mesh.Workload
	mode string
	// peer is the verified identity of the source; zero is nobody.
	peer spiffeid.ID
	src  netip.AddrPort
	dst  netip.AddrPort // as the application will see it
	// service is the service that the source addressed, if it said so.
	service   *mesh.Service
	hbone     netip.AddrPort // the tunnel's own destination, for HBONE
	authority string
	baggage   string // the peer's word, for telemetry only
}

// admission is a connection that was let in and dialled.
type admission struct {
	live *conn
	rec  *telemetry.Record
	app  *net.TCPConn
}

// admit authorizes an arrival, dials the application and opens the record. It
// is the one way into a pod, whatever the way to it was. The admission ends
// with release; on error there is nothing to release, and the failure has been
// recorded. ctx bounds the dial only.
func (p *Proxy) admit(ctx context.Context, a *arrival) (*admission, error) {
	live := &conn{
		pod: a.pod,
		gate: &gate{
			pod: a.pod, then: a.self,
			in: policy.Connection{Source: a.peer, SourceAddr: a.src.Addr(), Destination: a.dst},
		},
	}
	p.infoOf(a, &live.info)
	info := &live.info // it does not change any more
	// Listed before it is checked: a policy that changes in between is seen by
	// one of check and recheck.
	p.conns.add(a.pod.hard, live)
	app, err := p.authorizeAndDial(ctx, live, a)
	if err != nil {
		p.fail(live, info, err)
		p.conns.remove(live)
		return nil, err
	}
	return &admission{live: live, rec: p.tel.Open(*info), app: app}, nil
}

func (p *Proxy) authorizeAndDial(ctx context.Context, live *conn, a *arrival) (*net.TCPConn, error) {
	if agentPort(a.dst.Port()) {
		return nil, &loopError{a.dst.Port()}
	}
	d := live.gate.check(p.store)
	p.countDecision(d)
	if !d.Allowed {
		return nil, &deniedError{decision: d}
	}
	live.setPhase(PhaseDialing)

	start := time.Now()
	cancel := context.CancelFunc(nil)
	if by, ok := ctx.Deadline(); ok && by.Sub(start) <= p.cfg.DialTimeout {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithDeadline(ctx, start.Add(p.cfg.DialTimeout))
	}
	defer cancel()
	stop := context.AfterFunc(live.ctx, cancel)
	defer stop()
	app, err := a.pod.DialApp(ctx, a.src.Addr(), a.dst)
	if cut := context.Cause(live.ctx); cut != nil {
		if err == nil {
			reset(app)
		}
		return nil, cut
	}
	if err != nil {
		return nil, fmt.Errorf("dial the application at %s: %w", a.dst, err)
	}
	p.tel.ConnectLatency("app", time.Since(start))
	return app, nil
}

func (p *Proxy) countDecision(d policy.Decision) {
	action := "allow"
	if !d.Allowed {
		action = "deny"
	}
	p.tel.PolicyDecision(action, false)
	for _, dry := range d.DryRun {
		p.tel.PolicyDecision(dry.Action.String(), true)
		p.log.Debug("dry-run policy", "policy", dry.Policy, "matched", dry.Matched, "reason", dry.Reason)
	}
}

// release ends an admission whose copying is over.
func (p *Proxy) release(a *admission, sent, received int64, err error) {
	a.rec.Close(sent, received, err, endFlag(err))
	p.conns.remove(a.live)
}

// infoOf gathers what telemetry may say about an arrival. The workload at the
// source address counts only if it is who the certificate says.
func (p *Proxy) infoOf(a *arrival, info *telemetry.Info) {
	*info = telemetry.Info{
		Reporter:        telemetry.Destination,
		Destination:     a.self,
		SourceID:        a.peer,
		DestinationID:   a.self.Identity(),
		Service:         a.service,
		SourceAddr:      a.src,
		DestinationAddr: a.dst,
		HBONEAddr:       a.hbone,
		Authority:       a.authority,
		MutualTLS:       a.mode == "hbone",
		Mode:            a.mode,
	}
	w := p.store.Workload(a.src.Addr())
	switch {
	case w != nil && (a.peer.IsZero() || w.Identity() == a.peer):
		info.Source = w
	case a.baggage != "":
		b := hbone.ParseBaggage(a.baggage)
		info.SourceBaggage = &b
	}
}

// refuse records an arrival of which too little is known to admit it.
func (p *Proxy) refuse(a *arrival, err error) {
	var info telemetry.Info
	p.infoOf(a, &info)
	p.tel.Fail(info, err, flagOf(err))
}

// serveHBONE carries one CONNECT stream of a peer to the pod's application.
func (p *Proxy) serveHBONE(ctx context.Context, pod *servedPod, s *hbone.Stream) {
	if !pod.inflight.enter() {
		_ = s.Reject(503)
		return
	}
	defer pod.inflight.leave()

	if adm := p.receive(ctx, pod, s); adm != nil {
		adm.live.setOpen(adm.rec, func() (sent, received int64) { received, sent = s.Bytes(); return }, adm.app)
		res, err := p.carryStream(adm.live, adm.app, s)
		p.release(adm, res.FromStream, res.ToStream, err)
	}
}

// receive lets a stream in and answers it, or refuses it and returns nil.
func (p *Proxy) receive(ctx context.Context, pod *servedPod, s *hbone.Stream) *admission {
	a, err := p.readArrival(ctx, pod, s)
	if err != nil {
		p.refuse(&a, err)
		_ = s.Reject(statusOf(err))
		return nil
	}
	adm, err := p.admit(ctx, &a)
	if err != nil {
		_ = s.Reject(statusOf(err))
		return nil
	}
	if err := s.Accept(hbone.Header{Name: "baggage", Value: baggageOf(a.self).String()}); err != nil {
		reset(adm.app)
		p.release(adm, 0, 0, fmt.Errorf("answer the peer: %w", err))
		return nil
	}
	return adm
}

// readArrival decides where in the pod a stream goes. The arrival is filled as
// far as possible even on error.
func (p *Proxy) readArrival(ctx context.Context, pod *servedPod, s *hbone.Stream) (arrival, error) {
	req := s.Request()
	local := addrPort(s.LocalAddr())
	a := arrival{
		pod: pod, self: pod.Workload(), mode: "hbone",
		src: addrPort(s.RemoteAddr()), dst: local, hbone: local,
		authority: req.Authority, baggage: req.Get("baggage"),
	}
	if a.self == nil {
		self, err := p.workload(ctx, pod)
		if err != nil {
			a.self = new(mesh.Workload)
			return a, err
		}
		a.self = self
	}
	peer, err := identity.PeerID(s.ConnectionState())
	if err != nil {
		return a, &deniedError{decision: policy.Decision{Reason: err.Error()}}
	}
	a.peer = peer
	d, err := p.store.Inbound(a.self, local.Addr(), req.Authority)
	if err != nil {
		return a, err
	}
	a.dst, a.service = d.Dst, d.Service
	if a.service == nil {
		a.service = p.serviceOf(a.self, req.Get("forwarded"))
	}
	if p.log.Enabled(ctx, slog.LevelDebug) {
		p.log.Debug("stream arrived", "source", a.src, "identity", a.peer.String(), "authority", a.authority,
			"trace", hbone.TraceID(req.Get("traceparent")))
	}
	return a, nil
}

// serviceOf is the service that the source says it addressed, if self serves
// one of that name. It labels metrics and decides nothing.
func (p *Proxy) serviceOf(self *mesh.Workload, forwarded string) *mesh.Service {
	_, host := hbone.ParseForwarded(forwarded)
	if host == "" {
		return nil
	}
	for key := range self.Services {
		if key.Hostname == host {
			return p.store.Service(key)
		}
	}
	return nil
}

// statusOf is the answer to a CONNECT that is not let in.
func statusOf(err error) int {
	var (
		in     *mesh.InboundError
		denied *deniedError
	)
	switch {
	case errors.As(err, &in):
		return in.Status
	case errors.As(err, &denied):
		return 401
	}
	return 503
}

// serveInbound carries one captured plaintext connection to the pod's
// application. It closes c.
func (p *Proxy) serveInbound(pod *servedPod, c *net.TCPConn, dst netip.AddrPort) {
	adm := p.receivePlaintext(pod, c, dst)
	pod.entering.free()
	if adm != nil {
		sent, received, err := p.carryTCP(adm.live, adm.rec, c, adm.app)
		p.release(adm, sent, received, err)
	}
}

// receivePlaintext lets a plaintext connection in, or resets it and returns nil.
// Its source is nobody, whatever its address.
func (p *Proxy) receivePlaintext(pod *servedPod, c *net.TCPConn, dst netip.AddrPort) *admission {
	a := arrival{pod: pod, self: new(mesh.Workload), mode: "tcp", src: addrPort(c.RemoteAddr()), dst: dst}
	self, err := p.workload(pod.hard, pod)
	if err != nil {
		p.refuse(&a, err)
		reset(c)
		return nil
	}
	a.self = self
	ctx, cancel := context.WithCancelCause(pod.hard)
	defer cancel(nil)
	var watch resetWatch
	watch.start(c, cancel)
	adm, err := p.admit(ctx, &a)
	watch.stop()
	if err != nil {
		reset(c)
		return nil
	}
	return adm
}
