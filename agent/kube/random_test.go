package kube

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/agent/mesh"
)

// cluster is a small world in which everything gets in everything's way: few
// names, few addresses.
type cluster struct {
	*rand.Rand
	t       *testing.T
	objects map[string]any
}

func (c *cluster) pick(from ...string) string { return from[c.IntN(len(from))] }
func (c *cluster) often() bool                { return c.IntN(4) > 0 }

// event makes one object, or changes it, or removes it.
func (c *cluster) event() (name string, object any) {
	ns := c.pick("a", "b", "adit-system")
	switch c.IntN(12) {
	case 0, 1, 2, 3:
		name := c.pick("x", "y", "z")
		p := aPod(ns, name, c.pick(here, "node-2"), c.pick("10.0.0.1", "10.0.0.2", "10.0.0.3", ""))
		p.UID = types.UID(ns + name + c.pick("1", "2"))
		p.CreationTimestamp = metav1.Unix(epoch.Unix()+int64(c.IntN(3)), 0)
		p.Labels = map[string]string{"app": c.pick("web", "db")}
		if c.IntN(4) == 0 {
			p.Labels[dataplaneMode] = c.pick("none", "ambient")
		}
		if c.often() {
			p.Annotations = map[string]string{"ambient.istio.io/redirection": c.pick("enabled", "pending")}
		}
		p.Spec.HostNetwork = c.IntN(6) == 0
		p.Status.Phase = corev1.PodPhase(c.pick("Running", "Running", "Running", "Pending", "Failed"))
		p.Status.Conditions[0].Status = corev1.ConditionStatus(c.pick("True", "False"))
		if c.IntN(5) == 0 {
			p.DeletionTimestamp = &metav1.Time{Time: epoch}
		}
		return "pod " + ns + "/" + name, p
	case 4:
		name := c.pick("s", "t")
		return "service " + ns + "/" + name, aService(ns, name, "10.96.0.1", func(s *corev1.Service) {
			s.Spec.Ports[0].Port = int32(80 + c.IntN(2))
			s.Spec.PublishNotReadyAddresses = c.IntN(3) == 0
			if c.IntN(5) == 0 {
				s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
			}
			if c.IntN(3) == 0 {
				s.Spec.Selector = nil
			}
		})
	case 5, 6, 7:
		name := c.pick("s-1", "s-2", "t-1")
		s := aSlice(c.pick("s", "t"), name, int32(8080+c.IntN(2)))
		s.Namespace = ns
		for range c.IntN(4) {
			ready := c.often()
			e := discoveryv1.Endpoint{Addresses: []string{c.pick("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9")}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
			if c.often() {
				e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: c.pick("x", "y", "z")}
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		return "slice " + ns + "/" + name, s
	case 8:
		n := aNamespace(ns, c.pick("", "ambient"))
		n.Annotations = map[string]string{"networking.istio.io/traffic-distribution": c.pick("PreferClose", "Any", "")}
		return "namespace " + ns, n
	case 9:
		name := c.pick(here, "node-2")
		return "node " + name, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: c.pick("z1", "z2")}}}
	case 10:
		name := c.pick("p", "q")
		return "peer " + ns + "/" + name, aPolicy(c.t, "PeerAuthentication", ns, name, c.pick(
			`{mtls: {mode: STRICT}}`, `{mtls: {mode: PERMISSIVE}}`, `[]`, `{}`,
			`{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {80: {mode: PERMISSIVE}}}`,
			`{selector: {matchLabels: {app: db}}, portLevelMtls: {80: {mode: STRICT}}}`))
	default:
		name := c.pick("p", "q")
		return "authorization " + ns + "/" + name, aPolicy(c.t, "AuthorizationPolicy", ns, name, c.pick(
			`{rules: [{}]}`, `{action: DENY, rules: [{}]}`, `{selector: {matchLabels: {app: web}}, rules: [{}]}`,
			`{selector: {matchLabels: {app: db}}}`, `{targetRefs: [{kind: Service, name: s}]}`, `{selector: 7}`))
	}
}

// Whatever happens in whatever order, the store is what it would be had the
// world been seen for the first time.
func TestEventsLeadWhereAFreshStartLeads(t *testing.T) {
	for seed := range uint64(20) {
		c := &cluster{Rand: rand.New(rand.NewPCG(seed, 7)), t: t, objects: map[string]any{}}
		r := newRig(t)
		var history []string
		for range 150 {
			// Several at once, as in a burst.
			for range 1 + c.IntN(3) {
				name, object := c.event()
				old, there := c.objects[name]
				switch {
				case there && c.IntN(3) == 0:
					delete(c.objects, name)
					r.feed(true, old)
					history = append(history, "- "+name)
				default:
					c.objects[name] = object
					r.feed(false, object)
					history = append(history, "+ "+name)
				}
			}
			r.apply()
			fresh := newRig(t)
			for _, name := range slices.Sorted(maps.Keys(c.objects)) {
				fresh.feed(false, c.objects[name])
			}
			fresh.apply()
			if d := diffWorlds(fresh.store.World(), r.store.World()); d != "" {
				t.Fatalf("seed %d: after %v\n- a fresh start, + this world\n%s", seed, history[max(0, len(history)-8):], d)
			}
			r.checkIndexes()
		}
	}
}

func diffWorlds(a, b mesh.World) string {
	return cmp.Diff(a, b, cmpopts.IgnoreUnexported(mesh.Workload{}, mesh.Service{}), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty())
}

// checkIndexes holds the indexes against the tables: what only grows shows.
func (r *rig) checkIndexes() {
	r.t.Helper()
	w := r.w
	want := map[string]int{}
	for _, p := range w.pods {
		want["podsIn"]++
		if !p.template.Value().hostNetwork {
			want["byAddr"] += len(p.addrs)
		}
		if p.local != nil {
			want["localPods"]++
		}
	}
	for _, s := range w.slices {
		want["slicesOf"]++
		named, unnamed := map[string]bool{}, map[netip.Addr]bool{}
		for _, e := range s.endpoints {
			if e.pod != "" {
				named[e.pod] = true
			} else {
				unnamed[e.addr] = true
			}
		}
		want["named"] += len(named)
		want["unnamed"] += len(unnamed)
	}
	for _, a := range w.auths {
		if a.lists() {
			want["selectors"]++
		}
	}
	got := map[string]int{"localPods": len(w.localPods)}
	count := func(name string, n int) {
		if n == 0 {
			r.t.Fatalf("an empty entry in %s", name)
		}
		got[name] += n
	}
	for _, v := range w.podsIn {
		count("podsIn", len(v))
	}
	for _, v := range w.byAddr {
		count("byAddr", len(v))
	}
	for _, v := range w.slicesOf {
		count("slicesOf", len(v))
	}
	for _, v := range w.named {
		count("named", len(v))
	}
	for _, v := range w.unnamed {
		count("unnamed", len(v))
	}
	for _, v := range w.selectors {
		count("selectors", len(v))
	}
	for name, n := range got {
		if n != want[name] {
			r.t.Fatalf("%s has %d entries, want %d: %s", name, n, want[name], fmt.Sprint(want))
		}
	}
}
