package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// bigWorld has pods over services evenly, n of them per service.
func bigWorld(services, n int, opts ...func(*Service)) World {
	var w World
	for i := range services {
		name := fmt.Sprintf("default/s%d.default.svc.cluster.local", i)
		w.Services = append(w.Services, svc(name, []string{fmt.Sprintf("/10.1.%d.%d", i/250, i%250)}, opts...))
		for j := range n {
			k := i*n + j
			ip := netip.AddrFrom4([4]byte{10, byte(2 + k>>16), byte(k >> 8), byte(k)})
			w.Workloads = append(w.Workloads, pod(fmt.Sprint("p", k), ip.String(), serves(name, 80, 8080), serviceAccount(fmt.Sprint("sa", i)),
				in(fmt.Sprint("r", k%3), fmt.Sprint("z", k%9))))
		}
	}
	return w
}

func BenchmarkOutbound(b *testing.B) {
	failover := func(s *Service) {
		s.LoadBalancing = LoadBalancing{Mode: ModeFailover, RoutingPreference: []LocalityScope{ScopeNetwork, ScopeRegion, ScopeZone}}
	}
	for _, mode := range []struct {
		name string
		opts []func(*Service)
	}{{"standard", nil}, {"failover", []func(*Service){failover}}} {
		for _, n := range []int{10, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/endpoints=%d", mode.name, n), func(b *testing.B) {
				s := NewStore()
				if err := s.Replace(bigWorld(1, n, mode.opts...)); err != nil {
					b.Fatal(err)
				}
				src := s.WorkloadByUID("Kubernetes//Pod/default/p0")
				dst := addrPort("10.1.0.0:80")
				b.ReportAllocs()
				for b.Loop() {
					if r := s.Outbound(src, dst); len(r.Hops) != MaxHops {
						b.Fatal(describe(r))
					}
				}
			})
		}
	}
	b.Run("workload", func(b *testing.B) {
		s := NewStore()
		if err := s.Replace(bigWorld(1000, 10)); err != nil {
			b.Fatal(err)
		}
		src := s.WorkloadByUID("Kubernetes//Pod/default/p0")
		dst := netip.AddrPortFrom(s.WorkloadByUID("Kubernetes//Pod/default/p9999").Addresses[0], 80)
		b.ReportAllocs()
		for b.Loop() {
			if r := s.Outbound(src, dst); len(r.Hops) != 1 {
				b.Fatal(describe(r))
			}
		}
	})
}

// One endpoint of 10,000 pods changes: the cost is that of its service.
func BenchmarkApplyOneEndpoint(b *testing.B) {
	for _, shape := range []struct{ services, n int }{{1000, 10}, {10, 1000}, {1, 10_000}} {
		b.Run(fmt.Sprintf("services=%d/endpoints=%d", shape.services, shape.n), func(b *testing.B) {
			s := NewStore()
			w := bigWorld(shape.services, shape.n)
			if err := s.Replace(w); err != nil {
				b.Fatal(err)
			}
			up, down := *w.Workloads[5], *w.Workloads[5]
			down.Status = Unhealthy
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				change := &up
				if i%2 == 0 {
					change = &down
				}
				if err := s.Apply(Update{Workloads: []*Workload{change}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReplace(b *testing.B) {
	w := bigWorld(1000, 10)
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := NewStore().Replace(w); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("same", func(b *testing.B) {
		s := NewStore()
		if err := s.Replace(w); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := s.Replace(w); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParseFile(b *testing.B) {
	var file strings.Builder
	file.WriteString("workloads:\n")
	for i := range 1000 {
		fmt.Fprintf(&file, "- uid: Kubernetes//Pod/default/p%d\n  name: p%d\n  namespace: default\n  serviceAccount: sa\n  workloadIps: [10.0.%d.%d]\n  protocol: HBONE\n  node: n\n  services:\n    default/web: {80: 8080}\n", i, i, i/250, i%250+1)
	}
	data := []byte(file.String())
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseFile("w.yaml", data); err != nil {
			b.Fatal(err)
		}
	}
}
