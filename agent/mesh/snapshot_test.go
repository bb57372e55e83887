package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/adit-mesh/adit/agent/policy"
)

// After any sequence of changes every index holds exactly what a search
// through the whole world finds.
func TestIndexesAgainstSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	for round := range 200 {
		s := NewStore()
		for range 60 {
			if rng.IntN(20) == 0 {
				w := World{}
				u := randomUpdate(rng)
				w.Workloads, w.Services, w.Policies = u.Workloads, u.Services, u.Policies
				if err := s.Replace(w); err != nil {
					t.Fatal(err)
				}
			} else if err := s.Apply(randomUpdate(rng)); err != nil {
				t.Fatal(err)
			}
		}
		checkIndexes(t, s.current.Load())
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
}

var (
	someKeys     = []string{"a/x", "b/x", "a/y", "b/z"}
	someNetworks = []string{"", "n"}
	someVIPs     = []string{"/10.1.0.1", "/10.1.0.2", "n/10.1.0.1", "/10.1.0.0/24", "/10.1.0.0/16", "n/10.0.0.0/8", "/fd00::/64", "/fd00::1", "/10.0.0.1"}
	someIPs      = []string{"10.0.0.1", "10.0.0.2", "10.1.0.1", "10.1.0.2", "10.1.7.7", "fd00::1", "fd00::2"}
)

func randomUpdate(rng *rand.Rand) Update {
	var u Update
	for range rng.IntN(3) {
		w := pod(fmt.Sprint("w", rng.IntN(6)), someIPs[rng.IntN(len(someIPs))], onNetwork(someNetworks[rng.IntN(2)]))
		for range rng.IntN(3) {
			serves(someKeys[rng.IntN(len(someKeys))])(w)
		}
		w.NetworkMode = NetworkMode(rng.IntN(4) / 3)
		w.Protocol = Protocol(rng.IntN(2))
		w.Status = Health(rng.IntN(3) / 2)
		u.Workloads = append(u.Workloads, w)
	}
	for range rng.IntN(2) {
		s := svc(someKeys[rng.IntN(len(someKeys))], nil)
		for range rng.IntN(4) {
			s.VIPs = append(s.VIPs, vip(someVIPs[rng.IntN(len(someVIPs))]))
		}
		s.Canonical = rng.IntN(2) == 0
		s.Visibility = Visibility(rng.IntN(3) / 2)
		u.Services = append(u.Services, s)
	}
	for range rng.IntN(2) {
		u.Policies = append(u.Policies, policy.Policy{Name: fmt.Sprint("p", rng.IntN(3)), Namespace: []string{"", "a", "b"}[rng.IntN(3)], Scope: policy.Scope(rng.IntN(3)), DryRun: rng.IntN(2) == 0})
	}
	for range rng.IntN(2) {
		u.RemovedWorkloads = append(u.RemovedWorkloads, fmt.Sprint("Kubernetes//Pod/default/w", rng.IntN(6)))
		u.RemovedServices = append(u.RemovedServices, key(someKeys[rng.IntN(len(someKeys))]))
		u.RemovedPolicies = append(u.RemovedPolicies, []string{"/p0", "a/p1", "b/p2"}[rng.IntN(3)])
	}
	return u
}

