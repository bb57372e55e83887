package mesh

import (
	"net/netip"
	"slices"
	"sort"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// balance is a service made ready for choosing endpoints: who may take
// traffic, grouped by what locality modes compare, with running sums of
// capacity, so that a choice by weight is a binary search. It is rebuilt when
// the service or one of its workloads changes, and never changes itself.
type balance struct {
	service *Service
	groups  map[locality]*group
	depths  []int // of groups to try, in order
}

// locality is the part of a source's or an endpoint's place that the first
// depth scopes of the routing preference compare, always within one network:
// other networks take a gateway.
type locality struct {
	depth                                         int
	network, region, zone, subzone, node, cluster string
}

func localityOf(w *Workload, scopes []LocalityScope) locality {
	l := locality{depth: len(scopes), network: w.Network}
	for _, s := range scopes {
		switch s {
		case ScopeRegion:
			l.region = w.Locality.Region
		case ScopeZone:
			l.zone = w.Locality.Zone
		case ScopeSubzone:
			l.subzone = w.Locality.Subzone
		case ScopeNode:
			l.node = w.Node
		case ScopeCluster:
			l.cluster = w.ClusterID
		}
	}
	return l
}

type group struct {
	endpoints []*endpoint
	sums      []uint64 // sums[i] = capacity of endpoints[:i+1]
}

// endpoint is a workload as a service uses it.
type endpoint struct {
	workload *Workload
	ports    PortMap       // the workload's own mapping
	expect   []spiffeid.ID // who may answer: the service's names and the workload
}

func newBalance(s *Service, members []*Workload) *balance {
	scopes := s.LoadBalancing.RoutingPreference
	b := &balance{service: s, groups: map[locality]*group{}}
	switch s.LoadBalancing.Mode {
	case ModeStrict:
		b.depths = []int{len(scopes)}
	case ModeFailover:
		for d := len(scopes); d >= 0; d-- {
			b.depths = append(b.depths, d)
		}
	default:
		b.depths = []int{0}
	}
	// Endpoints of one service mostly share one identity, and so one slice.
	expect := map[spiffeid.ID][]spiffeid.ID{}
	endpoints := make([]endpoint, 0, len(members))
	for _, w := range members {
		if w.Status != Healthy && s.LoadBalancing.HealthPolicy != AllowAll {
			continue
		}
		if w.capacity() == 0 || len(w.Addresses) == 0 {
			continue
		}
		ids := w.expect
		if len(s.sans) > 0 {
			if ids = expect[w.id]; ids == nil {
				ids = slices.Clone(s.sans)
				if !slices.Contains(ids, w.id) {
					ids = append(ids, w.id)
				}
				expect[w.id] = ids
			}
		}
		endpoints = append(endpoints, endpoint{workload: w, ports: w.Services[s.Key()], expect: ids})
	}
	for i := range endpoints {
		e := &endpoints[i]
		for _, depth := range b.depths {
			at := localityOf(e.workload, scopes[:depth])
			g := b.groups[at]
			if g == nil {
				g = &group{}
				b.groups[at] = g
			}
			g.endpoints = append(g.endpoints, e)
			g.sums = append(g.sums, g.total()+e.workload.capacity())
		}
	}
	return b
}

func (g *group) total() uint64 {
	if len(g.sums) == 0 {
		return 0
	}
	return g.sums[len(g.sums)-1]
}

// choice collects the candidates for one connection.
type choice struct {
	balance *balance
	random  func(n uint64) uint64
	port    uint16 // of the service
	is4     bool   // the family that the caller uses, and so prefers
	gateway bool   // the service is a waypoint

	n     int
	taken [MaxHops]candidate
}

type candidate struct {
	*endpoint
	app netip.AddrPort // address and target port
}

// choose fills taken for a source, the best group of endpoints first.
func (c *choice) choose(src *Workload) {
	scopes := c.balance.service.LoadBalancing.RoutingPreference
	for _, depth := range c.balance.depths {
		g := c.balance.groups[localityOf(src, scopes[:depth])]
		for g != nil && c.n < MaxHops {
			if !c.pick(g) {
				break
			}
		}
	}
}

// probes bounds the blind draws. Endpoints that cannot be used are rare (the
// wrong port or family), so a draw nearly always succeeds; where they are not,
// the scan decides.
const probes = 8

// pick takes one more candidate from g, at random by capacity.
func (c *choice) pick(g *group) bool {
	if len(g.endpoints) > probes {
		for range probes {
			r := c.random(g.total())
			i := sort.Search(len(g.sums), func(i int) bool { return g.sums[i] > r })
			if c.take(g.endpoints[i]) {
				return true
			}
		}
	}
	// Drawing again until an endpoint is usable and scanning the usable ones
	// give the same distribution.
	var total uint64
	for _, e := range g.endpoints {
		if _, ok := c.usable(e); ok {
			total += e.workload.capacity()
		}
	}
	if total == 0 {
		return false
	}
	r := c.random(total)
	for _, e := range g.endpoints {
		if _, ok := c.usable(e); !ok {
			continue
		}
		if w := e.workload.capacity(); r >= w {
			r -= w
			continue
		}
		return c.take(e)
	}
	return false
}

func (c *choice) take(e *endpoint) bool {
	app, ok := c.usable(e)
	if !ok {
		return false
	}
	c.taken[c.n] = candidate{e, app}
	c.n++
	return true
}

// usable says whether e can be a further candidate, and at what address.
func (c *choice) usable(e *endpoint) (netip.AddrPort, bool) {
	for _, t := range c.taken[:c.n] {
		if t.workload.UID == e.workload.UID {
			return netip.AddrPort{}, false
		}
	}
	port, ok := c.targetPort(e)
	if !ok {
		return netip.AddrPort{}, false
	}
	addr, ok := pickAddress(e.workload.Addresses, c.balance.service.IPFamilies, c.is4)
	return netip.AddrPortFrom(addr, port), ok
}

// targetPort resolves the service's port at one endpoint: what the endpoint
// says, which is how named ports are resolved, else the service's default.
func (c *choice) targetPort(e *endpoint) (uint16, bool) {
	if p := e.ports[c.port]; p != 0 {
		return p, true
	}
	if p := c.balance.service.Ports[c.port]; p != 0 {
		return p, true
	}
	// A waypoint that unwraps its tunnels itself need not list the port.
	return c.port, c.gateway && e.workload.ApplicationTunnel != nil
}

// pickAddress prefers the caller's family among those that the service has.
func pickAddress(addrs []netip.Addr, families IPFamilies, is4 bool) (netip.Addr, bool) {
	var other netip.Addr
	for _, a := range addrs {
		if !families.accepts(a) {
			continue
		}
		if a.Is4() == is4 {
			return a, true
		}
		if !other.IsValid() {
			other = a
		}
	}
	return other, other.IsValid()
}
