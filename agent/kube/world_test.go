package kube

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/agent/mesh"
)

func TestWorkloadOfAPod(t *testing.T) {
	r := newRig(t)
	yes := true
	r.put(
		from[corev1.Node](t, `{metadata: {name: node-2, labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z, topology.istio.io/subzone: s}}}`),
		aService("shop", "web", "10.96.0.1"),
		aPod("shop", "web-6d4-x", "node-2", "10.0.0.1", enabled, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-6d4", Controller: &yes}}
			p.Labels = map[string]string{"pod-template-hash": "6d4", "app.kubernetes.io/name": "frontend", "app": "web", "version": "v2"}
			p.Status.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}
		}))
	r.put(aSlice("web", "web-abc", 8080, aPod("shop", "web-6d4-x", "node-2", "10.0.0.1")))
	want := &mesh.Workload{
		UID: "Kubernetes//Pod/shop/web-6d4-x", Name: "web-6d4-x", Namespace: "shop", ServiceAccount: "web", TrustDomain: "cluster.local",
		Node: "node-2", ClusterID: "Kubernetes", CanonicalName: "frontend", CanonicalRevision: "v2",
		WorkloadName: "web", WorkloadType: mesh.Deployment,
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		Protocol:  mesh.HBONE, Locality: mesh.Locality{Region: "r", Zone: "z", Subzone: "s"},
		Services: map[mesh.NamespacedHostname]mesh.PortMap{{Namespace: "shop", Hostname: "web.shop.svc.cluster.local"}: {80: 8080}},
	}
	if d := cmp.Diff(want, r.want("shop", "web-6d4-x"), cmpopts.IgnoreUnexported(mesh.Workload{}), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("workload, - want + got:\n%s", d)
	}
}

func TestWhichPodsAreWorkloads(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*corev1.Pod)
		gone   bool
		status mesh.Health
		mode   mesh.NetworkMode
	}{
		{name: "running and ready"},
		{name: "not ready", edit: func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, status: mesh.Unhealthy},
		{name: "no conditions yet", edit: func(p *corev1.Pod) { p.Status.Conditions = nil }, status: mesh.Unhealthy},
		{name: "pending in its init containers", edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending; p.Status.Conditions = nil }, status: mesh.Unhealthy},
		{name: "terminating, though ready", edit: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: epoch} }, status: mesh.Unhealthy},
		{name: "without an address", edit: func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }, gone: true},
		{name: "succeeded", edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, gone: true},
		{name: "failed", edit: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, gone: true},
		{name: "hostNetwork", edit: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, mode: mesh.HostNetwork},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			p := aPod("shop", "web", "node-2", "10.0.0.1")
			if tt.edit != nil {
				tt.edit(p)
			}
			r.put(aPod("shop", "web", "node-2", "10.0.0.9"), p)
			m := r.workload("shop", "web")
			if tt.gone {
				if m != nil {
					t.Fatalf("it is a workload: %+v", m)
				}
				return
			}
			if m == nil {
				t.Fatal("it is no workload")
			}
			if m.Status != tt.status || m.NetworkMode != tt.mode {
				t.Errorf("status %v, mode %v; want %v, %v", m.Status, m.NetworkMode, tt.status, tt.mode)
			}
			if at := r.store.Workload(netip.MustParseAddr("10.0.0.1")); (at == nil) != (tt.mode == mesh.HostNetwork) {
				t.Errorf("found by its address: %v", at)
			}
		})
	}
}

