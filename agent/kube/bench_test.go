package kube

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	benchPods     = 10_000
	benchServices = 1_000
)

// benchWorld is a cluster of 100 nodes and 50 namespaces. It returns the slices,
// whose endpoints are ten pods each.
func benchWorld(r *rig) []*discoveryv1.EndpointSlice {
	yes := true
	var nodes, namespaces []any
	for i := range 100 {
		nodes = append(nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("node-%d", i), Labels: map[string]string{corev1.LabelTopologyRegion: "r", corev1.LabelTopologyZone: fmt.Sprintf("z%d", i%3)},
		}})
	}
	for i := range 50 {
		namespaces = append(namespaces, aNamespace(fmt.Sprintf("team-%d", i), "ambient"))
	}
	r.put(append(nodes, namespaces...)...)
	var slices []*discoveryv1.EndpointSlice
	for s := range benchServices {
		ns, name := fmt.Sprintf("team-%d", s%50), fmt.Sprintf("service-%d", s)
		var own []*corev1.Pod
		objects := []any{aService(ns, name, fmt.Sprintf("10.96.%d.%d", s/250, s%250+1))}
		for i := range benchPods / benchServices {
			n := s*10 + i
			p := aPod(ns, fmt.Sprintf("%s-6d4b75cb6d-%05d", name, n), fmt.Sprintf("node-%d", n%100), fmt.Sprintf("10.%d.%d.%d", 1+n/60000, n/250%240, n%250+1),
				enabled, func(p *corev1.Pod) {
					p.UID = "6fd6e0b1-96bb-4b34-9c1e-2b6a0d9a8a11"
					p.Spec.ServiceAccountName = name
					p.Labels = map[string]string{
						"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name, "app.kubernetes.io/version": "1.2.3",
						"pod-template-hash": "6d4b75cb6d", "team": ns,
					}
					p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: name + "-6d4b75cb6d", Controller: &yes}}
				})
			own = append(own, p)
			objects = append(objects, p)
		}
		sl := aSlice(name, name+"-abcde", 8080, own...)
		slices = append(slices, sl)
		r.put(append(objects, sl)...)
	}
	return slices
}

// BenchmarkEndpointChange is one endpoint that becomes unready, and ready
// again, among 10,000 pods: from the event to the world in force. It prints how
// much memory the world takes for each workload, the store included.
func BenchmarkEndpointChange(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := newRig(b)
	slices := benchWorld(r)
	// What the rig made the objects of is not the world's.
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := after.HeapAlloc - before.HeapAlloc - slicesSize(slices)
	no := false
	work := r.w.workDone()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		s := slices[i%benchServices].DeepCopy()
		if i/benchServices%2 == 0 {
			s.Endpoints[3].Conditions.Ready = &no
		}
		r.put(s)
	}
	b.StopTimer()
	b.ReportMetric(float64(used)/benchPods, "B/workload")
	done := r.w.workDone()
	b.ReportMetric(float64(done.workloads-work.workloads)/float64(b.N), "workloads/op")
	runtime.KeepAlive(r)
}

// slicesSize is about what the rig's own copy of the slices takes.
func slicesSize(slices []*discoveryv1.EndpointSlice) uint64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	copies := make([]*discoveryv1.EndpointSlice, len(slices))
	for i, s := range slices {
		copies[i] = s.DeepCopy()
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(copies)
	return after.HeapAlloc - before.HeapAlloc
}

// BenchmarkFirstWorld is what an agent does once it has seen everything.
func BenchmarkFirstWorld(b *testing.B) {
	for range b.N {
		benchWorld(newRig(b))
	}
}
