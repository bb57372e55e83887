package kube

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress/gateway"
)

func gw(namespace, name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func TestServiceNames(t *testing.T) {
	seen := make(map[string]types.NamespacedName)
	long := strings.Repeat("a", 63)
	for _, g := range []types.NamespacedName{
		gw("a", "b"), gw("a-b", "c"), gw("a", "b-c"), gw("default", "eg"), gw("x", "with.dots"), gw("x", "with-dots"),
		gw(long, strings.Repeat("b", 253)), gw(long, strings.Repeat("b", 252)), gw("1", "2"), gw("x", strings.Repeat("d.", 100)+"d"),
	} {
		for _, r := range []role{roleBalancer, roleUDP, roleAlias} {
			name := serviceName(g, r)
			if r == roleAlias {
				name = aliasName(g)
			}
			if bad := validation.IsDNS1035Label(name); len(bad) > 0 {
				t.Errorf("%s of %s: %q: %v", r, g, name, bad)
			}
			where := name
			if r == roleAlias {
				where = g.Namespace + "/" + name
			}
			if other, taken := seen[where]; taken {
				t.Errorf("%s and %s both have %q", other, g, name)
			}
			seen[where] = g
		}
	}
	if name := aliasName(gw("default", "eg")); name != "eg-adit" {
		t.Errorf("pods find Gateway eg as %s", name)
	}
}

func testSettings() settings {
	return settings{
		namespace: "adit-system", selector: map[string]string{"app": "adit"}, clusterDomain: "cluster.local",
		policy: corev1.ServiceExternalTrafficPolicyLocal,
	}
}

func testPlan(ports ...gateway.GatewayPort) *plan {
	g := &gatewayv1.Gateway{}
	g.Namespace, g.Name = "default", "eg"
	return &plan{name: gw("default", "eg"), gateway: g, ports: ports}
}

func TestDesiredServices(t *testing.T) {
	https := gateway.GatewayPort{Name: "tcp-443", Port: 443, QUIC: true}
	http := gateway.GatewayPort{Name: "tcp-80", Port: 80}
	dns := gateway.GatewayPort{Name: "udp-53", Port: 53, UDP: true}
	for _, c := range []struct {
		name     string
		ports    []gateway.GatewayPort
		separate bool
		want     map[string][]string
	}{
		{"nothing to serve", nil, false, map[string][]string{}},
		{"HTTPS has its mirror on the same port and target port", []gateway.GatewayPort{https, http}, false, map[string][]string{
			"balancer": {"tcp-443 TCP 443 10443", "tcp-443-quic UDP 443 10443", "tcp-80 TCP 80 10080"},
			"alias":    nil,
		}},
		{"a balancer that does not mix", []gateway.GatewayPort{https, dns}, true, map[string][]string{
			"balancer": {"tcp-443 TCP 443 10443"},
			"udp":      {"tcp-443-quic UDP 443 10443", "udp-53 UDP 53 10053"},
			"alias":    nil,
		}},
		{"UDP alone needs no second", []gateway.GatewayPort{dns}, true, map[string][]string{
			"balancer": {"udp-53 UDP 53 10053"},
			"alias":    nil,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, s := testPlan(c.ports...), testSettings()
			s.separateUDP = c.separate
			if err := newServiceIndex("adit-system").allocate(p); err != nil {
				t.Fatal(err)
			}
			got := p.desired(s)
			if len(got) != len(c.want) {
				t.Fatalf("%d Services, want %d", len(got), len(c.want))
			}
			for _, svc := range got {
				r := svc.Labels[labelRole]
				if fmt.Sprint(portsOf(svc)) != fmt.Sprint(c.want[r]) {
					t.Errorf("the %s has ports %q, want %q", r, portsOf(svc), c.want[r])
				}
			}
		})
	}
}

func TestInfrastructureIsPropagated(t *testing.T) {
	p := testPlan(gateway.GatewayPort{Name: "tcp-80", Port: 80})
	p.gateway.Spec.Infrastructure = &gatewayv1.GatewayInfrastructure{
		Labels:      map[gatewayv1.LabelKey]gatewayv1.LabelValue{"team": "edge", labelManaged: "somebody"},
		Annotations: map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue{"cloud.example/lb": "internal"},
	}
	for _, svc := range p.desired(testSettings()) {
		if svc.Labels["team"] != "edge" || svc.Annotations["cloud.example/lb"] != "internal" {
			t.Errorf("%s has labels %v and annotations %v", svc.Name, svc.Labels, svc.Annotations)
		}
		if svc.Labels[labelManaged] != managedBy || svc.Labels[labelGateway] != "eg" || svc.Labels[labelNamespace] != "default" {
			t.Errorf("%s has not got the labels by which it is found: %v", svc.Name, svc.Labels)
		}
	}
}

// asServer is a Service as it is read back.
func asServer(want *corev1.Service) *corev1.Service {
	have := want.DeepCopy()
	have.Annotations[annotationSum] = sumOf(want)
	have.Spec.ClusterIP = "10.96.0.7"
	for i := range have.Spec.Ports {
		have.Spec.Ports[i].NodePort = int32(30000 + i)
	}
	return have
}

func TestTargetPorts(t *testing.T) {
	x := newServiceIndex("adit-system")
	plans := make([]*plan, 5)
	for i := range plans {
		plans[i] = testPlan(gateway.GatewayPort{Name: "tcp-443", Port: 443}, gateway.GatewayPort{Name: "udp-443", Port: 443, UDP: true}, gateway.GatewayPort{Name: "tcp-5010", Port: 5010})
		plans[i].name.Name = fmt.Sprintf("gw%d", i)
	}
	seen := make(map[uint16]bool)
	for _, p := range plans {
		if err := x.allocate(p); err != nil {
			t.Fatal(err)
		}
		for port, target := range p.targets {
			if seen[target] {
				t.Errorf("target port %d of %s is somebody else's", target, p.name)
			}
			if target >= firstReserved && target <= lastReserved || target < firstTarget || target > lastTarget {
				t.Errorf("port %d has target port %d, which is not ours to take", port, target)
			}
			seen[target] = true
		}
		if len(p.targets) != 2 {
			t.Errorf("%d target ports for two port numbers: TCP and UDP have one together", len(p.targets))
		}
	}
	// The promise holds until the Service is seen, whatever else is seen before.
	x.stale = true
	x.settle()
	first := plans[3].targets[443]
	if err := x.allocate(plans[3]); err != nil || plans[3].targets[443] != first {
		t.Errorf("target port %d, then %d: %v", first, plans[3].targets[443], err)
	}
	// Written and read back, another pod finds the same.
	other := newServiceIndex("adit-system")
	for _, p := range plans {
		for _, svc := range p.desired(testSettings()) {
			other.set(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, asServer(svc))
		}
	}
	other.settle()
	for _, p := range plans {
		for _, udp := range []bool{false, true} {
			if b, ok := other.bind(p.name, 443, udp); !ok || b.Port != p.targets[443] || b.UDP != udp {
				t.Errorf("%s is served on %+v %v, want port %d", p.name, b, ok, p.targets[443])
			}
		}
		if _, ok := other.bind(p.name, 8080, false); ok {
			t.Error("a port that no Service has is served")
		}
	}
}

// Of two Services with one target port one is served, and the other gets another
// target port.
func TestTargetPortTwice(t *testing.T) {
	x := newServiceIndex("adit-system")
	a, b := testPlan(gateway.GatewayPort{Name: "tcp-80", Port: 80}), testPlan(gateway.GatewayPort{Name: "tcp-80", Port: 80})
	b.name.Name = "later"
	for _, p := range []*plan{a, b} {
		p.targets = map[uint16]uint16{80: 12000}
		svc := asServer(p.balancer(testSettings(), roleBalancer, p.desired(testSettings())[0].Spec.Ports))
		x.set(gw(svc.Namespace, svc.Name), svc)
	}
	x.settle()
	_, okA := x.bind(a.name, 80, false)
	_, okB := x.bind(b.name, 80, false)
	if okA == okB {
		t.Fatalf("bound: %v and %v; want one", okA, okB)
	}
	for _, p := range []*plan{a, b} {
		if err := x.allocate(p); err != nil {
			t.Fatal(err)
		}
	}
	if a.targets[80] == b.targets[80] {
		t.Errorf("both still have %d", a.targets[80])
	}
}

func TestPortsRunOut(t *testing.T) {
	x := newServiceIndex("adit-system")
	for p := firstTarget; p <= lastTarget; p++ {
		x.targets[uint16(p)] = target{gw("a", "b"), 1}
	}
	if err := x.allocate(testPlan(gateway.GatewayPort{Port: 80})); err == nil || !strings.Contains(err.Error(), "no target port is left") {
		t.Errorf("error %v", err)
	}
}

func TestAsWanted(t *testing.T) {
	p := testPlan(gateway.GatewayPort{Name: "tcp-80", Port: 80})
	if err := newServiceIndex("adit-system").allocate(p); err != nil {
		t.Fatal(err)
	}
	want := p.desired(testSettings())[0]
	have := asServer(want)
	have.Labels["cloud.example/added"], have.Annotations["cloud.example/id"] = "yes", "7"
	if !asWanted(have, want) {
		t.Error("what a cloud adds counts as a difference")
	}
	for name, change := range map[string]func(*corev1.Service){
		"a port":        func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.IntVal = 1 },
		"a label":       func(s *corev1.Service) { delete(s.Labels, labelGateway) },
		"an annotation": func(s *corev1.Service) { s.Annotations[annotationOwner] = "x/y" },
		"the selector":  func(s *corev1.Service) { s.Spec.Selector = nil },
		"the type":      func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP },
		"the policy":    func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster },
		"the sum":       func(s *corev1.Service) { s.Annotations[annotationSum] = "" },
	} {
		other := have.DeepCopy()
		change(other)
		if asWanted(other, want) {
			t.Errorf("%s was changed by hand, and stays so", name)
		}
	}
}