// How a peer is dialled, by what is known of it.
func TestProtocol(t *testing.T) {
	const strict, permissive = `{mtls: {mode: STRICT}}`, `{mtls: {mode: PERMISSIVE}}`
	sidecar := annotated("sidecar.istio.io/status", "{}")
	for _, tt := range []struct {
		name      string
		mode      string // of the namespace
		edit      []func(*corev1.Pod)
		peer      string
		exclude   string // a namespace
		told      string // by Annotate
		want      mesh.Protocol
		wantAfter mesh.Protocol
	}{
		{name: "in no mesh", want: mesh.TCP},
		{name: "captured", mode: "ambient", edit: []func(*corev1.Pod){enabled}, want: mesh.HBONE},
		{name: "labelled, not captured yet: plaintext works, a tunnel does not", mode: "ambient", want: mesh.TCP},
		{name: "labelled, not captured yet, STRICT: nothing goes out in plaintext", mode: "ambient", peer: strict, want: mesh.HBONE},
		{name: "pending is not captured", mode: "ambient", edit: []func(*corev1.Pod){annotated("ambient.istio.io/redirection", "pending")}, want: mesh.TCP},
		{name: "captured, no longer labelled: by tunnel until it is released", edit: []func(*corev1.Pod){enabled}, want: mesh.HBONE},
		{name: "STRICT, but never captured: a sidecar", mode: "ambient", edit: []func(*corev1.Pod){sidecar}, peer: strict, want: mesh.TCP},
		{name: "STRICT, but never captured: its namespace is excluded", mode: "ambient", exclude: "shop", peer: strict, want: mesh.TCP},
		{name: "STRICT without a label", peer: strict, want: mesh.TCP},
		{name: "STRICT on one port", mode: "ambient", peer: `{selector: {matchLabels: {app: web}}, portLevelMtls: {80: {mode: STRICT}}}`, want: mesh.HBONE},
		{name: "PERMISSIVE", mode: "ambient", peer: permissive, want: mesh.TCP},
		{name: "hostNetwork, whatever its annotation says", mode: "ambient", edit: []func(*corev1.Pod){enabled, func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, want: mesh.TCP},
		{name: "speaks HBONE by itself", edit: []func(*corev1.Pod){labelled("networking.istio.io/tunnel", "http")}, want: mesh.HBONE},
		{name: "opted out", mode: "ambient", edit: []func(*corev1.Pod){labelled(dataplaneMode, "none")}, peer: strict, want: mesh.TCP},
		{name: "captured here before the annotation says so", mode: "ambient", told: "enabled", want: mesh.HBONE},
		{name: "released here before the annotation says so", edit: []func(*corev1.Pod){enabled}, told: "none", want: mesh.TCP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.w.excluded = []string{tt.exclude}
			r.put(aNamespace("shop", tt.mode), aPod("shop", "web", here, "10.0.0.1", tt.edit...))
			if tt.peer != "" {
				r.put(aPolicy(t, "PeerAuthentication", "shop", "default", tt.peer))
			}
			if tt.told != "" {
				r.w.change(func() {
					r.w.captured["uid-of-web"] = parseRedirection(tt.told)
					r.w.markPod(key{"shop", "web"})
				})
				r.apply()
			}
			if got := r.want("shop", "web").Protocol; got != tt.want {
				t.Errorf("protocol %v, want %v", got, tt.want)
			}
		})
	}
}

// Two pods with one address: the sandbox that was made last has it, and the
// other workload is gone.
func TestOneAddressTwoPods(t *testing.T) {
	later := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(epoch.Add(d)) }
	}
	started := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch.Add(d))})
		}
	}
	stopped := func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse})
	}
	terminating := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: epoch} }
	for _, tt := range []struct {
		name     string
		old, new []func(*corev1.Pod)
	}{
		{name: "created later", new: []func(*corev1.Pod){later(time.Second)}},
		{name: "created first, its sandbox made last", old: []func(*corev1.Pod){later(time.Second)}, new: []func(*corev1.Pod){started(time.Minute)}},
		{name: "its sandbox is gone", old: []func(*corev1.Pod){later(time.Second), stopped}},
		{name: "terminating", old: []func(*corev1.Pod){terminating}},
	} {
		for _, order := range []string{"old first", "new first"} {
			t.Run(tt.name+", "+order, func(t *testing.T) {
				r := newRig(t)
				old := aPod("shop", "old", "node-2", "10.0.0.1", append(tt.old, enabled)...)
				now := aPod("shop", "new", "node-2", "10.0.0.1", tt.new...)
				svc := aService("shop", "web", "10.96.0.1")
				if order == "old first" {
					r.put(svc, aSlice("web", "s", 80, old), old)
					r.put(now)
				} else {
					r.put(svc, aSlice("web", "s", 80, old), now)
					r.put(old)
				}
				at := r.store.Workload(netip.MustParseAddr("10.0.0.1"))
				if at == nil || at.Name != "new" {
					t.Errorf("at the address is %v, want the new pod", at)
				}
				if m := r.workload("shop", "old"); m != nil {
					t.Errorf("the old workload is still there: %+v", m)
				}
				r.remove(now)
				if m := r.workload("shop", "old"); m == nil {
					t.Error("the old pod is alone again, and is no workload")
				}
			})
		}
	}
}

