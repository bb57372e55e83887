package metrics

import (
	"sort"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/ingress/route"
)

// labels are those of a group.
type labels struct{ gateway, listener, route, cluster, protocol string }

// group is the requests of one listener, route, cluster and protocol.
type group struct {
	labels labels
	owner  route.Owner // zero: no route, or any of many

	buckets        [len(bounds) + 1]total
	nanoseconds    total // the sum of the durations
	received, sent total

	codes map[uint16]*total // guarded by table.mu
}

// series is the requests of a group with one status code.
type series struct {
	*group
	requests *total
	listener *listener
}

// listener has the requests in flight: what has begun and not ended.
type listener struct {
	begun, ended atomic.Int64
	gone         bool // guarded by table.mu: it was not configured the last time
}

// bounds are the upper ends of the buckets of durations: an edge adds less than a
// millisecond, a backend may take minutes.
var bounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute,
}

func (g *group) observe(d time.Duration, received, sent int64) {
	d = max(d, 0)
	i := sort.Search(len(bounds), func(i int) bool { return d <= bounds[i] })
	g.buckets[i].Add(1)
	g.nanoseconds.Add(uint64(d))
	if received > 0 {
		g.received.Add(uint64(received))
	}
	if sent > 0 {
		g.sent.Add(uint64(sent))
	}
}
