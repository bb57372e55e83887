package kube

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/adit-mesh/adit/agent/mesh"
)

func (w *world) setService(k key, now *service) {
	old, changed := put(w.services, k, now)
	if !changed {
		return
	}
	w.markService(k)
	if old != nil && now != nil && old.inMesh() == now.inMesh() && slices.Equal(old.ports, now.ports) && old.notReady == now.notReady {
		return // its endpoints serve it as before
	}
	for _, s := range w.slicesOf[k] {
		w.markSlice(s)
	}
}

// markSlice marks all that a slice has endpoints for.
func (w *world) markSlice(s *endpointSlice) {
	for i := range s.endpoints {
		w.markEndpoint(s, &s.endpoints[i])
	}
}

func (w *world) markEndpoint(s *endpointSlice, e *endpoint) {
	if e.pod != "" {
		w.markPod(key{s.namespace, e.pod})
		return
	}
	w.marks.slices[s.key] = struct{}{}
	for _, p := range w.byAddr[e.addr] {
		w.markPod(p.key)
	}
}

func (w *world) setSlice(k key, now *endpointSlice) {
	old := w.slices[k]
	if old != nil && now != nil && old.service == now.service && slices.Equal(old.ports, now.ports) && slices.Equal(old.endpoints, now.endpoints) {
		return
	}
	if _, changed := put(w.slices, k, now); !changed {
		return
	}
	if old != nil {
		w.unindexSlice(old)
	}
	if now != nil {
		w.indexSlice(now)
	}
	if old == nil || now == nil || !old.samePorts(now) {
		for _, s := range [...]*endpointSlice{old, now} {
			if s != nil {
				w.markSlice(s)
			}
		}
		return
	}
	before := make(map[endpoint]struct{}, len(old.endpoints))
	for _, e := range old.endpoints {
		before[e] = struct{}{}
	}
	for i := range now.endpoints {
		e := &now.endpoints[i]
		if _, ok := before[*e]; ok {
			delete(before, *e)
			continue
		}
		w.markEndpoint(now, e)
	}
	for e := range before {
		w.markEndpoint(old, &e)
	}
}

func (w *world) indexSlice(s *endpointSlice) {
	addTo(w.slicesOf, key{s.namespace, s.service}, s)
	for _, e := range s.endpoints {
		if e.pod != "" {
			addTo(w.named, key{s.namespace, e.pod}, s)
		} else {
			addTo(w.unnamed, e.addr, s)
		}
	}
}

func (w *world) unindexSlice(s *endpointSlice) {
	removeFrom(w.slicesOf, key{s.namespace, s.service}, s)
	for _, e := range s.endpoints {
		if e.pod != "" {
			removeFrom(w.named, key{s.namespace, e.pod}, s)
		} else {
			removeFrom(w.unnamed, e.addr, s)
		}
	}
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