// A pod of a former name is not the pod that its slice means.
func TestEndpointOfAFormerPod(t *testing.T) {
	r := newRig(t)
	before := aPod("shop", "db-0", "node-2", "10.0.0.1")
	r.put(aService("shop", "db", "10.96.0.1"), before, aSlice("db", "s", 5432, before))
	if len(r.want("shop", "db-0").Services) != 1 {
		t.Fatal("the pod serves nothing")
	}
	after := aPod("shop", "db-0", "node-3", "10.0.0.2", func(p *corev1.Pod) { p.UID = "another" })
	r.put(after)
	if m := r.want("shop", "db-0"); len(m.Services) != 0 || m.Addresses[0] != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("the new pod at %v serves %v before its slice says so", m.Addresses, m.Services)
	}
	r.put(aSlice("db", "s", 5432, after))
	if len(r.want("shop", "db-0").Services) != 1 {
		t.Error("the new pod serves nothing though its slice says so")
	}
}

func TestEndpointConditions(t *testing.T) {
	notReady := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	for _, tt := range []struct {
		name          string
		podReady      bool
		endpointReady bool
		publish       bool
		chosen        bool
	}{
		{"both ready", true, true, false, true},
		{"the pod fails first", false, true, false, false},
		{"the slice says no although the pod is ready", true, false, false, false},
		{"neither", false, false, false, false},
		{"publishNotReadyAddresses", false, false, true, true},
		{"publishNotReadyAddresses as Kubernetes writes it", false, true, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			p := aPod("shop", "web", "node-2", "10.0.0.1")
			if !tt.podReady {
				notReady(p)
			}
			s := aSlice("web", "s", 8080, p)
			s.Endpoints[0].Conditions.Ready = &tt.endpointReady
			r.put(p, s, aService("shop", "web", "10.96.0.1", func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = tt.publish }))
			route := r.store.Outbound(nil, netip.MustParseAddrPort("10.96.0.1:80"))
			if got := route.Kind == mesh.RouteMesh; got != tt.chosen {
				t.Errorf("chosen: %v, want %v (%s)", got, tt.chosen, route.Reason)
			}
		})
	}
}

func TestPortsOfEndpoints(t *testing.T) {
	r := newRig(t)
	a, b := aPod("shop", "a", "node-2", "10.0.0.1"), aPod("shop", "b", "node-2", "10.0.0.2")
	svc := from[corev1.Service](t, `
metadata: {namespace: shop, name: web}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports:
  - {name: http, port: 80, protocol: TCP, targetPort: web}
  - {name: metrics, port: 9090, protocol: TCP, targetPort: 9091}
  - {name: dns, port: 53, protocol: UDP, targetPort: 53}`)
	slice := func(name string, pod *corev1.Pod, http int32, metrics bool) *discoveryv1.EndpointSlice {
		s := aSlice("web", name, http, pod)
		*s.Ports[0].Name = "http"
		if metrics {
			n, port := "metrics", int32(9091)
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &n, Port: &port})
		}
		return s
	}
	r.put(a, b, svc, slice("s1", a, 8080, true), slice("s2", b, 8081, false))
	key := mesh.NamespacedHostname{Namespace: "shop", Hostname: "web.shop.svc.cluster.local"}
	if d := cmp.Diff(mesh.PortMap{80: 8080, 9090: 9091}, r.want("shop", "a").Services[key]); d != "" {
		t.Errorf("ports of a: %s", d)
	}
	if d := cmp.Diff(mesh.PortMap{80: 8081}, r.want("shop", "b").Services[key]); d != "" {
		t.Errorf("ports of b: %s", d)
	}
	if d := cmp.Diff(mesh.PortMap{80: 0, 9090: 9091}, r.store.Service(key).Ports); d != "" {
		t.Errorf("ports of the service: %s", d)
	}
}

func TestDualStackEndpoint(t *testing.T) {
	r := newRig(t)
	p := aPod("shop", "web", "node-2", "10.0.0.1", func(p *corev1.Pod) {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"})
	})
	v6 := aSlice("web", "s6", 8080, p)
	v6.AddressType, v6.Endpoints[0].Addresses = discoveryv1.AddressTypeIPv6, []string{"fd00::1"}
	r.put(p, aSlice("web", "s4", 8080, p), v6, aService("shop", "web", "10.96.0.1", func(s *corev1.Service) {
		s.Spec.ClusterIPs = []string{"10.96.0.1", "fd00:96::1"}
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}))
	for vip, want := range map[string]string{"10.96.0.1": "10.0.0.1:8080", "fd00:96::1": "[fd00::1]:8080"} {
		route := r.store.Outbound(nil, netip.AddrPortFrom(netip.MustParseAddr(vip), 80))
		if len(route.Hops) != 1 || route.Hops[0].Dial != netip.MustParseAddrPort(want) {
			t.Errorf("%s is routed to %+v, want one hop to %s", vip, route.Hops, want)
		}
	}
	r.remove(v6)
	if m := r.want("shop", "web"); len(m.Services) != 1 {
		t.Errorf("services %v after the IPv6 slice is gone", m.Services)
	}
}

