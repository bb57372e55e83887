package kube

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/agent/kube/authz"
	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
)

// batch builds what is marked, and returns what of it differs from the store.
// Only one batch is made and applied at a time.
func (w *world) batch(store *mesh.Store) (u mesh.Update, m marks) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m = w.marks
	w.marks = newMarks()
	for k := range m.services {
		w.buildService(k, store, &u)
	}
	for k := range m.pods {
		w.buildPod(k, store, &u)
	}
	for k := range m.slices {
		w.buildSlice(k, store, &u)
	}
	if m.policies {
		w.buildPolicies(&u)
	}
	return u, m
}

func (w *world) buildService(k key, store *mesh.Store, u *mesh.Update) {
	w.work.services++
	s := w.services[k]
	if s != nil && !s.inMesh() {
		w.log.Info("a service of type ExternalName is not part of the mesh: its clients connect to what its name resolves to",
			"service", k.String(), "externalName", s.external)
	}
	name := mesh.NamespacedHostname{Namespace: k.namespace, Hostname: hostname(k, w.clusterDomain)}
	old := store.Service(name)
	if s == nil || !s.inMesh() {
		if old != nil {
			u.RemovedServices = append(u.RemovedServices, name)
		}
		return
	}
	now := s.build(w.network, orZero(w.namespaces[k.namespace]).distribution)
	if old == nil || !sameService(old, now) {
		u.Services = append(u.Services, now)
	}
}

func (w *world) podUID(k key) string { return w.clusterID + "//Pod/" + k.namespace + "/" + k.name }

func (w *world) buildPod(k key, store *mesh.Store, u *mesh.Update) {
	w.work.workloads++
	uid := w.podUID(k)
	w.publish(uid, w.podWorkload(w.pods[k], uid), store, u)
}

// publish notes what differs from the store. A nil workload is gone.
func (w *world) publish(uid string, now *mesh.Workload, store *mesh.Store, u *mesh.Update) {
	old := store.WorkloadByUID(uid)
	switch {
	case now == nil && old != nil:
		u.RemovedWorkloads = append(u.RemovedWorkloads, uid)
	case now != nil && (old == nil || !sameWorkload(old, now)):
		u.Workloads = append(u.Workloads, now)
	}
}

