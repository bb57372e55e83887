package kube

import (
	"slices"
	"strings"

	"github.com/adit-mesh/adit/agent/kube/authz"
	"github.com/adit-mesh/adit/agent/policy"
)

func (w *world) setAuthorization(k key, now *authorization) {
	old, changed := put(w.auths, k, now)
	if !changed {
		return
	}
	w.marks.policies = true
	if now != nil && (old == nil || !slices.Equal(old.Problems, now.Problems)) {
		w.complain("AuthorizationPolicy", k, now.Problems)
	}
	// A policy that goes on selecting the same workloads is listed by them under
	// the same key.
	if !old.lists() || !now.lists() || old.selector != now.selector {
		for _, a := range [...]*authorization{old, now} {
			if a.lists() {
				w.markSelected(k.namespace, a.selector)
			}
		}
	}
	if old != nil {
		removeFrom(w.selectors, k.namespace, old)
	}
	if now.lists() {
		addTo(w.selectors, k.namespace, now)
	}
}

// markSelected marks the pods that a policy in a namespace selects.
func (w *world) markSelected(namespace string, selector labelSet) {
	mark := func(k key) {
		if w.pods[k].in(selector) {
			w.markPod(k)
		}
	}
	if namespace == w.root {
		for k := range w.pods {
			mark(k)
		}
		return
	}
	for k := range w.podsIn[namespace] {
		mark(k)
	}
}

func (w *world) setPeer(k key, now *peerAuthentication) {
	old, changed := put(w.peers, k, now)
	if !changed {
		return
	}
	w.marks.policies = true
	if now != nil && (old == nil || !slices.Equal(old.Problems, now.Problems)) {
		w.complain("PeerAuthentication", k, now.Problems)
	}
	var list []*peerAuthentication
	for _, p := range w.peers {
		if p.namespace == k.namespace {
			list = append(list, p)
		}
	}
	if len(list) > 0 {
		w.peersIn[k.namespace] = newPeers(list)
	} else {
		delete(w.peersIn, k.namespace)
	}
	for _, p := range [...]*peerAuthentication{old, now} {
		switch {
		case p == nil:
		case p.selector != "":
			for k := range w.podsIn[k.namespace] {
				if w.pods[k].in(p.selector) {
					w.markPod(k)
				}
			}
		case k.namespace == w.root:
			w.markAllPods()
		default:
			w.markNamespace(k.namespace)
		}
	}
}

// complain says what of a policy is not enforced as written.
func (w *world) complain(kind string, k key, problems []string) {
	if len(problems) > 0 {
		w.log.Warn("a policy is not enforced as written", "kind", kind, "policy", k.String(), "problems", problems)
	}
}

// policiesOf are the keys of the policies that p lists, and whether plaintext is
// refused on any of its ports.
func (w *world) policiesOf(p *pod) (list []string, strict bool) {
	of := orZero(w.peersIn[p.namespace])
	selected := of.of(p)
	mode := w.inherited(p.namespace, selected)
	var own policy.Policy
	ported := false
	if selected != nil {
		own, ported = selected.PortPolicy(mode)
	}
	switch {
	case ported:
		list, strict = append(list, own.Key()), true
	case mode == authz.Strict:
		list, strict = append(list, w.root+"/"+authz.StaticStrict), true
	}
	for _, ns := range [...]string{p.namespace, w.root} {
		for _, b := range orZero(w.peersIn[ns]).broken {
			if ns == p.namespace && p.in(b.selector) || ns == w.root && b.selector == "" {
				list, strict = append(list, w.root+"/"+authz.StaticStrict), true
			}
		}
		for _, a := range w.selectors[ns] {
			if p.in(a.selector) {
				list = append(list, a.Policy.Key())
			}
		}
	}
	if len(list) == 0 {
		return nil, false
	}
	slices.Sort(list)
	return w.sharedList(slices.Compact(list)), strict
}

// inherited is the mode of a workload of a namespace that selected selects.
func (w *world) inherited(namespace string, selected *peerAuthentication) authz.Mode {
	return authz.Inherit(orZero(w.peersIn[w.root]).whole.peer(), orZero(w.peersIn[namespace]).whole.peer(), selected.peer())
}

// sharedList returns one slice for equal lists.
func (w *world) sharedList(list []string) []string {
	const most = 1024
	joined := strings.Join(list, "\x00")
	if s, ok := w.lists[joined]; ok {
		return s
	}
	if len(w.lists) >= most {
		clear(w.lists)
	}
	w.lists[joined] = list
	return list
}
