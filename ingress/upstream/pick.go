package upstream

import "math/rand/v2"

// Pick says which endpoint is wanted.
type Pick struct {
	// Prefer is the Host.ID of the one that a session belongs to: it is taken
	// unless it is gone, is to be avoided, or does not accept connections.
	Prefer string
	// Avoid are those that were tried before. They are taken if there are no
	// others that are well.
	Avoid []*Host
}

// Pick chooses an endpoint: of two random ones that which has fewer requests under
// way, among the nearest (Config.Locality). One that failed to connect is left out
// for a moment, unless all of them did. The error is ErrNoEndpoints.
func (c *Cluster) Pick(want Pick) (*Host, error) {
	m := c.members.Load()
	if len(m.hosts) == 0 {
		return nil, ErrNoEndpoints
	}
	now := sinceEpoch()
	if want.Prefer != "" {
		for _, h := range m.hosts {
			if h.peer.id == want.Prefer && !avoided(want.Avoid, h) && h.peer.health.claim(now) {
				return h, nil
			}
		}
	}
	// A turn to try an endpoint whose backoff is over may be lost to another
	// request, so a choice may have to be made again.
	for range 3 {
		h := m.choose(want.Avoid, now)
		if h == nil {
			break
		}
		if h.peer.health.claim(now) {
			return h, nil
		}
	}
	if len(want.Avoid) > 0 {
		if h := m.choose(nil, now); h != nil && h.peer.health.claim(now) {
			return h, nil
		}
	}
	return m.least(want.Avoid), nil // all failed, so health tells nothing
}

// choose returns one of the nearest hosts that are well, or nil.
func (m *members) choose(avoid []*Host, now int64) *Host {
	start := 0
	for _, end := range m.tiers {
		if h := lighter(m.hosts[start:end], avoid, now); h != nil {
			return h
		}
		start = end
	}
	return nil
}

// lighter returns the less busy of two random hosts that are well; nil if none is.
func lighter(hosts []*Host, avoid []*Host, now int64) *Host {
	n := uint32(len(hosts))
	i := rand.Uint32N(n)
	a := hosts[i]
	if n == 1 {
		if usable(a, avoid, now) {
			return a
		}
		return nil
	}
	j := rand.Uint32N(n - 1)
	if j >= i {
		j++
	}
	b := hosts[j]
	if usable(a, avoid, now) && usable(b, avoid, now) {
		return lessBusy(a, b)
	}
	// Some are not: take two random ones of those that are.
	var pair [2]*Host
	seen := uint32(0)
	for _, h := range hosts {
		if !usable(h, avoid, now) {
			continue
		}
		seen++
		if seen <= 2 {
			pair[seen-1] = h
		} else if k := rand.Uint32N(seen); k < 2 {
			pair[k] = h
		}
	}
	if seen < 2 {
		return pair[0]
	}
	return lessBusy(pair[0], pair[1])
}

// least returns a host although none is well, if possible one that was not tried.
func (m *members) least(avoid []*Host) *Host {
	n := len(m.hosts)
	i := rand.IntN(n)
	for k := range n {
		if h := m.hosts[(i+k)%n]; !avoided(avoid, h) {
			return h
		}
	}
	return m.hosts[i]
}

func lessBusy(a, b *Host) *Host {
	if b.peer.active.Load() < a.peer.active.Load() {
		return b
	}
	return a
}

func usable(h *Host, avoid []*Host, now int64) bool {
	return h.peer.health.ok(now) && !avoided(avoid, h)
}

func avoided(avoid []*Host, h *Host) bool {
	for _, a := range avoid {
		if a.peer.key == h.peer.key {
			return true
		}
	}
	return false
}
