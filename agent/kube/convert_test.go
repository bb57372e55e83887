package kube

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/agent/mesh"
)

func TestDecide(t *testing.T) {
	class := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &name }
	}
	in := func(namespace string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Namespace = namespace }
	}
	own := func(p *corev1.Pod) { p.Namespace, p.Name = "adit-system", "adit-agent-x" }
	for _, tt := range []struct {
		name      string
		namespace string // its label
		edit      []func(*corev1.Pod)
		enrol     bool
		reason    string // part of it
	}{
		{name: "no label", reason: "neither the pod nor its namespace"},
		{name: "namespace", namespace: "ambient", enrol: true, reason: "namespace label istio.io/dataplane-mode=ambient"},
		{name: "namespace with another mode", namespace: "sidecar", reason: "neither"},
		{name: "pod", edit: []func(*corev1.Pod){labelled(dataplaneMode, "ambient")}, enrol: true, reason: "pod label istio.io/dataplane-mode=ambient"},
		{name: "pod against its namespace", namespace: "none", edit: []func(*corev1.Pod){labelled(dataplaneMode, "ambient")}, enrol: true, reason: "pod label"},
		{name: "opted out", namespace: "ambient", edit: []func(*corev1.Pod){labelled(dataplaneMode, "none")}, reason: "pod label istio.io/dataplane-mode=none"},
		{name: "a mode that is not known leaves it to the namespace", namespace: "ambient", edit: []func(*corev1.Pod){labelled(dataplaneMode, "x")}, enrol: true, reason: "namespace label"},
		{name: "hostNetwork", namespace: "ambient", edit: []func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.HostNetwork = true }}, reason: "hostNetwork"},
		{name: "sidecar", namespace: "ambient", edit: []func(*corev1.Pod){annotated("sidecar.istio.io/status", `{"containers":["istio-proxy"]}`)}, reason: "sidecar"},
		{name: "this agent", namespace: "ambient", edit: []func(*corev1.Pod){own}, reason: "this agent"},
		{name: "the CA", namespace: "ambient", edit: []func(*corev1.Pod){func(p *corev1.Pod) { p.Namespace = "adit-system" }, labelled("app.kubernetes.io/part-of", "adit")}, reason: "part of adit"},
		{name: "somebody else by that label", namespace: "ambient", edit: []func(*corev1.Pod){labelled("app.kubernetes.io/part-of", "adit")}, enrol: true, reason: "namespace label"},
		{name: "a namespace that is excluded, for all its label", namespace: "ambient", edit: []func(*corev1.Pod){in("kube-system")}, reason: "excluded by cni.excludeNamespaces"},
		{name: "and for all the pod's", edit: []func(*corev1.Pod){in("kube-system"), labelled(dataplaneMode, "ambient")}, reason: "excluded by cni.excludeNamespaces"},
		{name: "nobody has asked for it", edit: []func(*corev1.Pod){in("kube-system")}, reason: "neither"},
		{name: "kata by name", namespace: "ambient", edit: []func(*corev1.Pod){class("kata-qemu")}, reason: "kata-qemu"},
		{name: "gvisor by name", namespace: "ambient", edit: []func(*corev1.Pod){class("gvisor")}, reason: "gvisor"},
		{name: "runsc by handler", namespace: "ambient", edit: []func(*corev1.Pod){class("secure")}, reason: "secure (handler runsc)"},
		{name: "named gvisor, handled by runc", namespace: "ambient", edit: []func(*corev1.Pod){class("gvisor-was-here")}, enrol: true, reason: "namespace label"},
		{name: "another class", namespace: "ambient", edit: []func(*corev1.Pod){class("nvidia")}, enrol: true, reason: "namespace label"},
		{name: "ended", namespace: "ambient", edit: []func(*corev1.Pod){func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }}, reason: "has ended (Failed)"},
		{name: "terminating", namespace: "ambient", edit: []func(*corev1.Pod){func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: epoch} }}, enrol: true, reason: "namespace label"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := aPod("shop", "web", here, "10.0.0.1", tt.edit...)
			s := settings{root: "adit-system", self: PodRef{"adit-system", "adit-agent-x", "uid-of-adit-agent-x"}, excluded: []string{"kube-system", "adit-system"}}
			enrol, reason := s.judge(newPod(p, true), tt.namespace, true, map[string]string{"secure": "runsc", "gvisor-was-here": "runc"})
			if enrol != tt.enrol || !strings.Contains(reason, tt.reason) {
				t.Errorf("%v: %s; want %v, with %q", enrol, reason, tt.enrol, tt.reason)
			}
		})
	}
}

