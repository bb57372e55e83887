package mesh

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// hbonePort is the port on which peers take HBONE.
const hbonePort = 15008

// agentPorts are the listeners of the agent in a pod. Traffic must never be
// delivered to them: it would come back to the agent.
var agentPorts = [...]uint16{15001, 15006, hbonePort, 15053, 15080}

func isAgentPort(p uint16) bool { return slices.Contains(agentPorts[:], p) }

// outbound is one outbound decision in the making.
type outbound struct {
	*snapshot
	random func(n uint64) uint64
	src    *Workload
	dst    netip.AddrPort // unmapped; a zone is kept, for the passthrough dial
}

// target is the destination as the indexes know it.
func (o *outbound) target() NetworkAddress {
	return NetworkAddress{o.src.Network, o.dst.Addr().WithZone("")}
}

func (o *outbound) decide() Route {
	if !o.dst.IsValid() || o.dst.Port() == 0 {
		return refuse(nil, "%s is not a destination", o.dst)
	}
	if o.dst.Addr().IsLoopback() && isAgentPort(o.dst.Port()) {
		return refuse(nil, "%s is the agent's own listener; the application must not dial it", o.dst)
	}
	svc := o.serviceAt(o.target(), o.src.Namespace)
	if svc == nil {
		return o.toAddress(nil)
	}
	if gateway := o.serviceWaypoint(svc.Service); gateway != nil {
		return o.toWaypoint(*gateway, svc.Service, "service "+svc.Key().String())
	}
	if svc.LoadBalancing.Mode == ModePassthrough {
		return o.toAddress(svc.Service)
	}
	return o.toService(svc)
}

// toAddress routes to the workload at the destination address, if it is known.
func (o *outbound) toAddress(svc *Service) Route {
	w := o.workloadAt(o.target())
	if w == nil {
		if f, ok := o.former.get(o.target()); ok && time.Now().Before(f.until) {
			return refuse(svc, "%s was the address of %s, which is gone; whose it is now is not known, and plaintext is not sent there", f.at.Addr, f.who)
		}
		return Route{Kind: RoutePassthrough, Service: svc, Hops: []Hop{{Protocol: TCP, Dial: o.dst}}}
	}
	if w.Waypoint != nil && !o.isGateway(*w.Waypoint) {
		return o.toWaypoint(*w.Waypoint, svc, "workload "+w.String())
	}
	return Route{
		Kind:    RouteMesh,
		Service: svc,
		Hops:    []Hop{direct(candidate{&endpoint{workload: w, expect: w.expect}, o.dst})},
	}
}

// toService routes to endpoints of a service.
func (o *outbound) toService(svc *service) Route {
	if _, ok := svc.Ports[o.dst.Port()]; !ok {
		return refuse(svc.Service, "service %s has no port %d; it has %s", svc.Key(), o.dst.Port(), portList(svc.Ports))
	}
	c := choice{balance: svc.balance, random: o.random, port: o.dst.Port(), is4: o.dst.Addr().Is4()}
	c.choose(o.src)
	if c.n == 0 {
		return refuse(svc.Service, "service %s has no healthy endpoint for port %d: %s", svc.Key(), o.dst.Port(), o.why(svc))
	}
	hops := make([]Hop, c.n)
	for i := range hops {
		hops[i] = direct(c.taken[i])
	}
	return Route{Kind: RouteMesh, Service: svc.Service, Hops: hops}
}

// direct is the hop to a workload itself. A peer that takes HBONE is never
// dialled in any other way.
func direct(c candidate) Hop {
	h := Hop{Protocol: c.workload.Protocol, Dial: c.app, Workload: c.workload}
	if h.Protocol == HBONE {
		h.Dial = netip.AddrPortFrom(c.app.Addr(), hbonePort)
		h.Authority = c.app.String()
		h.Expect = c.expect
	}
	return h
}

// serviceWaypoint is the waypoint that this connection to s takes, nil for
// none. Traffic from a waypoint of s has been there already.
func (o *outbound) serviceWaypoint(s *Service) *GatewayAddress {
	var total uint64
	for _, w := range s.WeightedWaypoints {
		if o.isGateway(w.Destination) {
			return nil
		}
		total += uint64(w.Weight)
	}
	if s.Waypoint != nil && o.isGateway(*s.Waypoint) {
		return nil
	}
	if total == 0 {
		return s.Waypoint
	}
	r := o.random(total)
	for i := range s.WeightedWaypoints {
		w := &s.WeightedWaypoints[i]
		if r < uint64(w.Weight) {
			return &w.Destination
		}
		r -= uint64(w.Weight)
	}
	return s.Waypoint
}

