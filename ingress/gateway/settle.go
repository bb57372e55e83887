package gateway

import (
	"slices"

	"github.com/adit-mesh/adit/ingress"
)

// settle decides, among the routes on a listener to which something happened,
// which of them are served, and makes its table or streams of them.
func (t *Translator) settle(l *listener) {
	g := l.gateway
	if g.listeners[l.listenerKey] != l {
		return // gone
	}
	g.status, g.portsStale = nil, true
	if l.protocol >= ingress.TLS {
		l.settleStreams()
		return
	}
	l.settleKinds()
	for key := range l.unsettled {
		if a := l.attachments[key]; a.rejected != nil {
			l.builder.Delete(key.String())
		} else {
			l.builder.Set(key.String(), entriesFor(a.hosts, a.compiled.entries))
		}
	}
	clear(l.unsettled)
}

// settleKinds rejects routes of which the hosts intersect with those of an older
// route of the other kind: "the implementation MUST accept exactly one of these
// two routes" (GRPCRouteSpec).
func (l *listener) settleKinds() {
	mixed := l.attached[kindHTTPRoute] > 0 && l.attached[kindGRPCRoute] > 0
	if !mixed && !l.mixed {
		return
	}
	l.mixed = mixed
	hosts := map[string]*hostIndex{kindHTTPRoute: newHostIndex(), kindGRPCRoute: newHostIndex()}
	for _, a := range l.byPrecedence() {
		other := kindHTTPRoute
		if a.route.kind == kindHTTPRoute {
			other = kindGRPCRoute
		}
		l.reject(a, hosts[other].overlapping(a.hosts))
		if a.rejected == nil && a.compiled.accepted.True {
			hosts[a.route.kind].add(a.hosts, a.route)
		}
	}
}

func (l *listener) reject(a *attachment, by *routeState) {
	if a.rejected != by {
		a.rejected, a.route.status = by, nil
		l.unsettled.add(a.route.routeKey)
	}
}

func (l *listener) byPrecedence() []*attachment {
	list := make([]*attachment, 0, len(l.attachments))
	for _, a := range l.attachments {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *attachment) int { return precedence(a.route, b.route) })
	return list
}

// settleStreams orders the routes of a TLS, TCP or UDP listener. Of a hostname,
// and of a whole TCP or UDP listener, the oldest route has all; younger ones are
// attached but idle.
func (l *listener) settleStreams() {
	var streams []*ingress.StreamRoute
	taken := make(set[string])
	for _, a := range l.byPrecedence() {
		if l.protocol != ingress.TLS {
			streams = append(streams, a.stream)
			break
		}
		var free []string
		for _, host := range a.hosts {
			if !taken.has(host) {
				taken.add(host)
				free = append(free, host)
			}
		}
		switch {
		case len(free) == 0:
		case len(free) == len(a.hosts):
			streams = append(streams, a.stream)
		default:
			part := *a.stream
			part.Hostnames = free
			streams = append(streams, &part)
		}
	}
	if slices.EqualFunc(l.streams, streams, sameStream) {
		return
	}
	l.streams = streams
	for _, a := range l.attachments {
		a.route.status = nil // it tells who is idle
	}
}

func sameStream(a, b *ingress.StreamRoute) bool {
	return a == b || a.Owner == b.Owner && a.Terminate == b.Terminate &&
		slices.Equal(a.Hostnames, b.Hostnames) && slices.Equal(a.Backends, b.Backends)
}