// Endpoints that nobody names a pod for are plain TCP, unless the address is a
// pod's: then that pod is meant, and dialled as it wants to be.
func TestManualEndpoints(t *testing.T) {
	r := newRig(t)
	svc := aService("shop", "db", "10.96.0.1", func(s *corev1.Service) { s.Spec.Selector = nil })
	s := from[discoveryv1.EndpointSlice](t, `
metadata: {namespace: shop, name: db-1, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: "", port: 5432, protocol: TCP}]
endpoints:
- {addresses: [192.0.2.1]}
- {addresses: [10.0.0.7], conditions: {ready: true}}
- {addresses: [192.0.2.9], conditions: {ready: false}}`)
	u := r.put(svc, s)
	prefix := "Kubernetes/discovery.k8s.io/EndpointSlice/shop/db-1/"
	if d := cmp.Diff([]string{prefix + "10.0.0.7", prefix + "192.0.2.1", prefix + "192.0.2.9"}, uids(u.Workloads)); d != "" {
		t.Errorf("workloads: %s", d)
	}
	dial := func() (out []string) {
		for range 30 {
			for _, h := range r.store.Outbound(nil, netip.MustParseAddrPort("10.96.0.1:80")).Hops {
				out = append(out, h.Protocol.String()+" "+h.Dial.String())
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	if d := cmp.Diff([]string{"TCP 10.0.0.7:5432", "TCP 192.0.2.1:5432"}, dial()); d != "" {
		t.Errorf("hops: %s", d)
	}
	if w := r.store.Workload(netip.MustParseAddr("192.0.2.1")); w != nil {
		t.Errorf("an address that anybody may write is an identity: %v", w)
	}
	p := aPod("bank", "vault", "node-2", "10.0.0.7", enabled)
	r.put(p)
	if d := cmp.Diff([]string{"HBONE 10.0.0.7:15008", "TCP 192.0.2.1:5432"}, dial()); d != "" {
		t.Errorf("hops once a pod is known at the address: %s", d)
	}
	r.remove(p)
	if d := cmp.Diff([]string{"TCP 10.0.0.7:5432", "TCP 192.0.2.1:5432"}, dial()); d != "" {
		t.Errorf("hops once it is gone: %s", d)
	}
	u = r.remove(s)
	if len(u.RemovedWorkloads) != 3 {
		t.Errorf("removed %v with the slice", u.RemovedWorkloads)
	}
}

func TestExternalNameIsNotInTheMesh(t *testing.T) {
	r := newRig(t)
	svc := aService("shop", "mail", "10.96.0.1")
	p := aPod("shop", "mail", "node-2", "10.0.0.1")
	r.put(svc, p, aSlice("mail", "s", 25, p))
	external := aService("shop", "mail", "", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "mail.example.com", Ports: s.Spec.Ports}
	})
	r.put(external)
	if s := r.store.Service(mesh.NamespacedHostname{Namespace: "shop", Hostname: "mail.shop.svc.cluster.local"}); s != nil {
		t.Errorf("it is a service of the mesh: %+v", s)
	}
	if m := r.want("shop", "mail"); len(m.Services) != 0 {
		t.Errorf("the pod serves %v", m.Services)
	}
	if k := r.store.Outbound(nil, netip.MustParseAddrPort("10.96.0.1:25")).Kind; k != mesh.RoutePassthrough {
		t.Errorf("its former address is routed: %v", k)
	}
}

// sameWorkload must look at every field that a workload has, but for those that
// are never set here.
func TestSameWorkloadSeesEveryField(t *testing.T) {
	unused := map[string]bool{"Hostname": true, "Waypoint": true, "NetworkGateway": true, "ApplicationTunnel": true, "Capacity": true, "Netns": true}
	everyField(t, unused, sameWorkload)
	unused = map[string]bool{"SubjectAltNames": true, "Waypoint": true, "WeightedWaypoints": true, "IngressUseWaypoint": true, "Visibility": true}
	everyField(t, unused, sameService)
}
