package proxy

import (
	"cmp"
	"slices"
	"time"

	"github.com/adit-mesh/adit/agent/telemetry"
)

// TunnelInfo describes one tunnel to a peer for an operator.
type TunnelInfo struct {
	Pod      string        `json:"pod,omitempty"` // uid of the source workload
	Source   string        `json:"sourceIdentity,omitempty"`
	Expect   string        `json:"expectedIdentities,omitempty"`
	Peer     string        `json:"peer,omitempty"` // uid of the peer's workload, or its configured address
	Local    string        `json:"local"`
	Remote   string        `json:"remote"`
	Streams  int           `json:"streams"`
	Draining bool          `json:"draining"`
	Queued   int           `json:"queuedBytes"`
	Since    time.Time     `json:"since"`
	RTT      time.Duration `json:"rttNanoseconds,omitempty"`
}

// Tunnels describes the tunnels to peers, oldest first.
func (p *Proxy) Tunnels() []TunnelInfo {
	stats := p.pool.Stats()
	infos := make([]TunnelInfo, 0, len(stats))
	for _, s := range stats {
		t := TunnelInfo{
			Local: s.Local.String(), Remote: s.Remote.String(), Streams: s.Streams,
			Draining: s.Draining, Queued: s.Queued, Since: s.Since, RTT: s.RTT,
		}
		switch k := s.Key.(type) {
		case tunnelKey:
			t.Pod, t.Source, t.Expect, t.Peer = k.uid, k.source.String(), k.expect, k.peerUID
		case roleKey:
			t.Peer = k.peer
		}
		infos = append(infos, t)
	}
	slices.SortFunc(infos, func(a, b TunnelInfo) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Local, b.Local)) })
	return infos
}

// PoolStats sums up the tunnels for the metrics.
func (p *Proxy) PoolStats() telemetry.PoolStats {
	var sum telemetry.PoolStats
	for _, s := range p.pool.Stats() {
		sum.Tunnels++
		sum.Streams += s.Streams
		if s.Draining {
			sum.Draining++
		}
	}
	return sum
}