func TestWorkloadOf(t *testing.T) {
	yes := true
	for _, tt := range []struct {
		kind, owner, hash string
		name              string
		typ               mesh.WorkloadType
	}{
		{"ReplicaSet", "web-6d4b75cb6d", "6d4b75cb6d", "web", mesh.Deployment},
		{"ReplicaSet", "bare", "", "pod", mesh.Pod},
		{"ReplicaSet", "other-abc", "6d4", "pod", mesh.Pod},
		{"Job", "backup-28411920", "", "backup", mesh.CronJob},
		{"Job", "migrate", "", "migrate", mesh.Job},
		{"StatefulSet", "db", "", "pod", mesh.Pod},
		{"DaemonSet", "ds", "", "pod", mesh.Pod},
		{"", "", "", "pod", mesh.Pod},
	} {
		p := aPod("shop", "pod", "n", "10.0.0.1", func(p *corev1.Pod) {
			p.Labels = map[string]string{}
			if tt.hash != "" {
				p.Labels["pod-template-hash"] = tt.hash
			}
			if tt.kind != "" {
				p.OwnerReferences = []metav1.OwnerReference{{Kind: tt.kind, Name: tt.owner, Controller: &yes}}
			}
		})
		r := newRig(t)
		r.put(p)
		m := r.want("shop", "pod")
		if m.WorkloadName != tt.name || m.WorkloadType != tt.typ || m.CanonicalName != tt.name || m.CanonicalRevision != "latest" {
			t.Errorf("%s %s: %s %v, canonical %s %s; want %s %v", tt.kind, tt.owner, m.WorkloadName, m.WorkloadType, m.CanonicalName, m.CanonicalRevision, tt.name, tt.typ)
		}
	}
}

func TestProbePorts(t *testing.T) {
	p := from[corev1.Pod](t, `
spec:
  initContainers:
  - name: sidecar
    restartPolicy: Always
    startupProbe: {tcpSocket: {port: 7000}}
  - name: once
    command: [true]
  containers:
  - name: a
    ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9000}]
    livenessProbe: {httpGet: {port: http, path: /}}
    readinessProbe: {httpGet: {port: "8443"}}
    startupProbe: {grpc: {port: 5000}}
    lifecycle: {preStop: {httpGet: {port: admin}}, postStart: {exec: {command: [x]}}}
  - name: b
    ports: [{name: http, containerPort: 8081}]
    livenessProbe: {tcpSocket: {port: http}}
    readinessProbe: {exec: {command: [x]}}
    startupProbe: {httpGet: {port: 6000, host: 192.0.2.1}}
  - name: c
    livenessProbe: {httpGet: {port: nowhere}}
    readinessProbe: {tcpSocket: {port: 70000}}`)
	if d := cmp.Diff([]uint16{5000, 7000, 8080, 8081, 8443, 9000}, probePorts(&p.Spec)); d != "" {
		t.Errorf("ports, - want + got:\n%s", d)
	}
}

