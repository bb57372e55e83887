package upstream

import (
	"cmp"
	"slices"
	"sync/atomic"
)

type totals struct {
	applied, connects, failures, overflows atomic.Uint64
}

// Totals are counts since the Set was made.
type Totals struct {
	Connects  uint64 // begun
	Failures  uint64 // connects that failed
	Overflows uint64 // requests that got no connection because all were busy
	Idle      int64  // HTTP/1.1 connections that are idle now
}

// Totals returns the counts.
func (s *Set) Totals() Totals {
	return Totals{s.totals.connects.Load(), s.totals.failures.Load(), s.totals.overflows.Load(), s.idle.Load()}
}

// ClusterStatus is how a cluster is, for people.
type ClusterStatus struct {
	Key       string
	Endpoints []EndpointStatus
}

// EndpointStatus is how an endpoint is. Its counts are of all clusters that name
// it with the same TLS.
type EndpointStatus struct {
	Address     string // host:port
	ID          string
	Zone, Node  string
	Well        bool   // false: left out for a moment
	Problem     string // of the last connect that failed; "" if one succeeded since
	Active      int64  // requests and streams under way
	Connections int    // for requests, those that are opened included
	Idle        int    // of them, HTTP/1.1 and idle
}

// Status returns all clusters, by key.
func (s *Set) Status() []ClusterStatus {
	var out []ClusterStatus
	for _, c := range *s.clusters.Load() {
		out = append(out, c.Status())
	}
	slices.SortFunc(out, func(a, b ClusterStatus) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// Status returns how the cluster is.
func (c *Cluster) Status() ClusterStatus {
	out := ClusterStatus{Key: c.key}
	now := sinceEpoch()
	for _, h := range c.members.Load().hosts {
		p := h.peer
		e := EndpointStatus{
			Address: p.name, ID: p.id, Zone: h.endpoint.Zone, Node: h.endpoint.Node,
			Well: p.health.ok(now), Active: p.active.Load(),
		}
		if err := p.health.lastError(); err != nil {
			e.Problem = err.Error()
		}
		p.mu.Lock()
		e.Connections, e.Idle = p.open, len(p.idle)
		p.mu.Unlock()
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}
