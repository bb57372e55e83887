package mesh

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/agent/policy"
)

// draft is the next snapshot in the making. Its cost is that of the change,
// not that of the world: the indexes share what does not change, and each
// service or namespace concerned is put together once, at the end.
type draft struct {
	snapshot
	edit    *edit
	isLocal func(*Workload) bool
	changed bool
	left    []former // addresses that nobody has any more

	members  map[NamespacedHostname]map[string]*Workload // by uid; nil = gone
	services map[NamespacedHostname]bool                 // to put together again
	inForce  map[string]map[string]*policy.Compiled      // by namespace, by key; nil = gone
}

func newDraft(s *snapshot, isLocal func(*Workload) bool) *draft {
	return &draft{
		snapshot: *s,
		edit:     new(edit),
		isLocal:  isLocal,
		members:  map[NamespacedHostname]map[string]*Workload{},
		services: map[NamespacedHostname]bool{},
		inForce:  map[string]map[string]*policy.Compiled{},
	}
}

// finish completes the draft.
func (d *draft) finish() *snapshot {
	for key, changes := range d.members {
		svc := d.service(key)
		svc.members = merge(svc.members, changes, func(w *Workload) string { return w.UID })
		d.snapshot.services.set(d.edit, key, &svc)
		d.services[key] = true
	}
	for key := range d.services {
		svc := d.service(key)
		switch {
		case svc.Service != nil:
			svc.balance = newBalance(svc.Service, svc.members)
		case len(svc.members) > 0:
			svc.balance = nil
		default:
			d.snapshot.services.delete(d.edit, key)
			continue
		}
		d.snapshot.services.set(d.edit, key, &svc)
	}
	for namespace, changes := range d.inForce {
		old, _ := d.snapshot.inForce.get(namespace)
		if all := merge(old, changes, (*policy.Compiled).Key); len(all) > 0 {
			d.snapshot.inForce.set(d.edit, namespace, all)
		} else {
			d.snapshot.inForce.delete(d.edit, namespace)
		}
	}
	return &d.snapshot
}

// service is a copy of what is known under key.
func (d *draft) service(key NamespacedHostname) service {
	if svc, ok := d.snapshot.services.get(key); ok {
		return *svc
	}
	return service{}
}

func (d *draft) putWorkload(w *Workload) {
	old, _ := d.workloads.get(w.UID)
	if old != nil {
		// Whoever holds the workload may go on comparing pointers.
		if reflect.DeepEqual(old, w) {
			return
		}
		d.removeWorkload(w.UID)
	}
	d.changed = true
	d.workloads.set(d.edit, w.UID, w)
	for _, a := range indexedAddresses(w) {
		others, _ := d.byAddr.get(a)
		others = append(slices.Clone(others), w)
		slices.SortStableFunc(others, func(a, b *Workload) int { return cmp.Compare(claim(b), claim(a)) })
		d.byAddr.set(d.edit, a, others)
		d.former.delete(d.edit, a)
	}
	if d.isLocal(w) {
		d.local.set(d.edit, w.UID, w)
	}
	for key := range w.Services {
		d.member(key, w.UID, w)
	}
}

func (d *draft) removeWorkload(uid string) {
	w, ok := d.workloads.get(uid)
	if !ok {
		return
	}
	d.changed = true
	d.workloads.delete(d.edit, uid)
	d.local.delete(d.edit, uid)
	for _, a := range indexedAddresses(w) {
		others, _ := d.byAddr.get(a)
		others = without(others, w)
		if len(others) == 0 {
			d.byAddr.delete(d.edit, a)
			if w.Protocol == HBONE {
				d.left = append(d.left, former{at: a, who: w.String()})
			}
		} else {
			d.byAddr.set(d.edit, a, others)
		}
	}
	for key := range w.Services {
		d.member(key, uid, nil)
	}
}

func (d *draft) member(key NamespacedHostname, uid string, w *Workload) {
	changes := d.members[key]
	if changes == nil {
		changes = map[string]*Workload{}
		d.members[key] = changes
	}
	changes[uid] = w
}

// indexedAddresses are the addresses at which w is found.
func indexedAddresses(w *Workload) []NetworkAddress {
	if w.NetworkMode == HostNetwork {
		return nil
	}
	var out []NetworkAddress
	for _, a := range w.Addresses {
		if na := (NetworkAddress{w.Network, a}); !slices.Contains(out, na) {
			out = append(out, na)
		}
	}
	return out
}

func (d *draft) putService(s *Service) {
	key := s.Key()
	svc := d.service(key)
	if svc.Service != nil && reflect.DeepEqual(svc.Service, s) {
		return
	}
	d.changed = true
	var old []VIP
	if svc.Service == nil {
		hosts, _ := d.byHost.get(s.Hostname)
		d.byHost.set(d.edit, s.Hostname, append(slices.Clone(hosts), key))
	} else {
		old = svc.VIPs
	}
	// VIPs that stay keep their place among services that share them.
	for _, v := range old {
		if !slices.Contains(s.VIPs, v) {
			d.removeVIP(v, key)
		}
	}
	for _, v := range s.VIPs {
		if !slices.Contains(old, v) {
			d.addVIP(v, key)
		}
	}
	svc.Service = s
	d.snapshot.services.set(d.edit, key, &svc)
	d.services[key] = true
}

