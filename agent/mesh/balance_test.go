package mesh

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The candidates of random services are those that a search finds: best
// locality first, each once, as many as there are up to MaxHops.
func TestChoiceAgainstSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 17))
	word := func(n int) string { return fmt.Sprint(rng.IntN(n)) }
	for range 3000 {
		service := svc("default/web", []string{"/10.1.0.1"})
		service.Ports = PortMap{80: uint16(rng.IntN(2) * 8080)}
		service.IPFamilies = IPFamilies(rng.IntN(4))
		service.LoadBalancing = LoadBalancing{Mode: LoadBalancingMode(rng.IntN(3)), HealthPolicy: HealthPolicy(rng.IntN(2))}
		for range rng.IntN(4) {
			service.LoadBalancing.RoutingPreference = append(service.LoadBalancing.RoutingPreference, ScopeRegion+LocalityScope(rng.IntN(6)))
		}
		place := func(w *Workload) {
			w.Locality = Locality{word(2), word(2), word(2)}
			w.Node, w.ClusterID = word(2), word(2)
			w.Network = []string{"", "", "", "n"}[rng.IntN(4)]
		}
		client := pod("client", "10.0.0.1", place)
		client.Network = ""
		objects := []any{service}
		for i := range rng.IntN(25) {
			w := pod(fmt.Sprint("p", i), fmt.Sprintf("10.0.1.%d", i), place, weight(uint32(rng.IntN(3))))
			if rng.IntN(3) == 0 {
				w.Addresses[0] = addr(fmt.Sprintf("fd00::1:%d", i))
			}
			w.Status = Health(rng.IntN(2))
			serves("default/web", []uint16{80, 9090, 81, 1}[2*rng.IntN(2):]...)(w)
			objects = append(objects, w)
		}
		s := store(t, objects...)
		s.Random = rng.Uint64N

		want := map[int]int{} // usable endpoints by number of scopes matched
		rank := map[string]int{}
		for _, w := range s.World().Workloads {
			if r, ok := slowChoice(service, client, w); ok {
				want[r]++
				rank[w.Name] = r
			}
		}
		r := s.Outbound(client, addrPort("10.1.0.1:80"))
		if n := min(len(rank), MaxHops); len(r.Hops) != n {
			t.Fatalf("%d candidates, want %d\nservice %+v\n%s", len(r.Hops), n, service, describe(r))
		}
		seen := map[string]bool{}
		best := len(service.LoadBalancing.RoutingPreference)
		for _, h := range r.Hops {
			for best > 0 && want[best] == 0 {
				best--
			}
			got, ok := rank[h.Workload.Name]
			if !ok || seen[h.Workload.Name] || got != best {
				t.Fatalf("candidate %s: usable %v, seen before %v, matches %d scopes, want %d\nservice %+v\n%s", h.Workload.Name, ok, seen[h.Workload.Name], got, best, service, describe(r))
			}
			seen[h.Workload.Name] = true
			want[got]--
		}
	}
}

// slowChoice says whether a service's endpoint is usable by src for port 80,
// and how many scopes it shares with it, as far as the mode cares.
func slowChoice(s *Service, src, w *Workload) (scopes int, ok bool) {
	if w.Network != src.Network || w.capacity() == 0 {
		return 0, false
	}
	if w.Status != Healthy && s.LoadBalancing.HealthPolicy != AllowAll {
		return 0, false
	}
	if w.Services[s.Key()][80] == 0 && s.Ports[80] == 0 {
		return 0, false
	}
	if s.IPFamilies == IPv4Only && !w.Addresses[0].Is4() || s.IPFamilies == IPv6Only && w.Addresses[0].Is4() {
		return 0, false
	}
	if s.LoadBalancing.Mode == ModeStandard {
		return 0, true
	}
	for _, scope := range s.LoadBalancing.RoutingPreference {
		same := map[LocalityScope]bool{
			ScopeRegion: w.Locality.Region == src.Locality.Region, ScopeZone: w.Locality.Zone == src.Locality.Zone,
			ScopeSubzone: w.Locality.Subzone == src.Locality.Subzone, ScopeNode: w.Node == src.Node,
			ScopeCluster: w.ClusterID == src.ClusterID, ScopeNetwork: true,
		}
		if !same[scope] {
			break
		}
		scopes++
	}
	return scopes, s.LoadBalancing.Mode != ModeStrict || scopes == len(s.LoadBalancing.RoutingPreference)
}