// isGateway reports whether the source is the gateway at g. It goes by what
// the control plane says the source serves, not by anything a pod can forge.
func (o *outbound) isGateway(g GatewayAddress) bool {
	if g.Hostname.Hostname != "" {
		_, ok := o.src.Services[g.Hostname]
		return ok
	}
	if svc := o.serviceAt(g.Address, o.src.Namespace); svc != nil {
		_, ok := o.src.Services[svc.Key()]
		return ok
	}
	return g.Address.Network == o.src.Network && slices.Contains(o.src.Addresses, g.Address.Addr)
}

// toWaypoint routes by way of a waypoint, which gets the original destination
// as authority. of names what has the waypoint, for the log. A waypoint that
// cannot be found refuses: going around it would go around its policies.
func (o *outbound) toWaypoint(g GatewayAddress, svc *Service, of string) Route {
	var gateway *service
	if g.Hostname.Hostname != "" {
		if known, ok := o.services.get(g.Hostname); ok && known.Service != nil {
			gateway = known
		}
	} else {
		gateway = o.serviceAt(g.Address, o.src.Namespace)
	}
	if gateway == nil {
		return o.toWaypointWorkload(g, svc, of)
	}
	c := choice{balance: gateway.balance, random: o.random, port: g.HBONEPort, is4: o.dst.Addr().Is4(), gateway: true}
	c.choose(o.src)
	if c.n == 0 {
		return refuse(svc, "waypoint %s of %s has no healthy endpoint for port %d: %s", g, of, g.HBONEPort, o.why(gateway))
	}
	r := Route{Kind: RouteMesh, Service: svc, Hops: make([]Hop, c.n)}
	authority := o.dst.String()
	for i := range r.Hops {
		e := c.taken[i]
		r.Hops[i] = Hop{Protocol: HBONE, Dial: e.app, Authority: authority, Expect: e.expect, Workload: e.workload, Waypoint: true}
	}
	return r
}

func (o *outbound) toWaypointWorkload(g GatewayAddress, svc *Service, of string) Route {
	var w *Workload
	if g.Address.Network == o.src.Network {
		w = o.workloadAt(g.Address)
	}
	if w == nil {
		return refuse(svc, "waypoint %s of %s is not known; is it deployed, and in the mesh configuration?", g, of)
	}
	return Route{Kind: RouteMesh, Service: svc, Hops: []Hop{{
		Protocol:  HBONE,
		Dial:      netip.AddrPortFrom(g.Address.Addr, g.HBONEPort),
		Authority: o.dst.String(),
		Expect:    w.expect,
		Workload:  w,
		Waypoint:  true,
	}}}
}

func refuse(svc *Service, format string, args ...any) Route {
	return Route{Kind: RouteRefuse, Service: svc, Reason: fmt.Sprintf(format, args...)}
}

// why counts what keeps the endpoints of a service from being chosen.
func (o *outbound) why(svc *service) string {
	var unhealthy, noAddress, noCapacity, elsewhere, rest int
	for _, w := range svc.members {
		switch {
		case w.Status != Healthy && svc.LoadBalancing.HealthPolicy != AllowAll:
			unhealthy++
		case len(w.Addresses) == 0:
			noAddress++
		case w.capacity() == 0:
			noCapacity++
		case w.Network != o.src.Network:
			elsewhere++
		default:
			rest++
		}
	}
	if len(svc.members) == 0 {
		return "no workload serves it"
	}
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(unhealthy, "unhealthy")
	add(noAddress, "without an address")
	add(noCapacity, "with capacity 0")
	add(elsewhere, "on another network, which needs a network gateway")
	if svc.LoadBalancing.Mode == ModeStrict {
		add(rest, "outside the source's locality (mode Strict), or without the port or the address family")
	} else {
		add(rest, "without the port or the address family")
	}
	return fmt.Sprintf("of %d workloads, %s", len(svc.members), strings.Join(parts, ", "))
}

func portList(m PortMap) string {
	ports := slices.Sorted(maps.Keys(m))
	if len(ports) == 0 {
		return "none"
	}
	const shown = 8
	s := strings.Trim(fmt.Sprint(ports[:min(len(ports), shown)]), "[]")
	if len(ports) > shown {
		s += " and more"
	}
	return s
}
