package proxy

import (
	"context"
	"net"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/telemetry"
)

// deliverLocal lets the connection of a local pod into another one without a
// tunnel. The identity of the source is beyond doubt, for the agent took the
// connection from the pod itself; the destination decides as about any peer.
func (p *Proxy) deliverLocal(ctx context.Context, peer *servedPod, self *mesh.Workload, hop *mesh.Hop, info *telemetry.Info) (upstream, error) {
	info.Mode = "local"
	info.DestinationID = hop.Workload.Identity()
	dst := hop.Workload
	if w := peer.Workload(); w != nil {
		dst = w
	}
	d, err := p.store.Inbound(dst, hop.Dial.Addr(), hop.Authority)
	if err != nil {
		return upstream{}, err
	}
	if !peer.inflight.enter() {
		return upstream{}, ErrDrained
	}
	adm, err := p.admit(ctx, &arrival{
		pod: peer, self: dst, mode: "local",
		peer: self.Identity(), src: info.SourceAddr, dst: d.Dst,
		service: info.Service,
	})
	if err != nil {
		peer.inflight.leave()
		return upstream{}, err
	}
	return upstream{tcp: adm.app, delivery: adm}, nil
}

// carryLocal joins the client with the application of the other pod, and closes
// both. Each end can be cut for its own reasons; either ends both.
func (p *Proxy) carryLocal(live *conn, rec *telemetry.Record, c *net.TCPConn, adm *admission) (sent, received int64, err error) {
	defer adm.live.pod.inflight.leave()
	j := newJoint(c, adm.app, &p.pipes)
	live.setOpen(rec, j.bytes, c)
	adm.live.setOpen(adm.rec, j.bytes, adm.app)
	var cutThere error
	cutHere := live.while(
		func() {
			cutThere = adm.live.while(
				func() { err = j.run() },
				func() { j.abort(context.Cause(adm.live.ctx)) })
		},
		func() { j.abort(context.Cause(live.ctx)) })
	switch {
	case cutThere != nil:
		err = cutThere
	case cutHere != nil:
		err = cutHere
	}
	sent, received = j.bytes()
	p.release(adm, sent, received, err)
	return sent, received, err
}

// abandonDelivery frees a delivery whose client has gone.
func (p *Proxy) abandonDelivery(adm *admission) {
	defer adm.live.pod.inflight.leave()
	reset(adm.app)
	p.release(adm, 0, 0, errClientGone)
}