func TestServiceFromKubernetes(t *testing.T) {
	vips := func(list ...string) (out []mesh.VIP) {
		for _, s := range list {
			a := netip.MustParseAddr(s)
			out = append(out, mesh.VIP{Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
		return out
	}
	zone := []mesh.LocalityScope{mesh.ScopeNetwork, mesh.ScopeRegion, mesh.ScopeZone}
	node := []mesh.LocalityScope{mesh.ScopeNetwork, mesh.ScopeRegion, mesh.ScopeZone, mesh.ScopeSubzone, mesh.ScopeNode}
	for _, tt := range []struct {
		name, spec, rest string
		namespace        distribution
		want             mesh.Service
	}{
		{name: "headless", spec: `{clusterIP: None, clusterIPs: [None], selector: {a: b}, ports: [{port: 80}]}`,
			want: mesh.Service{Ports: mesh.PortMap{80: 80}}},
		{name: "dual stack", spec: `{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, "fd00::1"], ipFamilies: [IPv4, IPv6], selector: {a: b}, ports: [{port: 80, targetPort: 8080}]}`,
			want: mesh.Service{VIPs: vips("10.96.0.1", "fd00::1"), Ports: mesh.PortMap{80: 8080}, IPFamilies: mesh.DualStack}},
		{name: "IPv6 alone", spec: `{clusterIP: "fd00::1", ipFamilies: [IPv6], ports: [{port: 80, targetPort: 8080}]}`,
			want: mesh.Service{VIPs: vips("fd00::1"), Ports: mesh.PortMap{80: 0}, IPFamilies: mesh.IPv6Only}},
		{name: "UDP is not of the mesh", spec: `{clusterIP: 10.96.0.1, selector: {a: b}, ports: [{name: u, port: 53, protocol: UDP}, {name: t, port: 53, protocol: TCP}]}`,
			want: mesh.Service{VIPs: vips("10.96.0.1"), Ports: mesh.PortMap{53: 53}}},
		{name: "publishNotReadyAddresses", spec: `{publishNotReadyAddresses: true}`,
			want: mesh.Service{Ports: mesh.PortMap{}, LoadBalancing: mesh.LoadBalancing{HealthPolicy: mesh.AllowAll}}},
		{name: "internalTrafficPolicy over all", spec: `{internalTrafficPolicy: Local, trafficDistribution: PreferClose}`,
			want: mesh.Service{Ports: mesh.PortMap{}, LoadBalancing: mesh.LoadBalancing{Mode: mesh.ModeStrict, RoutingPreference: []mesh.LocalityScope{mesh.ScopeNode}}}},
		{name: "PreferClose", spec: `{trafficDistribution: PreferClose}`,
			want: mesh.Service{Ports: mesh.PortMap{}, LoadBalancing: mesh.LoadBalancing{Mode: mesh.ModeFailover, RoutingPreference: zone}}},
		{name: "PreferSameNode", spec: `{trafficDistribution: PreferSameNode}`,
			want: mesh.Service{Ports: mesh.PortMap{}, LoadBalancing: mesh.LoadBalancing{Mode: mesh.ModeFailover, RoutingPreference: node}}},
		{name: "by annotation", spec: `{}`, rest: `annotations: {networking.istio.io/traffic-distribution: PreferSameZone}`,
			want: mesh.Service{Ports: mesh.PortMap{}, LoadBalancing: mesh.LoadBalancing{Mode: mesh.ModeFailover, RoutingPreference: zone}}},
		{name: "by the namespace", spec: `{}`, namespace: sameNode,
			want: mesh.Service{Ports: mesh.PortMap{}, LoadBalancing: mesh.LoadBalancing{Mode: mesh.ModeFailover, RoutingPreference: node}}},
		{name: "against the namespace", spec: `{}`, rest: `annotations: {networking.istio.io/traffic-distribution: Any}`, namespace: sameNode,
			want: mesh.Service{Ports: mesh.PortMap{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := from[corev1.Service](t, fmt.Sprintf("metadata: {namespace: shop, name: web, %s}\nspec: %s", tt.rest, tt.spec))
			tt.want.Name, tt.want.Namespace, tt.want.Hostname, tt.want.Canonical = "web", "shop", "web.shop.svc.cluster.local", true
			got := newService(s, "cluster.local").build("", tt.namespace)
			if d := cmp.Diff(&tt.want, got, cmpopts.IgnoreUnexported(mesh.Service{}), cmpopts.EquateComparable(netip.Prefix{})); d != "" {
				t.Errorf("service, - want + got:\n%s", d)
			}
		})
	}
}

func TestLoadBalancerAddresses(t *testing.T) {
	s := from[corev1.Service](t, `
metadata: {namespace: shop, name: web}
spec: {type: LoadBalancer, clusterIP: 10.96.0.1, selector: {a: b}}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {ip: 192.0.2.3, ipMode: VIP}, {hostname: lb.example.com}]}}`)
	var got []string
	for _, a := range newService(s, "cluster.local").vips {
		got = append(got, a.String())
	}
	if d := cmp.Diff([]string{"10.96.0.1", "192.0.2.1", "192.0.2.3"}, got); d != "" {
		t.Errorf("addresses, - want + got:\n%s", d)
	}
}

func TestLabelSet(t *testing.T) {
	l := newLabelSet(map[string]string{"app": "web", "tier": "", "application": "x", "b": "web"})
	for _, tt := range []struct {
		selector map[string]string
		want     bool
	}{
		{nil, true},
		{map[string]string{"app": "web"}, true},
		{map[string]string{"app": "web", "tier": "", "b": "web"}, true},
		{map[string]string{"app": "we"}, false},
		{map[string]string{"app": "webb"}, false},
		{map[string]string{"pp": "web"}, false},
		{map[string]string{"app": ""}, false},
		{map[string]string{"tier": ""}, true},
		{map[string]string{"none": ""}, false},
		{map[string]string{"app": "web", "none": "x"}, false},
	} {
		if got := l.has(newLabelSet(tt.selector)); got != tt.want {
			t.Errorf("%v: %v", tt.selector, got)
		}
	}
}

// kubelet knows a pod that it made from a file by a UID of its own, which the
// pod in the API server carries in an annotation. Nobody else's annotation
// counts.
func TestUIDOfStaticPods(t *testing.T) {
	yes := true
	const hash = "0123456789abcdef0123456789abcdef"
	mirror := func(owner, uid string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Annotations = with(p.Annotations, corev1.MirrorPodAnnotationKey, uid)
			p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Name: "x", Controller: &yes}}
		}
	}
	for _, tt := range []struct {
		edit func(*corev1.Pod)
		want string
	}{
		{mirror("Node", hash), hash},
		{mirror("ReplicaSet", hash), "uid-of-web"},
		{mirror("Node", "6fd6e0b1-96bb-4b34-9c1e-2b6a0d9a8a11"), "uid-of-web"},
		{func(*corev1.Pod) {}, "uid-of-web"},
	} {
		p := newPod(aPod("shop", "web", here, "10.0.0.1", tt.edit), true)
		if got := p.ref().UID; got != tt.want {
			t.Errorf("UID %s, want %s", got, tt.want)
		}
		if !p.is(tt.want) || !p.is("uid-of-web") || p.is("another") {
			t.Errorf("the pod with UID %s is not found by it", tt.want)
		}
	}
}
