package inspect

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/adit-mesh/adit/agent/mesh"
)

// Explain says what would become of a connection of src to dst.
//
// src is a pod, as namespace/name, or an IP address. dst is a pod or a service,
// as namespace/name:port, a hostname as the source's resolver would complete
// it, or an IP address. A port may be left out where only one is known.
//
// The route is that of Store.Outbound, the answer of the other end that of
// Store.Inbound and of the policies of Store.Policies, as in the proxy. The
// error is an [*InputError].
func (a *Agent) Explain(src, dst string) (Explanation, error) {
	f := finder{a.Store.World()}
	from, err := a.source(f, src)
	if err != nil {
		return Explanation{}, err
	}
	to, err := a.destination(f, from, dst)
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{
		Src: src, Dst: dst, AnsweredBy: a.info().Node,
		Source: a.party(from.workload, from.addr), Destination: netip.AddrPortFrom(to.addr, to.port),
		Notes: append(slices.Clone(from.notes), to.notes...),
	}
	switch w := from.workload; {
	case to.addr.IsLoopback() || w != nil && slices.Contains(w.Addresses, to.addr):
		e.Legs = []Leg{{From: e.Source, Route: RouteInside}}
	case w != nil && (e.Source.Captured || w.NativeTunnel || e.Source.Problem != ""):
		e.Legs = a.meshLegs(f, e.Source, w, e.Destination)
	default:
		e.Legs = []Leg{a.plainLeg(f, e.Source, e.Destination)}
	}
	e.Conclude()
	return e, nil
}

// meshLegs are the legs of a connection that an agent carries.
func (a *Agent) meshLegs(f finder, from Party, src *mesh.Workload, dst netip.AddrPort) []Leg {
	leg := a.meshLeg(f, from, src, dst)
	if len(leg.Hops) == 0 || !leg.Hops[0].Waypoint {
		return []Leg{leg}
	}
	// A waypoint routes by its own means; going on to the destination as
	// itself is what it is there for.
	w := a.Store.WorkloadByUID(leg.Hops[0].To.UID)
	if w == nil {
		return []Leg{leg}
	}
	next := leg.Hops[0].To
	next.Problem = "" // of the waypoint's own side, which leg has
	second := a.meshLeg(f, next, w, dst)
	if len(second.Hops) > 0 && second.Hops[0].Waypoint {
		return []Leg{leg} // it is another's waypoint too, whose ways are not known here
	}
	return []Leg{leg, second}
}

func (a *Agent) meshLeg(f finder, from Party, src *mesh.Workload, dst netip.AddrPort) Leg {
	route := a.Store.Outbound(src, dst)
	leg := Leg{From: from, Route: route.Kind.String(), Reason: route.Reason}
	if route.Service != nil {
		leg.Service = route.Service.Key().String()
		leg.Endpoints = len(f.members(route.Service))
	}
	for _, hop := range route.Hops {
		leg.Hops = append(leg.Hops, a.hop(src, from, route, hop, dst))
	}
	return leg
}

// hop explains one candidate of a route as the proxy would dial it.
func (a *Agent) hop(src *mesh.Workload, from Party, route mesh.Route, hop mesh.Hop, dst netip.AddrPort) Hop {
	h := Hop{To: a.party(hop.Workload, hop.Dial.Addr()), Dial: hop.Dial, Authority: hop.Authority, Waypoint: hop.Waypoint}
	for _, id := range hop.Expect {
		h.Expect = append(h.Expect, id.String())
	}
	switch {
	case route.Kind == mesh.RoutePassthrough:
		h.Mode = "passthrough"
		return h
	case hop.Protocol != mesh.HBONE:
		h.Mode = "tcp"
		h.Arrival = &Arrival{Pod: hop.Workload.UID, Mode: h.Mode, Source: sourceAddr(src, from.Address, hop.Dial.Addr()), Destination: hop.Dial}
	default:
		h.Mode = "hbone"
		arrival := Arrival{Peer: from.Identity, Source: sourceAddr(src, from.Address, hop.Dial.Addr()), Local: hop.Dial.Addr(), Authority: hop.Authority}
		if a.joinsLocally(src, hop) {
			h.Mode = "local"
			arrival.Source = sourceAddr(src, from.Address, dst.Addr())
		}
		if h.Mode == "hbone" {
			h.Problem = a.unexpectable(h.Expect)
		}
		if hop.Waypoint || hop.Workload == nil || hop.Workload.NativeTunnel {
			return h // it lets in whom it likes
		}
		arrival.Pod, arrival.Mode = hop.Workload.UID, h.Mode
		h.Arrival = &arrival
	}
	in := a.Receive(*h.Arrival)
	h.Inbound = &in
	return h
}

// unexpectable says that none of the identities of which a peer must prove one
// would be accepted.
func (a *Agent) unexpectable(expect []string) string {
	accepted := a.info().TrustDomains
	problem := ""
	for _, id := range expect {
		if problem = foreign(accepted, id, "the peer"); problem == "" {
			return ""
		}
	}
	return problem
}

