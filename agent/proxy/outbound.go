package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/http2"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
)

// The ports that the agent listens on inside a pod. A connection to one of them
// that the agent made itself would come back to it for ever.
const (
	portOutbound = 15001
	portInbound  = 15006
	portHBONE    = hbone.Port
)

func agentPort(port uint16) bool {
	return port == portOutbound || port == portInbound || port == portHBONE
}

// serveOutbound carries one captured connection from the pod's application to
// dst. It closes c.
func (p *Proxy) serveOutbound(pod *servedPod, c *net.TCPConn, dst netip.AddrPort) {
	live := &conn{pod: pod}
	p.conns.add(pod.hard, live)
	defer p.conns.remove(live)
	// What deciding and dialling needed of the stack is free again while the
	// connection lives, which may be days: 4 KiB a side instead of 8, measured.
	o := p.openOutbound(live, c, dst)
	pod.leaving.free()
	if o.rec != nil {
		p.carryOutbound(live, c, o)
	}
}

// outbound is a connection that has been dialled: one of the three ways.
type outbound struct {
	rec      *telemetry.Record // nil if it could not be
	stream   *hbone.Stream
	delivery *admission
	tcp      *net.TCPConn
}

func (p *Proxy) openOutbound(live *conn, c *net.TCPConn, dst netip.AddrPort) outbound {
	info := &telemetry.Info{
		Reporter:        telemetry.Source,
		SourceAddr:      addrPort(c.RemoteAddr()),
		DestinationAddr: dst,
		Mode:            "passthrough",
	}
	live.setInfo(info)
	up, err := p.open(live, c, info)
	if err != nil {
		p.fail(live, info, err)
		reset(c)
		return outbound{}
	}
	live.setInfo(info)
	return outbound{rec: p.tel.Open(*info), stream: up.stream, delivery: up.delivery, tcp: up.tcp}
}

func (p *Proxy) carryOutbound(live *conn, c *net.TCPConn, o outbound) {
	var sent, received int64
	var err error
	switch {
	case o.stream != nil:
		live.setOpen(o.rec, o.stream.Bytes, c)
		var res hbone.SpliceResult
		res, err = p.carryStream(live, c, o.stream)
		sent, received = res.ToStream, res.FromStream
	case o.delivery != nil:
		sent, received, err = p.carryLocal(live, o.rec, c, o.delivery)
	default:
		sent, received, err = p.carryTCP(live, o.rec, c, o.tcp)
	}
	o.rec.Close(sent, received, err, endFlag(err))
}

// open decides where the connection goes and dials it. While it does, a client
// that resets takes its dial with it. What is found out goes into info.
func (p *Proxy) open(live *conn, c *net.TCPConn, info *telemetry.Info) (upstream, error) {
	pod := live.pod
	self, err := p.workload(live.ctx, pod)
	if err != nil {
		return upstream{}, err
	}
	info.Source, info.SourceID = self, self.Identity()
	dst := info.DestinationAddr
	if dst.Addr().IsLoopback() && agentPort(dst.Port()) {
		return upstream{}, &loopError{dst.Port()}
	}
	route := p.store.Outbound(self, dst)
	info.Service = route.Service
	if route.Kind == mesh.RouteRefuse {
		return upstream{}, &refusedError{route.Reason}
	}
	live.setInfo(info)
	live.setPhase(PhaseDialing)

	live.watch.start(c, live.cancel)
	up, err := p.dial(live.ctx, pod, self, &route, info)
	live.watch.stop()
	if err == nil && live.ctx.Err() != nil {
		up.abandon(p)
		err = live.ctx.Err()
	}
	if err != nil && live.ctx.Err() != nil {
		err = context.Cause(live.ctx)
	}
	return up, err
}

// abandon frees an upstream that nobody will use.
func (up *upstream) abandon(p *Proxy) {
	switch {
	case up.stream != nil:
		up.stream.Reset(http2.ErrCodeCancel)
	case up.delivery != nil:
		p.abandonDelivery(up.delivery)
	case up.tcp != nil:
		reset(up.tcp)
	}
}

// workload is the pod's own workload. A pod that the sources have not told of
// yet is waited for.
func (p *Proxy) workload(ctx context.Context, pod *servedPod) (*mesh.Workload, error) {
	if w := pod.Workload(); w != nil {
		return w, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.WorkloadWait)
	defer cancel()
	changed, unsubscribe := p.store.Subscribe()
	defer unsubscribe()
	for {
		if w := pod.Workload(); w != nil {
			return w, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("workload of pod %s is not known after %s; is it in the world that this agent reads?", pod.uid, p.cfg.WorkloadWait)
		}
	}
}

// fail records a connection that was never opened.
func (p *Proxy) fail(live *conn, info *telemetry.Info, err error) {
	p.tel.Fail(*info, err, flagOf(err))
	p.log.Debug("connection refused", "source", info.SourceAddr, "destination", info.DestinationAddr,
		"error", err, "after", time.Since(live.started))
}

// carryStream copies between a connection and a stream of a tunnel, and closes
// both.
func (p *Proxy) carryStream(live *conn, c *net.TCPConn, s *hbone.Stream) (hbone.SpliceResult, error) {
	var res hbone.SpliceResult
	cut := live.while(
		func() { res = hbone.Splice(s, c) },
		func() { s.Reset(resetCode); reset(c) })
	if cut != nil {
		return res, cut
	}
	return res, res.Err
}

// resetCode tells the peer that the TCP connection behind a stream was reset
// (RFC 9113, section 8.5). ztunnel takes CANCEL for a clean end.
const resetCode = http2.ErrCodeConnect

// carryTCP copies between the side that opened a connection and its destination
// inside the kernel, and closes both.
func (p *Proxy) carryTCP(live *conn, rec *telemetry.Record, opener, dst *net.TCPConn) (up, down int64, err error) {
	j := newJoint(opener, dst, &p.pipes)
	live.setOpen(rec, j.bytes, opener, dst)
	cut := live.while(
		func() { err = j.run() },
		func() { j.abort(context.Cause(live.ctx)) })
	if cut != nil {
		err = cut
	}
	up, down = j.bytes()
	return up, down, err
}
