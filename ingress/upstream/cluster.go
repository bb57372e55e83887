package upstream

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"
)

// Cluster is a backend: the endpoints that share its requests.
type Cluster struct {
	set     *Set
	key     string
	members atomic.Pointer[members]
}

// members is what a cluster consists of at one time. It is immutable.
type members struct {
	cfg     *Config
	profile *tlsProfile // nil = no TLS
	hosts   []*Host     // the nearest first
	tiers   []int       // where the hosts of each nearness end; the last is len(hosts)
}

// Host is an endpoint of a cluster.
type Host struct {
	endpoint Endpoint
	peer     *peer
}

// ID names the endpoint to clients, for Pick.Prefer. It does not change as long
// as the address and SetConfig.IDKey do not.
func (h *Host) ID() string { return h.peer.id }

// Endpoint is what the configuration says of it.
func (h *Host) Endpoint() Endpoint { return h.endpoint }

// String is its address, or its name, with the port.
func (h *Host) String() string { return h.peer.name }

// InMesh says whether the last connection to it was over HBONE.
func (h *Host) InMesh() bool { return h.peer.meshed.Load() }

// Hold counts a stream that the caller carries, so that the next ones choose
// other endpoints. It is called once per stream, and so is what it returns, at
// the stream's end.
func (h *Host) Hold() (release func()) {
	h.peer.active.Add(1)
	return func() { h.peer.active.Add(-1) }
}

// Key is that of the cluster's Config.
func (c *Cluster) Key() string { return c.key }

// Config is the cluster's current one.
func (c *Cluster) Config() *Config { return c.members.Load().cfg }

// replaceLocked makes cfg the cluster's, with Set.mu held. Hosts that it had
// before stay the same values. It returns what the cluster was, if it was anything.
func (c *Cluster) replaceLocked(cfg *Config) *members {
	old := c.members.Load()
	m := &members{cfg: cfg}
	if cfg.TLS != nil {
		m.profile = c.set.profiles.acquire(cfg.TLS)
	}
	byEndpoint := make(map[Endpoint]*Host)
	if old != nil && old.profile == m.profile {
		for _, h := range old.hosts {
			byEndpoint[h.endpoint] = h
		}
	}
	seen := make(map[peerKey]struct{}, len(cfg.Endpoints))
	m.hosts = make([]*Host, 0, len(cfg.Endpoints))
	for _, e := range cfg.Endpoints {
		key := keyOf(e, m.profile)
		if _, twice := seen[key]; twice {
			continue
		}
		seen[key] = struct{}{}
		p := c.set.peerLocked(key)
		h := byEndpoint[e]
		if h == nil {
			h = &Host{endpoint: e, peer: p}
		}
		m.hosts = append(m.hosts, h)
	}
	m.arrange(c.set.cfg.Zone, c.set.cfg.Node)
	c.members.Store(m)
	c.set.totals.applied.Add(1)
	return old
}

// arrange puts the hosts that are nearest first.
func (m *members) arrange(zone, node string) {
	far := func(h *Host) int {
		switch {
		case m.cfg.Locality == SameNode && node != "" && h.endpoint.Node == node:
			return 0
		case m.cfg.Locality != Anywhere && zone != "" && h.endpoint.Zone == zone:
			return 1
		default:
			return 2
		}
	}
	slices.SortStableFunc(m.hosts, func(a, b *Host) int { return cmp.Compare(far(a), far(b)) })
	for i, h := range m.hosts {
		if i+1 == len(m.hosts) || far(m.hosts[i+1]) != far(h) {
			m.tiers = append(m.tiers, i+1)
		}
	}
}

// peerKey is what endpoints must have in common to share connections and health.
type peerKey struct {
	addr netip.AddrPort
	host string // with its port; "" = addr
	tls  *tlsProfile
}

func keyOf(e Endpoint, t *tlsProfile) peerKey {
	if !e.Addr.Addr().IsValid() && e.Host != "" {
		port := e.Port
		if port == 0 {
			port = e.Addr.Port()
		}
		return peerKey{host: e.Host + ":" + strconv.Itoa(int(port)), tls: t}
	}
	return peerKey{addr: netip.AddrPortFrom(e.Addr.Addr().Unmap(), e.Addr.Port()), tls: t}
}