func TestPlacement(t *testing.T) {
	ingress := func(in ...corev1.LoadBalancerIngress) *corev1.Service {
		s := &corev1.Service{}
		s.Namespace, s.Name = "adit-system", "gw"
		s.Status.LoadBalancer.Ingress = in
		return s
	}
	ip := func(a string) corev1.LoadBalancerIngress { return corev1.LoadBalancerIngress{IP: a} }
	for _, c := range []struct {
		name     string
		ask      []string
		services map[role]*corev1.Service
		conflict string
		want     []string
		reason   gatewayv1.GatewayConditionReason
	}{
		{"no Service", nil, nil, "", nil, gatewayv1.GatewayReasonAddressNotAssigned},
		{"no address", nil, map[role]*corev1.Service{roleBalancer: ingress()}, "", nil, gatewayv1.GatewayReasonAddressNotAssigned},
		{"two families", nil, map[role]*corev1.Service{roleBalancer: ingress(ip("192.0.2.1"), ip("2001:db8::1"))}, "", []string{"192.0.2.1", "2001:db8::1"}, ""},
		{"a name", nil, map[role]*corev1.Service{roleBalancer: ingress(corev1.LoadBalancerIngress{Hostname: "a.elb.example"})}, "", []string{"a.elb.example"}, ""},
		{"UDP apart", nil, map[role]*corev1.Service{roleBalancer: ingress(ip("192.0.2.1")), roleUDP: ingress(ip("192.0.2.2"))}, "", []string{"192.0.2.1", "192.0.2.2"}, ""},
		{"what was asked for", []string{"2001:DB8:0::1"}, map[role]*corev1.Service{roleBalancer: ingress(ip("2001:db8::1"))}, "", []string{"2001:db8::1"}, ""},
		{"one of two", []string{"203.0.113.7", "192.0.2.1"}, map[role]*corev1.Service{roleBalancer: ingress(ip("192.0.2.1"))}, "", []string{"192.0.2.1"}, gatewayv1.GatewayReasonAddressNotUsable},
		{"not what was asked for", []string{"203.0.113.7"}, map[role]*corev1.Service{roleBalancer: ingress()}, "", nil, gatewayv1.GatewayReasonAddressNotUsable},
		{"somebody else's Service", nil, nil, "Service x is there", nil, gatewayv1.GatewayReasonNoResources},
		{"any address", []string{""}, map[role]*corev1.Service{roleBalancer: ingress(ip("192.0.2.1"))}, "", []string{"192.0.2.1"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &gatewayv1.Gateway{}
			for _, a := range c.ask {
				g.Spec.Addresses = append(g.Spec.Addresses, gatewayv1.GatewaySpecAddress{Value: a})
			}
			p := placement(g, c.services, c.conflict)
			var got []string
			for _, a := range p.Addresses {
				got = append(got, a.Value)
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("addresses %v, want %v", got, c.want)
			}
			if p.Problem == nil && c.reason != "" || p.Problem != nil && p.Problem.Reason != c.reason {
				t.Errorf("problem %+v, want reason %q", p.Problem, c.reason)
			}
		})
	}
}