// podWorkload is the workload of a pod; nil for one that has no address, or no
// more.
func (w *world) podWorkload(p *pod, uid string) *mesh.Workload {
	if p == nil {
		return nil
	}
	t := p.template.Value()
	addrs := p.addrs
	if !t.hostNetwork {
		addrs = w.owned(p)
	}
	if len(addrs) == 0 {
		return nil
	}
	name := cmp.Or(t.workloadName, p.name)
	m := &mesh.Workload{
		UID:               uid,
		Name:              p.name,
		Namespace:         p.namespace,
		ServiceAccount:    cmp.Or(t.serviceAccount, "default"),
		TrustDomain:       w.trustDomain,
		Network:           cmp.Or(t.network, w.network),
		Node:              p.node.Value(),
		ClusterID:         w.clusterID,
		CanonicalName:     cmp.Or(t.canonicalName, name),
		CanonicalRevision: t.canonicalRev,
		WorkloadName:      name,
		WorkloadType:      t.workloadType,
		Addresses:         addrs,
		NativeTunnel:      t.tunnels,
		Locality:          orZero(w.nodes[p.node.Value()]).locality,
		Services:          w.servicesOf(p),
	}
	if !p.ready || p.terminating {
		m.Status = mesh.Unhealthy
	}
	if t.hostNetwork {
		m.NetworkMode = mesh.HostNetwork
	}
	var strict bool
	m.AuthorizationPolicies, strict = w.policiesOf(p)
	m.Protocol = w.protocol(p, strict)
	return m
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

// servicesOf are the services that name p, or an address of p, as an endpoint.
func (w *world) servicesOf(p *pod) map[mesh.NamespacedHostname]mesh.PortMap {
	var out map[mesh.NamespacedHostname]mesh.PortMap
	borrowed := false
	add := func(s *endpointSlice, svc *service) {
		ports, more := out[svc.hostname]
		switch {
		case out == nil:
			out, borrowed = s.only(svc), true
			return
		case more && maps.Equal(ports, s.portMap(svc)):
			return
		case borrowed:
			out, borrowed = maps.Clone(out), false
		}
		out[svc.hostname] = join(ports, s.portMap(svc))
	}
	for _, s := range w.named[p.key] {
		if svc := w.serving(s); svc != nil && s.serves(p, svc, p.name) {
			add(s, svc)
		}
	}
	if !p.template.Value().hostNetwork {
		for _, a := range p.addrs {
			for _, s := range w.unnamed[a] {
				if svc := w.serving(s); svc != nil && w.owner(a) == p && s.serves(p, svc, "") {
					add(s, svc)
				}
			}
		}
	}
	return out
}

// serving is the service that a slice is of, nil if the mesh has none.
func (w *world) serving(s *endpointSlice) *service {
	if svc := w.services[key{s.namespace, s.service}]; svc != nil && svc.inMesh() {
		return svc
	}
	return nil
}

// serves reports whether p is an endpoint of the slice, named as name or not
// named at all. An endpoint at another address is of a former pod of this name.
func (s *endpointSlice) serves(p *pod, svc *service, name string) bool {
	for i := range s.endpoints {
		e := &s.endpoints[i]
		if e.pod != name || !slices.Contains(p.addrs, e.addr) {
			continue
		}
		// Whether the pod is ready is seen at the pod first. An endpoint that is
		// not ready although the pod is has been taken out by somebody.
		if e.ready || svc.notReady || !p.ready || p.terminating {
			return true
		}
	}
	return false
}

// protocol is how p takes traffic. See the package comment.
func (w *world) protocol(p *pod, strict bool) mesh.Protocol {
	t := p.template.Value()
	state, told := w.captured[p.uid]
	if !told {
		state = p.redirection
	}
	if t.hostNetwork {
		return mesh.TCP
	}
	if t.tunnels || state == redirected {
		return mesh.HBONE
	}
	if strict {
		if enrol, _ := w.decide(p); enrol {
			return mesh.HBONE
		}
	}
	return mesh.TCP
}

// buildSlice makes a workload of each endpoint of which no pod is known: plain
// TCP, as nobody says what is there.
func (w *world) buildSlice(k key, store *mesh.Store, u *mesh.Update) {
	s := w.slices[k]
	var uids []string
	if s != nil {
		if svc := w.serving(s); svc != nil {
			for i := range s.endpoints {
				e := &s.endpoints[i]
				if e.pod != "" || len(w.byAddr[e.addr]) > 0 {
					continue
				}
				w.work.workloads++
				m := w.opaqueWorkload(s, svc, e)
				if !slices.Contains(uids, m.UID) {
					uids = append(uids, m.UID)
					w.publish(m.UID, m, store, u)
				}
			}
		}
	}
	for _, uid := range w.opaque[k] {
		if !slices.Contains(uids, uid) {
			w.publish(uid, nil, store, u)
		}
	}
	if len(uids) > 0 {
		w.opaque[k] = uids
	} else {
		delete(w.opaque, k)
	}
}

func (w *world) opaqueWorkload(s *endpointSlice, svc *service, e *endpoint) *mesh.Workload {
	m := &mesh.Workload{
		UID:            w.clusterID + "/discovery.k8s.io/EndpointSlice/" + s.namespace + "/" + s.name + "/" + e.addr.String(),
		Name:           s.name,
		Namespace:      s.namespace,
		ServiceAccount: "default",
		TrustDomain:    w.trustDomain,
		Network:        w.network,
		ClusterID:      w.clusterID,
		WorkloadName:   s.name,
		WorkloadType:   mesh.Pod,
		Addresses:      []netip.Addr{e.addr},
		// The address may be anybody's: it is dialled for this service, and says
		// nothing about who connects from there.
		NetworkMode: mesh.HostNetwork,
		Services:    s.only(svc),
	}
	if !e.ready {
		m.Status = mesh.Unhealthy
	}
	return m
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

// buildPolicies makes all policies anew: there are few, and they change rarely.
func (w *world) buildPolicies(u *mesh.Update) {
	now := make(map[string]policy.Policy, len(w.auths)+1)
	for _, a := range w.auths {
		if a.Bound {
			now[a.Policy.Key()] = a.Policy
		}
	}
	for _, p := range w.peers {
		if pol, ok := p.PortPolicy(w.inherited(p.namespace, p)); ok {
			now[pol.Key()] = pol
		}
	}
	static := authz.StaticStrictPolicy(w.root)
	now[static.Key()] = static
	w.work.policies += uint64(len(now))
	for k := range w.published {
		if _, ok := now[k]; !ok {
			u.RemovedPolicies = append(u.RemovedPolicies, k)
		}
	}
	for k, p := range now {
		if old, ok := w.published[k]; !ok || !reflect.DeepEqual(old, p) {
			u.Policies = append(u.Policies, p)
		}
	}
	w.published = now
}
