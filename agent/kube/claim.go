package kube

import (
	"net/netip"
	"slices"
)

func (w *world) setPod(k key, now *pod) {
	if now != nil && ended(now.phase) {
		now = nil
	}
	old := w.pods[k]
	if now != nil {
		w.keepReported(old, now)
	}
	if _, changed := put(w.pods, k, now); !changed {
		return
	}
	w.markPod(k)
	if old != nil {
		w.unindexPod(old, now)
	}
	if now != nil {
		w.indexPod(old, now)
	}
}

// keepReported carries on addresses that the CNI plugin has reported until the
// status has caught up.
func (w *world) keepReported(old, now *pod) {
	if now.reported || old == nil || !old.reported || old.uid != now.uid {
		return
	}
	for _, a := range now.addrs {
		if slices.Contains(old.addrs, a) {
			return
		}
	}
	now.addrs, now.reported = old.addrs, true
	now.since = max(now.since, old.since)
}

func (w *world) unindexPod(old, now *pod) {
	if !old.template.Value().hostNetwork {
		for _, a := range old.addrs {
			removeFrom(w.byAddr, a, old)
			w.addressChanged(a)
		}
	}
	if old.local != nil {
		w.marks.local = true
	}
	if now == nil || now.uid != old.uid {
		delete(w.captured, old.uid)
	}
	if now == nil {
		delete(w.podsIn[old.namespace], old.key)
		if len(w.podsIn[old.namespace]) == 0 {
			delete(w.podsIn, old.namespace)
		}
		delete(w.localPods, old.key)
	}
}

func (w *world) indexPod(old, now *pod) {
	if !now.template.Value().hostNetwork {
		for _, a := range now.addrs {
			addTo(w.byAddr, a, now)
			w.addressChanged(a)
		}
	}
	if now.local != nil {
		w.marks.local = true
		w.localPods[now.key] = struct{}{}
	} else {
		delete(w.localPods, now.key)
	}
	if old == nil {
		if w.podsIn[now.namespace] == nil {
			w.podsIn[now.namespace] = map[key]struct{}{}
		}
		w.podsIn[now.namespace][now.key] = struct{}{}
	}
}

// addressChanged marks who depends on whose address a is: those that claim it,
// and endpoints that are known by nothing else.
func (w *world) addressChanged(a netip.Addr) {
	if claims := w.byAddr[a]; len(claims) > 1 {
		for _, p := range claims {
			w.markPod(p.key)
		}
	} else if len(claims) == 1 {
		w.markPod(claims[0].key)
	}
	for _, s := range w.unnamed[a] {
		w.marks.slices[s.key] = struct{}{}
	}
}

// owned are the addresses of p that no other pod has a better claim to.
func (w *world) owned(p *pod) []netip.Addr {
	all := true
	for _, a := range p.addrs {
		all = all && w.owner(a) == p
	}
	if all {
		return p.addrs
	}
	var out []netip.Addr
	for _, a := range p.addrs {
		if w.owner(a) == p {
			out = append(out, a)
		}
	}
	return out
}

// owner is the pod that has an address. Where several say so, all but one have
// lost theirs and the API server does not know it yet.
func (w *world) owner(a netip.Addr) *pod {
	var best *pod
	for _, p := range w.byAddr[a] {
		if best == nil || p.claims(best) {
			best = p
		}
	}
	return best
}

// claims reports whether p has an address rather than o: the one whose sandbox
// was made last.
func (p *pod) claims(o *pod) bool {
	switch {
	case p.noSandbox != o.noSandbox:
		return o.noSandbox
	case p.since != o.since:
		return p.since > o.since
	case p.terminating != o.terminating:
		return o.terminating
	}
	return p.uid > o.uid
}