func checkIndexes(t *testing.T, s *snapshot) {
	t.Helper()
	w := s.world()

	addresses := map[NetworkAddress]bool{}
	memberships := map[NamespacedHostname][]*Workload{}
	for _, wl := range w.Workloads {
		for _, a := range indexedAddresses(wl) {
			addresses[a] = true
		}
		for k := range wl.Services {
			memberships[k] = append(memberships[k], wl)
		}
	}
	if s.byAddr.len() != len(addresses) {
		t.Errorf("%d addresses are indexed, want %d", s.byAddr.len(), len(addresses))
	}
	for a := range addresses {
		best := slices.MaxFunc(w.Workloads, func(x, y *Workload) int { return cmp.Compare(claimTo(x, a), claimTo(y, a)) })
		if got := s.workloadAt(a); got == nil || claimTo(got, a) != claimTo(best, a) {
			t.Errorf("workload at %s = %v, want one with the claim of %v", a, got, best)
		}
	}

	keys := map[NamespacedHostname]bool{}
	hosts := map[string]int{}
	exact, ranges := map[NetworkAddress]int{}, map[VIP]int{}
	for _, svc := range w.Services {
		keys[svc.Key()] = true
		hosts[svc.Hostname]++
		for _, v := range svc.VIPs {
			if v.Prefix.IsSingleIP() {
				exact[NetworkAddress{v.Network, v.Prefix.Addr()}]++
			} else {
				ranges[v]++
			}
		}
	}
	for k := range memberships {
		keys[k] = true
	}
	if s.services.len() != len(keys) {
		t.Errorf("%d service keys are known, want %d", s.services.len(), len(keys))
	}
	for k := range keys {
		got, _ := s.services.get(k)
		if got == nil {
			t.Errorf("service %s is not indexed", k)
			continue
		}
		if !slices.Equal(got.members, memberships[k]) {
			t.Errorf("service %s has members %s, want %s", k, names(got.members), names(memberships[k]))
		}
		if (got.Service == nil) != (got.balance == nil) {
			t.Errorf("service %s: balance without service or the reverse", k)
		}
		if got.balance != nil {
			n := 0
			for _, g := range got.balance.groups {
				n += len(g.endpoints)
			}
			want := 0
			for _, m := range memberships[k] {
				if m.Status == Healthy {
					want++
				}
			}
			if n != want {
				t.Errorf("service %s balances over %d endpoints, want the %d healthy ones", k, n, want)
			}
		}
	}
	checkLists(t, "hostname", s.byHost, hosts)
	checkLists(t, "VIP", s.byVIP, exact)
	checkLists(t, "range", s.byCIDR, ranges)
	lengths := 0
	for _, l := range s.cidrBits.all() {
		for _, n := range l {
			lengths += n.count
		}
	}
	want := 0
	for _, n := range ranges {
		want += n
	}
	if lengths != want {
		t.Errorf("prefix lengths count %d ranges, want %d", lengths, want)
	}

	for _, network := range someNetworks {
		for _, ip := range someIPs {
			for _, namespace := range []string{"a", "b", "c"} {
				a := NetworkAddress{network, addr(ip)}
				best := slowRank(nil, a, namespace)
				for _, svc := range w.Services {
					best = max(best, slowRank(svc, a, namespace))
				}
				var got *Service
				if found := s.serviceAt(a, namespace); found != nil {
					got = found.Service
				}
				if slowRank(got, a, namespace) != best {
					t.Errorf("service at %s for namespace %s = %+v, of rank %d; want rank %d", a, namespace, got, slowRank(got, a, namespace), best)
				}
			}
		}
	}

	force := map[string][]string{}
	for _, p := range w.Policies {
		switch p.Scope {
		case policy.Global:
			force[""] = append(force[""], p.Key())
		case policy.Namespace:
			force[p.Namespace] = append(force[p.Namespace], p.Key())
		}
	}
	got := map[string][]string{}
	for ns, list := range s.inForce.all() {
		for _, c := range list {
			got[ns] = append(got[ns], c.Key())
		}
	}
	if !maps.EqualFunc(got, force, slices.Equal[[]string]) {
		t.Errorf("in force by namespace: %v, want %v", got, force)
	}
}

func claimTo(w *Workload, a NetworkAddress) int {
	if !slices.Contains(indexedAddresses(w), a) {
		return -1
	}
	return claim(w)
}

// slowRank says how well a service fits an address, 0 for not at all.
func slowRank(s *Service, a NetworkAddress, namespace string) int {
	if s == nil || !s.visibleFrom(namespace) {
		return 0
	}
	best := 0
	for _, v := range s.VIPs {
		if v.Network != a.Network || !v.Prefix.Contains(a.Addr) {
			continue
		}
		own, canonical := 0, 0
		if s.Namespace == namespace {
			own = 1
		}
		if s.Canonical {
			canonical = 1
		}
		rank := own<<10 + (v.Prefix.Bits()+1)<<1 + canonical
		if v.Prefix.IsSingleIP() {
			rank = 1<<20 + own<<1 + canonical
		}
		best = max(best, rank)
	}
	return best
}

func checkLists[K comparable](t *testing.T, what string, m pmap[K, []NamespacedHostname], want map[K]int) {
	t.Helper()
	if m.len() != len(want) {
		t.Errorf("%d entries by %s, want %d", m.len(), what, len(want))
	}
	for k, n := range want {
		if got, _ := m.get(k); len(got) != n {
			t.Errorf("%s %v leads to %v, want %d services", what, k, got, n)
		}
	}
}