// joinsLocally reports whether the proxy would join both sockets itself: both
// pods are served here, and it is set to.
func (a *Agent) joinsLocally(src *mesh.Workload, hop mesh.Hop) bool {
	if a.info().SameNode != "direct" || hop.Waypoint || hop.Workload == nil {
		return false
	}
	return a.serving(src.UID) && a.serving(hop.Workload.UID)
}

func (a *Agent) serving(uid string) bool {
	return slices.ContainsFunc(a.captured(), func(c Captured) bool { return c.UID == uid && c.State == StateServing })
}

// sourceAddr is the address of src that a peer at an address sees.
func sourceAddr(src *mesh.Workload, fallback, peer netip.Addr) netip.Addr {
	if src != nil {
		for _, addr := range src.Addresses {
			if addr.Is4() == peer.Is4() {
				return addr
			}
		}
	}
	return fallback
}

// plainLeg is a connection that nobody captures at its source: kube-proxy takes
// it to an endpoint of a service, the network takes it to an address.
func (a *Agent) plainLeg(f finder, from Party, dst netip.AddrPort) Leg {
	leg := Leg{From: from, Route: RouteUncaptured}
	type endpoint struct {
		addr     netip.AddrPort
		workload *mesh.Workload
	}
	endpoints := []endpoint{{dst, a.Store.Workload(dst.Addr())}}
	if svc := f.serviceAt(dst.Addr()); svc != nil {
		leg.Service = svc.Key().String()
		target, ok := svc.Ports[dst.Port()]
		if !ok {
			leg.Route, leg.Reason = mesh.RouteRefuse.String(), fmt.Sprintf("service %s has no port %d", svc.Key(), dst.Port())
			return leg
		}
		endpoints = nil
		for _, w := range f.members(svc) {
			leg.Endpoints++
			port := target
			if p := w.Services[svc.Key()][dst.Port()]; p != 0 {
				port = p
			}
			if addr := sourceAddr(w, netip.Addr{}, dst.Addr()); w.Status == mesh.Healthy && addr.IsValid() && port != 0 {
				endpoints = append(endpoints, endpoint{netip.AddrPortFrom(addr, port), w})
			}
		}
		if len(endpoints) == 0 {
			leg.Route = mesh.RouteRefuse.String()
			leg.Reason = fmt.Sprintf("service %s has no healthy endpoint for port %d; %d pods serve it", svc.Key(), dst.Port(), leg.Endpoints)
			return leg
		}
	}
	for _, to := range endpoints[:min(len(endpoints), mesh.MaxHops)] {
		h := Hop{To: a.party(to.workload, to.addr.Addr()), Mode: "tcp", Dial: to.addr}
		if to.workload != nil {
			h.Arrival = &Arrival{Pod: to.workload.UID, Mode: "tcp", Source: from.Address, Destination: to.addr}
			in := a.Receive(*h.Arrival)
			h.Inbound = &in
		}
		leg.Hops = append(leg.Hops, h)
	}
	return leg
}

// party describes a workload, nil for one of which nothing is known.
func (a *Agent) party(w *mesh.Workload, addr netip.Addr) Party {
	if w == nil {
		return Party{Address: addr, Capture: "nothing is known of this address: a node, or outside of the mesh"}
	}
	p := Party{Pod: nameOf(w), UID: w.UID, Address: addr, Node: w.Node, Identity: w.Identity().String()}
	if !p.Address.IsValid() && len(w.Addresses) > 0 {
		p.Address = w.Addresses[0]
	}
	switch local := a.isLocal(w); {
	case w.NativeTunnel:
		p.Capture = "it speaks HBONE itself"
	case local:
		a.localCapture(&p)
	case w.NetworkMode == mesh.HostNetwork:
		p.Capture = "it is on its node's network"
	case w.Protocol == mesh.HBONE:
		p.Captured, p.Capture = true, "it is in the mesh"
	default:
		p.Capture = "it is not in the mesh"
	}
	if !p.Captured && !w.NativeTunnel && p.Problem == "" {
		p.Identity = "" // it has nothing to prove it with
	}
	return p
}

// isLocal reports whether this agent is the one of w's node.
func (a *Agent) isLocal(w *mesh.Workload) bool {
	return slices.ContainsFunc(a.Store.Local(), func(l *mesh.Workload) bool { return l.UID == w.UID })
}

// localCapture fills in what the agent does about a pod of its own node.
func (a *Agent) localCapture(p *Party) {
	for _, c := range a.captured() {
		if c.UID != p.UID {
			continue
		}
		if c.State != StateServing {
			p.Capture = "the agent is to capture it, and has not: " + c.State
			p.Problem = p.Capture
			if c.Error != "" {
				p.Problem += ": " + c.Error
			}
			return
		}
		p.Captured, p.Capture = true, "the agent captures it"
		p.Certificate = &Certificate{Identity: p.Identity}
		for _, cert := range a.certificates() {
			if cert.ID.String() == p.Identity {
				shown := certificateOf(cert)
				p.Certificate = &shown
			}
		}
		p.Problem = p.Certificate.Problem(a.now())
		return
	}
	p.Capture = "it is not enrolled"
	for _, u := range call(a.Unenrolled) {
		if u.UID == p.UID {
			p.Capture += ": " + u.Reason
		}
	}
}