func (d *draft) removeService(key NamespacedHostname) {
	svc := d.service(key)
	if svc.Service == nil {
		return
	}
	d.changed = true
	hosts, _ := d.byHost.get(key.Hostname)
	setOrDelete(&d.byHost, d.edit, key.Hostname, without(hosts, key))
	for _, v := range svc.VIPs {
		d.removeVIP(v, key)
	}
	svc.Service = nil
	d.snapshot.services.set(d.edit, key, &svc)
	d.services[key] = true
}

func (d *draft) addVIP(v VIP, key NamespacedHostname) {
	if v.Prefix.IsSingleIP() {
		a := NetworkAddress{v.Network, v.Prefix.Addr()}
		keys, _ := d.byVIP.get(a)
		d.byVIP.set(d.edit, a, append(slices.Clone(keys), key))
		return
	}
	keys, _ := d.byCIDR.get(v)
	d.byCIDR.set(d.edit, v, append(slices.Clone(keys), key))
	d.countCIDR(v, 1)
}

func (d *draft) removeVIP(v VIP, key NamespacedHostname) {
	if v.Prefix.IsSingleIP() {
		a := NetworkAddress{v.Network, v.Prefix.Addr()}
		keys, _ := d.byVIP.get(a)
		setOrDelete(&d.byVIP, d.edit, a, without(keys, key))
		return
	}
	keys, _ := d.byCIDR.get(v)
	setOrDelete(&d.byCIDR, d.edit, v, without(keys, key))
	d.countCIDR(v, -1)
}

// countCIDR keeps the list of prefix lengths in use, longest first.
func (d *draft) countCIDR(v VIP, delta int) {
	lengths, _ := d.cidrBits.get(v.Network)
	lengths = slices.Clone(lengths)
	is4, bits := v.Prefix.Addr().Is4(), v.Prefix.Bits()
	i := slices.IndexFunc(lengths, func(l prefixLength) bool { return l.is4 == is4 && l.bits == bits })
	if i < 0 {
		i = len(lengths)
		lengths = append(lengths, prefixLength{is4: is4, bits: bits})
	}
	lengths[i].count += delta
	lengths = slices.DeleteFunc(lengths, func(l prefixLength) bool { return l.count <= 0 })
	slices.SortFunc(lengths, func(a, b prefixLength) int { return cmp.Compare(b.bits, a.bits) })
	setOrDelete(&d.cidrBits, d.edit, v.Network, lengths)
}

func (d *draft) putPolicy(p *policy.Compiled) {
	key := p.Key()
	if old, ok := d.policies.get(key); ok {
		if reflect.DeepEqual(old.Policy(), p.Policy()) {
			return
		}
		d.removePolicy(key)
	}
	d.changed = true
	d.policies.set(d.edit, key, p)
	d.force(p, p)
}

func (d *draft) removePolicy(key string) {
	p, ok := d.policies.get(key)
	if !ok {
		return
	}
	d.changed = true
	d.policies.delete(d.edit, key)
	d.force(p, nil)
}

// force notes that old, or what replaces it, concerns a whole namespace.
func (d *draft) force(old, now *policy.Compiled) {
	p := old.Policy()
	namespace := p.Namespace
	switch p.Scope {
	case policy.Global:
		namespace = ""
	case policy.WorkloadSelector:
		return // in force where it is listed
	}
	changes := d.inForce[namespace]
	if changes == nil {
		changes = map[string]*policy.Compiled{}
		d.inForce[namespace] = changes
	}
	changes[p.Key()] = now
}

// merge returns old, sorted by key, with changes made to it. A nil change
// removes. old stays as it is.
func merge[T any](old []*T, changes map[string]*T, key func(*T) string) []*T {
	keys := slices.Sorted(maps.Keys(changes))
	out := make([]*T, 0, len(old)+len(keys))
	for _, k := range keys {
		for len(old) > 0 && key(old[0]) < k {
			out = append(out, old[0])
			old = old[1:]
		}
		if len(old) > 0 && key(old[0]) == k {
			old = old[1:]
		}
		if v := changes[k]; v != nil {
			out = append(out, v)
		}
	}
	return append(out, old...)
}

func without[T comparable](s []T, v T) []T {
	out := make([]T, 0, len(s))
	for _, x := range s {
		if x != v {
			out = append(out, x)
		}
	}
	return out
}

func setOrDelete[K comparable, T any](m *pmap[K, []T], e *edit, k K, v []T) {
	if len(v) == 0 {
		m.delete(e, k)
	} else {
		m.set(e, k, v)
	}
}

// isPod reports whether a uid is that of a Kubernetes pod: the group of the
// core API is empty.
func isPod(uid string) bool {
	return strings.Contains(uid, "//Pod/") || strings.Contains(uid, "//v1/Pod/")
}
