package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/adit-mesh/adit/agent/mesh"
)

func TestPoliciesOfPods(t *testing.T) {
	r := newRig(t)
	pod := func(ns, name string, labels ...string) *corev1.Pod {
		return aPod(ns, name, "node-2", fmt.Sprintf("10.0.%d.%d", len(ns), len(name)), func(p *corev1.Pod) {
			p.Labels = map[string]string{}
			for _, l := range labels {
				k, v, _ := strings.Cut(l, "=")
				p.Labels[k] = v
			}
		})
	}
	r.put(pod("shop", "web", "app=web", "tier=front"), pod("shop", "database", "app=db"), pod("banks", "web22", "app=web"))
	listed := func(ns, name string, want ...string) {
		t.Helper()
		if d := cmp.Diff(want, r.want(ns, name).AuthorizationPolicies); d != "" {
			t.Errorf("%s/%s lists, - want + got:\n%s", ns, name, d)
		}
	}
	web := `{selector: {matchLabels: {app: web}}, rules: [{}]}`
	r.put(aPolicy(t, "AuthorizationPolicy", "shop", "allow-web", web), aPolicy(t, "AuthorizationPolicy", "adit-system", "all-web", web),
		aPolicy(t, "AuthorizationPolicy", "shop", "whole", `{}`),
		aPolicy(t, "AuthorizationPolicy", "shop", "waypoint", `{targetRefs: [{kind: Service, name: web}]}`))
	listed("shop", "web", "adit-system/all-web", "shop/allow-web")
	listed("shop", "database")
	listed("banks", "web22", "adit-system/all-web")

	r.put(aPolicy(t, "PeerAuthentication", "adit-system", "default", `{mtls: {mode: STRICT}}`))
	listed("shop", "database", "adit-system/istio_converted_static_strict")
	listed("banks", "web22", "adit-system/all-web", "adit-system/istio_converted_static_strict")

	ported := aPolicy(t, "PeerAuthentication", "shop", "db", `{selector: {matchLabels: {app: db}}, portLevelMtls: {8080: {mode: PERMISSIVE}}}`)
	r.put(ported)
	listed("shop", "database", "shop/converted_peer_authentication_db")

	r.put(aPolicy(t, "PeerAuthentication", "shop", "default", `{mtls: {mode: PERMISSIVE}}`))
	listed("shop", "database") // 8080 as the rest
	listed("shop", "web", "adit-system/all-web", "shop/allow-web")
	r.remove(aPolicy(t, "PeerAuthentication", "adit-system", "default", `{}`), aPolicy(t, "AuthorizationPolicy", "adit-system", "all-web", web))
	listed("banks", "web22")

	r.put(aPolicy(t, "PeerAuthentication", "banks", "broken", `{mtls: yes please}`), aPolicy(t, "PeerAuthentication", "banks", "aaa", `{mtls: {mode: PERMISSIVE}}`))
	listed("banks", "web22") // the older of two counts, and "aaa" is first by name
	r.put(aPolicy(t, "PeerAuthentication", "banks", "broken", `[]`))
	listed("banks", "web22", "adit-system/istio_converted_static_strict")
}

// What an event costs: one changed endpoint is work for one workload, and
// nothing that comes out as before is applied.
func TestCostOfEvents(t *testing.T) {
	r := newRig(t)
	var all []any
	var pods []*corev1.Pod
	for i := range 20 {
		svc := fmt.Sprintf("svc-%d", i)
		var own []*corev1.Pod
		for j := range 10 {
			own = append(own, aPod("shop", fmt.Sprintf("%s-%d", svc, j), "node-2", fmt.Sprintf("10.0.%d.%d", i, j+1), enabled))
		}
		pods = append(pods, own...)
		for _, p := range own {
			all = append(all, p)
		}
		all = append(all, aService("shop", svc, fmt.Sprintf("10.96.0.%d", i+1)), aSlice(svc, svc+"-s", 8080, own...))
	}
	all = append(all, aNamespace("shop", "ambient"), from[corev1.Node](t, `{metadata: {name: node-2}}`))
	r.put(all...)

	size := func(u mesh.Update) int {
		return len(u.Workloads) + len(u.Services) + len(u.Policies) + len(u.RemovedWorkloads) + len(u.RemovedServices) + len(u.RemovedPolicies)
	}
	for _, tt := range []struct {
		name    string
		event   func() mesh.Update
		work    work
		applied int
	}{
		{"the same again", func() mesh.Update { return r.put(all...) }, work{}, 0},
		{"an annotation of no interest", func() mesh.Update {
			return r.put(aPod("shop", "svc-0-0", "node-2", "10.0.0.1", enabled, annotated("x", "y")))
		}, work{}, 0},
		{"a node's heartbeat", func() mesh.Update {
			return r.put(from[corev1.Node](t, `{metadata: {name: node-2, labels: {x: y}}, status: {phase: Running}}`))
		}, work{}, 0},
		{"one endpoint not ready", func() mesh.Update {
			s := aSlice("svc-0", "svc-0-s", 8080, pods[:10]...)
			no := false
			s.Endpoints[3].Conditions.Ready = &no
			return r.put(s)
		}, work{workloads: 1}, 1},
		{"and ready again", func() mesh.Update { return r.put(aSlice("svc-0", "svc-0-s", 8080, pods[:10]...)) }, work{workloads: 1}, 1},
		{"one endpoint gone", func() mesh.Update { return r.put(aSlice("svc-0", "svc-0-s", 8080, pods[1:10]...)) }, work{workloads: 1}, 1},
		{"its pod gone", func() mesh.Update { return r.remove(pods[0]) }, work{workloads: 1}, 1},
		{"a pod not ready", func() mesh.Update {
			return r.put(aPod("shop", "svc-1-0", "node-2", "10.0.1.1", enabled, func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }))
		}, work{workloads: 1}, 1},
		{"a service's address", func() mesh.Update { return r.put(aService("shop", "svc-2", "10.96.1.1")) }, work{services: 1}, 1},
		{"a service's port: its endpoints too", func() mesh.Update {
			return r.put(aService("shop", "svc-3", "10.96.0.4", func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }))
		}, work{services: 1, workloads: 10}, 11},
		{"a slice's port", func() mesh.Update { return r.put(aSlice("svc-4", "svc-4-s", 9090, pods[40:50]...)) }, work{workloads: 10}, 10},
	} {
		var u mesh.Update
		got := r.cost(func() { u = tt.event() })
		if got != tt.work {
			t.Errorf("%s: work %+v, want %+v", tt.name, got, tt.work)
		}
		if n := size(u); n != tt.applied {
			t.Errorf("%s: %d objects applied, want %d", tt.name, n, tt.applied)
		}
	}
}
