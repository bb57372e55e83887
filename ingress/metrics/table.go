package metrics

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

const (
	none  = "none"  // there was no rule, backend or listener
	other = "other" // there are too many to tell apart, or it is gone
)

// table has the series of requests.
//
// What was counted before is found without a lock: by the Rule's pointer, and then
// by the rest of the request in a small map that is replaced, never changed.
type table struct {
	maxValues, maxSeries int
	byRule               sync.Map // *proxy.Rule → *atomic.Pointer[seen]
	byListener           atomic.Pointer[map[listenerKey]*listener]
	overflowed           total

	mu     sync.Mutex // guards the fields below, and writes of the two maps above
	rules  int        // in byRule
	groups map[labels]*group
	values [4]map[string]int // of gateway, listener, route, cluster: groups that have it
	series int               // with their codes
	live   Live
}

// seen is what a rule was counted for.
type seen map[request]series

type request struct {
	listener listenerKey
	cluster  string
	protocol protocol
	code     uint16
}

type listenerKey struct{ gateway, name string }

// maxSeen bounds what one rule is remembered with: after that it begins anew.
const maxSeen = 512

func (t *table) init(values, series int) {
	t.maxValues, t.maxSeries = values, series
	t.groups = make(map[labels]*group)
	for i := range t.values {
		t.values[i] = make(map[string]int)
	}
	t.byListener.Store(&map[listenerKey]*listener{})
}

// find returns the series of a request.
func (t *table) find(x *proxy.Exchange) series {
	r := request{listenerKey{x.Client.Gateway, x.Client.Listener}, x.Cluster, protocolOf(x.Proto), codeOf(x.Status)}
	if v, ok := t.byRule.Load(x.Rule); ok {
		if s, ok := (*v.(*atomic.Pointer[seen]).Load())[r]; ok {
			return s
		}
	}
	return t.add(x.Rule, r)
}

func (t *table) add(rule *proxy.Rule, r request) series {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.seriesLocked(rule, r)
	if v, ok := t.byRule.Load(rule); ok {
		p := v.(*atomic.Pointer[seen])
		now := seen{}
		if was := *p.Load(); len(was) < maxSeen {
			maps.Copy(now, was)
		}
		now[r] = s
		p.Store(&now)
		return s
	}
	if t.rules++; t.rules > t.maxSeries { // of rules that nobody told us are gone
		t.forgetLocked()
	}
	p := new(atomic.Pointer[seen])
	p.Store(&seen{r: s})
	t.byRule.Store(rule, p)
	return s
}

func (t *table) forgetLocked() {
	t.byRule.Clear()
	t.rules = 0
}

func (t *table) seriesLocked(rule *proxy.Rule, r request) series {
	l := labels{valid(r.listener.gateway), valid(r.listener.name), none, valid(r.cluster), r.protocol.String()}
	if rule != nil {
		o := rule.Owner
		l.route = valid(o.Kind + "/" + o.Namespace + "/" + o.Name)
		if t.live.Route != nil && !t.live.Route(o) {
			l.route = other
		}
	}
	if r.cluster != "" && t.live.Cluster != nil && !t.live.Cluster(r.cluster) {
		l.cluster = other
	}
	g := t.groupLocked(l)
	if rule != nil && g.labels.route != other {
		g.owner = rule.Owner
	}
	if g.codes[r.code] == nil && t.series >= t.maxSeries {
		r.code -= r.code % 100 // a backend makes up codes: their class has to do
	}
	n := g.codes[r.code]
	if n == nil {
		n = new(total)
		g.codes[r.code] = n
		t.series++
	}
	return series{g, n, t.listenerLocked(r.listener)}
}

// groupLocked returns the group of l, with "other" for what there is too much of.
func (t *table) groupLocked(l labels) *group {
	if g := t.groups[l]; g != nil {
		return g
	}
	over := false
	for i, v := range l.values() {
		if *v != none && *v != other && (t.series >= t.maxSeries || t.values[i][*v] == 0 && len(t.values[i]) >= t.maxValues) {
			*v, over = other, true
		}
	}
	if over {
		t.overflowed.Add(1)
		if g := t.groups[l]; g != nil {
			return g
		}
	}
	g := &group{labels: l, codes: make(map[uint16]*total)}
	t.groups[l] = g
	for i, v := range l.values() {
		t.values[i][*v]++
	}
	return g
}

// values are those that are bounded, in the order of table.values.
func (l *labels) values() [4]*string {
	return [4]*string{&l.gateway, &l.listener, &l.route, &l.cluster}
}

func (t *table) listenerOf(gateway, name string) *listener {
	k := listenerKey{gateway, name}
	if l := (*t.byListener.Load())[k]; l != nil {
		return l
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.listenerLocked(k)
}

func (t *table) listenerLocked(k listenerKey) *listener {
	was := *t.byListener.Load()
	if len(was) >= t.maxValues && was[k] == nil {
		k = listenerKey{other, other}
	}
	if l := was[k]; l != nil {
		return l
	}
	now := maps.Clone(was)
	now[k] = new(listener)
	t.byListener.Store(&now)
	return now[k]
}

// retain deletes what is not live, and makes sure that it does not come back.
func (t *table) retain(live Live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live = live
	for l, g := range t.groups {
		if live.has(g) {
			continue
		}
		delete(t.groups, l)
		t.series -= len(g.codes)
		for i, v := range l.values() {
			if t.values[i][*v]--; t.values[i][*v] == 0 {
				delete(t.values[i], *v)
			}
		}
	}
	t.forgetLocked()

	// One that has just begun a request may not have counted it yet, so a listener
	// goes only the second time.
	now := maps.Clone(*t.byListener.Load())
	for k, l := range now {
		gone := !live.hasListener(k.gateway, k.name)
		if gone && l.gone && l.begun.Load() <= l.ended.Load() {
			delete(now, k)
		}
		l.gone = gone
	}
	t.byListener.Store(&now)
}

func (v *Live) has(g *group) bool {
	return v.hasListener(g.labels.gateway, g.labels.listener) &&
		(g.owner == (route.Owner{}) || v.Route == nil || v.Route(g.owner)) &&
		(g.labels.cluster == none || g.labels.cluster == other || v.Cluster == nil || v.Cluster(g.labels.cluster))
}

func (v *Live) hasListener(gateway, name string) bool {
	return v.hasGateway(gateway) &&
		(name == "" || name == none || name == other || gateway == other || v.Listener == nil || v.Listener(gateway, name))
}

func (v *Live) hasGateway(gateway string) bool {
	return gateway == "" || gateway == none || gateway == other || v.Gateway == nil || v.Gateway(gateway)
}

// valid makes a label of a value: one that is no UTF-8 would fail the whole
// scrape.
func valid(s string) string {
	if s == "" {
		return none
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
