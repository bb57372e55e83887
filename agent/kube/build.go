package kube

import (
	"cmp"
	"reflect"

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
