package gateway

import (
	"fmt"
	"slices"
	"testing"

	"github.com/adit-mesh/adit/ingress"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// shop is a Gateway with an HTTP listener and two HTTPS listeners, and so many
// HTTPRoutes on the first, each with a host and a Service of its own.
func shop(t testing.TB, routes int) (tr *Translator, all map[string]runtime.Object) {
	tr, all = newTestTranslator(), make(map[string]runtime.Object)
	set := func(o runtime.Object) {
		all[keyOf(o)] = o
		tr.Set(o)
	}
	for _, o := range objects(t, []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: edge}
spec: {controllerName: adit-mesh.github.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra, generation: 1}
spec:
  gatewayClassName: edge
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: a, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: a}]}}
  - {name: b, port: 443, protocol: HTTPS, hostname: b.test, tls: {certificateRefs: [{name: b}]}}
---
apiVersion: v1
kind: Secret
metadata: {name: a, namespace: infra, annotations: {test/certificate: "a.test"}}
type: kubernetes.io/tls
---
apiVersion: v1
kind: Secret
metadata: {name: b, namespace: infra, annotations: {test/certificate: "b.test"}}
type: kubernetes.io/tls
`)) {
		set(o)
	}
	for i := range routes {
		set(shopService(i))
		set(shopSlice(i, 1))
		set(shopRoute(i, 1, "/"))
	}
	return tr, all
}

func shopService(i int) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: fmt.Sprintf("svc-%d", i)},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
}

func shopSlice(i, address int) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: fmt.Sprintf("svc-%d-x", i),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("svc-%d", i)}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", i/250, i%250+1, address)}}},
	}
}

func shopRoute(i int, generation int64, path string) *gatewayv1.HTTPRoute {
	return &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: fmt.Sprintf("route-%d", i), Generation: generation},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "gw", SectionName: new(gatewayv1.SectionName("http"))}}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("host-%d.test", i))},
			Rules: []gatewayv1.HTTPRouteRule{{
				Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: new(gatewayv1.PathMatchPathPrefix), Value: new(path)}}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
					Name: gatewayv1.ObjectName(fmt.Sprintf("svc-%d", i)), Port: new(int32(80))}}}},
			}},
		},
	}
}

func listenerOf(t *testing.T, cfg *ingress.Config, name string) *ingress.Listener {
	t.Helper()
	for _, p := range cfg.Ports {
		for _, l := range p.Listeners {
			if l.Name == name {
				return l
			}
		}
	}
	t.Fatalf("the Config has no listener %s", name)
	return nil
}

// TestNoChange sets every object again with what does not matter changed.
func TestNoChange(t *testing.T) {
	tr, all := shop(t, 3)
	before, changed := tr.Build()
	if !changed {
		t.Fatal("the first Build says that it changed nothing")
	}
	for key, o := range all {
		o = o.DeepCopyObject()
		m := o.(metav1.Object)
		m.SetResourceVersion("7")
		m.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "kubectl"}})
		m.SetAnnotations(map[string]string{"kubectl.kubernetes.io/restartedAt": "now"})
		switch o := o.(type) {
		case *gatewayv1.Gateway:
			o.Status.Conditions = []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}}
		case *gatewayv1.HTTPRoute:
			o.Status.Parents = []gatewayv1.RouteParentStatus{{ControllerName: DefaultControllerName}}
		}
		tr.Set(o)
		if n := len(tr.staleGateways) + len(tr.staleRoutes) + len(tr.staleSecrets); n > 0 {
			t.Errorf("%s with nothing but other metadata and status makes %d objects stale", key, n)
		}
		if after, changed := tr.Build(); changed || after != before {
			t.Errorf("%s with nothing but other metadata and status makes another Config", key)
		}
	}
}

// TestRouteChange changes a route, and looks at what else became new.
func TestRouteChange(t *testing.T) {
	tr, _ := shop(t, 3)
	before, _ := tr.Build()
	tr.Set(shopRoute(1, 2, "/other"))
	after, changed := tr.Build()
	if !changed {
		t.Fatal("a route with another path makes no other Config")
	}
	if before.Ports[1] != after.Ports[1] {
		t.Error("the port that the route is not on became another")
	}
	for key, c := range before.Clusters {
		if after.Clusters[key] != c {
			t.Errorf("cluster %s became another, though only a path changed", key)
		}
	}
	if listenerOf(t, before, "http").Routes == listenerOf(t, after, "http").Routes {
		t.Error("the route's table is still the same")
	}
}

// TestEndpointChange changes the endpoints of one Service.
func TestEndpointChange(t *testing.T) {
	tr, _ := shop(t, 3)
	before, _ := tr.Build()
	tr.Set(shopSlice(1, 99))
	after, changed := tr.Build()
	if !changed {
		t.Fatal("another endpoint makes no other Config")
	}
	if !slices.Equal(before.Ports, after.Ports) {
		t.Error("another endpoint makes other ports")
	}
	for key, c := range before.Clusters {
		if same := after.Clusters[key] == c; same != (key != "infra/svc-1:80") {
			t.Errorf("after another endpoint of svc-1: cluster %s is the same: %t", key, same)
		}
	}
}

// TestServiceChange changes what of a Service no route can tell.
func TestServiceChange(t *testing.T) {
	tr, _ := shop(t, 3)
	before, _ := tr.Build()
	s := shopService(1)
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "metrics", Port: 9090})
	tr.Set(s)
	after, _ := tr.Build()
	if !slices.Equal(before.Ports, after.Ports) {
		t.Error("a port that no route refers to makes other tables")
	}
}

// TestSecretChange renews one of two certificates of a port.
func TestSecretChange(t *testing.T) {
	tr, _ := shop(t, 1)
	before, _ := tr.Build()
	certificate, key := issue(t, []string{"a.test", "renewed.test"}, now.Add(-1), validUntil(t, ""))
	tr.Set(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: "a"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": certificate, "tls.key": key}})
	after, changed := tr.Build()
	if !changed {
		t.Fatal("a renewed certificate makes no other Config")
	}
	if listenerOf(t, before, "a") == listenerOf(t, after, "a") {
		t.Error("the listener with the certificate is still the same")
	}
	if got := listenerOf(t, after, "a").TLS.Certificates[0].Leaf.DNSNames; !slices.Contains(got, "renewed.test") {
		t.Errorf("the certificate of the listener is for %v, and not the renewed one", got)
	}
	if listenerOf(t, before, "b") != listenerOf(t, after, "b") || listenerOf(t, before, "http") != listenerOf(t, after, "http") {
		t.Error("listeners without the certificate became others")
	}
	if listenerOf(t, before, "a").Routes != listenerOf(t, after, "a").Routes {
		t.Error("the table of the listener with the certificate became another")
	}
}

// TestListenerAdded adds a listener, as in a live patch.
func TestListenerAdded(t *testing.T) {
	tr, all := shop(t, 2)
	before, _ := tr.Build()
	g := all["Gateway/infra/gw"].DeepCopyObject().(*gatewayv1.Gateway)
	g.Generation++
	g.Spec.Listeners = append(g.Spec.Listeners, gatewayv1.Listener{Name: "more", Port: 8080, Protocol: gatewayv1.HTTPProtocolType})
	tr.Set(g)
	after, changed := tr.Build()
	if !changed || len(after.Ports) != 3 {
		t.Fatalf("after a listener was added: changed %t, %d ports", changed, len(after.Ports))
	}
	for _, name := range []string{"http", "a", "b"} {
		if listenerOf(t, before, name) != listenerOf(t, after, name) {
			t.Errorf("listener %s became another when one was added", name)
		}
	}
}

// BenchmarkChange says what a change costs among 3,000 routes, and among 30.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{30, 3000} {
		changes := map[string]func(tr *Translator, i int){
			"route":    func(tr *Translator, i int) { tr.Set(shopRoute(7, int64(i+2), fmt.Sprintf("/%d", i))) },
			"endpoint": func(tr *Translator, i int) { tr.Set(shopSlice(7, i%200+2)) },
			"nothing": func(tr *Translator, i int) {
				r := shopRoute(7, 1, "/")
				r.ResourceVersion = fmt.Sprint(i)
				tr.Set(r)
			},
		}
		for name, change := range changes {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				tr, _ := shop(b, n)
				cfg, _ := tr.Build()
				tr.Statuses(failing(cfg), placedAll(tr))
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					i++
					change(tr, i)
					tr.Build()
				}
			})
		}
		b.Run(fmt.Sprintf("statuses after a route/%d", n), func(b *testing.B) {
			tr, _ := shop(b, n)
			cfg, _ := tr.Build()
			applied, placed := failing(cfg), placedAll(tr)
			tr.Statuses(applied, placed)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				changes["route"](tr, i)
				tr.Build()
				tr.Statuses(applied, placed)
			}
		})
		b.Run(fmt.Sprintf("all/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tr, _ := shop(b, n)
				tr.Build()
			}
		})
	}
}

// BenchmarkListeners says what a change costs to a Gateway that has 3,000
// listeners of ListenerSets, each with a certificate and a route.
func BenchmarkListeners(b *testing.B) {
	const sets, each = 50, 60
	tr := newTestTranslator()
	tr.Set(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "edge"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: DefaultControllerName}})
	tr.Set(&gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: "gw"}, Spec: gatewayv1.GatewaySpec{GatewayClassName: "edge",
		Listeners:        []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
		AllowedListeners: &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{From: new(gatewayv1.NamespacesFromAll)}}}})
	first := make([][]byte, 2)
	second := make([][]byte, 2)
	first[0], first[1] = issue(b, []string{"one.test"}, now.Add(-1), validUntil(b, ""))
	second[0], second[1] = issue(b, []string{"two.test"}, now.Add(-1), validUntil(b, ""))
	secret := func(name string, pair [][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: name}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": pair[0], "tls.key": pair[1]}}
	}
	for i := range sets {
		s := &gatewayv1.ListenerSet{ObjectMeta: metav1.ObjectMeta{Namespace: "infra", Name: fmt.Sprintf("set-%d", i)},
			Spec: gatewayv1.ListenerSetSpec{ParentRef: gatewayv1.ParentGatewayReference{Name: "gw"}}}
		for j := range each {
			name := fmt.Sprintf("l-%d-%d", i, j)
			s.Spec.Listeners = append(s.Spec.Listeners, gatewayv1.ListenerEntry{Name: gatewayv1.SectionName(name), Port: 443, Protocol: gatewayv1.HTTPSProtocolType,
				Hostname: new(gatewayv1.Hostname(name + ".test")), TLS: &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{{Name: gatewayv1.ObjectName(name)}}}})
			tr.Set(secret(name, first))
			r := shopRoute(i*each+j, 1, "/")
			r.Spec.Hostnames = nil
			r.Spec.ParentRefs = []gatewayv1.ParentReference{{Kind: new(gatewayv1.Kind(kindListenerSet)), Name: gatewayv1.ObjectName(s.Name), SectionName: new(gatewayv1.SectionName(name))}}
			tr.Set(r)
		}
		tr.Set(s)
	}
	cfg, _ := tr.Build()
	applied, placed := failing(cfg), placedAll(tr)
	tr.Statuses(applied, placed)
	b.Run("certificate", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i++
			tr.Set(secret("l-7-7", [][][]byte{first, second}[i%2]))
			if _, changed := tr.Build(); !changed {
				b.Fatal("another certificate makes no other Config")
			}
		}
	})
	b.Run("statuses", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i++
			tr.Set(secret("l-7-7", [][][]byte{first, second}[i%2]))
			tr.Build()
			tr.Statuses(applied, placed)
		}
	})
}
