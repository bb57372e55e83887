package mesh

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/adit-mesh/adit/agent/policy"
)

// snapshot is one state of the world with its indexes. It never changes once
// readers can see it.
//
// The indexes of services hold keys, not services: a change of a service's
// endpoints then touches one entry, whatever the number of its VIPs.
type snapshot struct {
	workloads pmap[string, *Workload]            // by uid
	byAddr    pmap[NetworkAddress, []*Workload]  // best claim first
	former    pmap[NetworkAddress, former]       // addresses in quarantine
	local     pmap[string, *Workload]            // by uid
	services  pmap[NamespacedHostname, *service] // with their endpoints
	byHost    pmap[string, []NamespacedHostname] // first come first
	byVIP     pmap[NetworkAddress, []NamespacedHostname]
	byCIDR    pmap[VIP, []NamespacedHostname]
	cidrBits  pmap[string, []prefixLength] // by network: which lengths byCIDR has
	policies  pmap[string, *policy.Compiled]
	inForce   pmap[string, []*policy.Compiled] // by namespace, "" = everywhere
}

// service is what is known under one key. Workloads may come before the
// service that they serve, so either part may be missing.
type service struct {
	*Service             // nil: not arrived
	members  []*Workload // all that serve it, by uid
	balance  *balance    // nil: not arrived
}

// prefixLength counts the CIDR VIPs of one length in a network.
type prefixLength struct {
	is4   bool
	bits  int
	count int
}

// workloadAt is the workload with the best claim to an address.
func (s *snapshot) workloadAt(a NetworkAddress) *Workload {
	if ws, _ := s.byAddr.get(a); len(ws) > 0 {
		return ws[0]
	}
	return nil
}

// claim ranks workloads that share an address: a pod is most likely to be what
// really answers there, then whatever is in the mesh.
func claim(w *Workload) int {
	rank := 0
	if isPod(w.UID) {
		rank += 2
	}
	if w.Protocol == HBONE {
		rank++
	}
	return rank
}

// serviceAt is the service that a source means by an address: one with
// exactly that VIP, else one with a range that covers it.
func (s *snapshot) serviceAt(a NetworkAddress, namespace string) *service {
	keys, _ := s.byVIP.get(a)
	if svc := s.best(keys, namespace); svc != nil {
		return svc
	}
	lengths, _ := s.cidrBits.get(a.Network)
	var best *service
	for _, l := range lengths { // longest first
		if l.is4 != a.Addr.Is4() {
			continue
		}
		p, err := a.Addr.Prefix(l.bits)
		if err != nil {
			continue
		}
		keys, _ := s.byCIDR.get(VIP{a.Network, p})
		svc := s.best(keys, namespace)
		// A range of the source's own namespace wins over a longer one.
		if svc != nil && (best == nil || best.Namespace != namespace && svc.Namespace == namespace) {
			best = svc
		}
	}
	return best
}

// best is the service among keys that a source in namespace means: one of its
// own namespace, else a canonical one, else the first.
func (s *snapshot) best(keys []NamespacedHostname, namespace string) *service {
	var best *service
	rank := -1
	for _, key := range keys {
		svc, ok := s.services.get(key)
		if !ok || svc.Service == nil || !svc.visibleFrom(namespace) {
			continue
		}
		r := 0
		if svc.Namespace == namespace {
			r += 2
		}
		if svc.Canonical {
			r++
		}
		if r > rank {
			best, rank = svc, r
		}
	}
	return best
}

// policiesOf is the set in force for w.
func (s *snapshot) policiesOf(w *Workload) policy.Set {
	if w == nil {
		return policy.RefuseAll("the destination workload is unknown; is it in the mesh configuration?")
	}
	// The caller may hold w from before a change.
	if now, ok := s.workloads.get(w.UID); ok {
		w = now
	}
	root, _ := s.inForce.get("")
	var namespace []*policy.Compiled
	if w.Namespace != "" {
		namespace, _ = s.inForce.get(w.Namespace)
	}
	var listed []*policy.Compiled
	var missing []string
	for _, key := range w.AuthorizationPolicies {
		if p, ok := s.policies.get(key); ok {
			listed = append(listed, p)
		} else {
			missing = append(missing, key)
		}
	}
	return policy.NewSet(root, namespace, listed, missing)
}

func (s *snapshot) world() World {
	var w World
	for _, workload := range s.workloads.all() {
		w.Workloads = append(w.Workloads, workload)
	}
	for _, svc := range s.services.all() {
		if svc.Service != nil {
			w.Services = append(w.Services, svc.Service)
		}
	}
	for _, p := range s.policies.all() {
		w.Policies = append(w.Policies, p.Policy())
	}
	sortWorkloads(w.Workloads)
	slices.SortFunc(w.Services, func(a, b *Service) int { return compareKeys(a.Key(), b.Key()) })
	slices.SortFunc(w.Policies, func(a, b policy.Policy) int { return cmp.Compare(a.Key(), b.Key()) })
	return w
}

func sortWorkloads(ws []*Workload) {
	slices.SortFunc(ws, func(a, b *Workload) int { return cmp.Compare(a.UID, b.UID) })
}

func compareKeys(a, b NamespacedHostname) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Hostname, b.Hostname))
}

func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
