package gateway

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// world is a random set of objects that refer to each other by few names, so that
// most of what is drawn concerns something else.
type world struct {
	t       testing.TB
	r       *rand.Rand
	objects map[string]runtime.Object // by kind/namespace/name
	serial  int64
}

func (w *world) name(kind string, n int) string { return fmt.Sprintf("%s-%d", kind, w.r.IntN(n)) }

func (w *world) meta(namespace, name string) metav1.ObjectMeta {
	w.serial++
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Generation: w.serial,
		// A new age with each change would be another object: the age goes with the name.
		CreationTimestamp: metav1.NewTime(now.Add(-time.Duration(len(name)+int(name[len(name)-1])%3) * time.Hour)),
		ResourceVersion:   fmt.Sprint(w.serial)}
}

func (w *world) namespace() string { return w.name("ns", 2) }

func pick[T any](w *world, of ...T) T { return of[w.r.IntN(len(of))] }

func (w *world) hostname() *gatewayv1.Hostname {
	return pick(w, nil, new(gatewayv1.Hostname("a.test")), new(gatewayv1.Hostname("*.test")), new(gatewayv1.Hostname("b.a.test")), new(gatewayv1.Hostname("*.a.test")))
}

func (w *world) hostnames() []gatewayv1.Hostname {
	var list []gatewayv1.Hostname
	for range w.r.IntN(3) {
		if h := w.hostname(); h != nil {
			list = append(list, *h)
		}
	}
	return list
}

func (w *world) listeners() []gatewayv1.Listener {
	var list []gatewayv1.Listener
	for i := range 1 + w.r.IntN(3) {
		l := gatewayv1.Listener{
			Name: gatewayv1.SectionName(fmt.Sprintf("l%d", i)), Port: pick[int32](w, 80, 443, 443, 53), Hostname: w.hostname(),
			Protocol: pick(w, gatewayv1.HTTPProtocolType, gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType, gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType, gatewayv1.TCPProtocolType, gatewayv1.UDPProtocolType, "SCTP"),
			AllowedRoutes: &gatewayv1.AllowedRoutes{Namespaces: &gatewayv1.RouteNamespaces{
				From:     new(pick(w, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromSelector)),
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"open": "yes"}},
			}},
		}
		if l.Protocol == gatewayv1.HTTPSProtocolType || l.Protocol == gatewayv1.TLSProtocolType {
			l.TLS = &gatewayv1.ListenerTLSConfig{CertificateRefs: []gatewayv1.SecretObjectReference{{
				Name: gatewayv1.ObjectName(w.name("secret", 2)), Namespace: pick(w, nil, new(gatewayv1.Namespace(w.namespace())))}}}
			if l.Protocol == gatewayv1.TLSProtocolType && w.r.IntN(2) == 0 {
				l.TLS.Mode = new(gatewayv1.TLSModePassthrough)
			}
			if w.r.IntN(4) == 0 {
				l.TLS.Options = map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue{OptionHTTP3: pick[gatewayv1.AnnotationValue](w, "on", "off")}
			}
		}
		list = append(list, l)
	}
	return list
}

func (w *world) parents() []gatewayv1.ParentReference {
	var list []gatewayv1.ParentReference
	for range 1 + w.r.IntN(2) {
		ref := gatewayv1.ParentReference{Name: gatewayv1.ObjectName(w.name("gw", 2)), Namespace: new(gatewayv1.Namespace(w.namespace()))}
		if w.r.IntN(3) == 0 {
			ref.Kind, ref.Name = new(gatewayv1.Kind(kindListenerSet)), gatewayv1.ObjectName(w.name("set", 2))
		}
		if w.r.IntN(3) == 0 {
			ref.SectionName = new(gatewayv1.SectionName(pick(w, "l0", "l1")))
		}
		if w.r.IntN(5) == 0 {
			ref.Port = new(pick[int32](w, 80, 443))
		}
		list = append(list, ref)
	}
	return list
}

func (w *world) backend() gatewayv1.BackendObjectReference {
	return gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(w.name("svc", 3)),
		Namespace: pick(w, nil, nil, new(gatewayv1.Namespace(w.namespace()))), Port: new(pick[int32](w, 80, 80, 81))}
}

func (w *world) draw() runtime.Object {
	ns := w.namespace()
	backends := []gatewayv1.BackendRef{{BackendObjectReference: w.backend()}}
	common := gatewayv1.CommonRouteSpec{ParentRefs: w.parents()}
	switch w.r.IntN(17) {
	case 0:
		o := &gatewayv1.GatewayClass{ObjectMeta: w.meta("", "class-0"), Spec: gatewayv1.GatewayClassSpec{ControllerName: DefaultControllerName}}
		if w.r.IntN(4) == 0 {
			o.Spec.ParametersRef = &gatewayv1.ParametersReference{Kind: "X", Name: "x"}
		}
		return o
	case 1, 2, 3:
		o := &gatewayv1.Gateway{ObjectMeta: w.meta(ns, w.name("gw", 2)), Spec: gatewayv1.GatewaySpec{
			GatewayClassName: pick[gatewayv1.ObjectName](w, "class-0", "class-0", "class-0", "class-1"),
			Listeners:        w.listeners(),
			AllowedListeners: &gatewayv1.AllowedListeners{Namespaces: &gatewayv1.ListenerNamespaces{
				From:     new(pick(w, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromSelector)),
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"open": "yes"}}}},
		}}
		if w.r.IntN(3) == 0 {
			o.Spec.TLS = &gatewayv1.GatewayTLSConfig{
				Backend: &gatewayv1.GatewayBackendTLS{ClientCertificateRef: &gatewayv1.SecretObjectReference{Name: gatewayv1.ObjectName(w.name("secret", 2))}},
				Frontend: &gatewayv1.FrontendTLSConfig{Default: gatewayv1.TLSConfig{Validation: &gatewayv1.FrontendTLSValidation{
					CACertificateRefs: []gatewayv1.ObjectReference{{Kind: "ConfigMap", Name: gatewayv1.ObjectName(w.name("ca", 2))}}}}}}
		}
		return o
	case 4:
		var entries []gatewayv1.ListenerEntry
		for _, l := range w.listeners() {
			entries = append(entries, gatewayv1.ListenerEntry(l))
		}
		return &gatewayv1.ListenerSet{ObjectMeta: w.meta(ns, w.name("set", 2)), Spec: gatewayv1.ListenerSetSpec{
			ParentRef: gatewayv1.ParentGatewayReference{Name: gatewayv1.ObjectName(w.name("gw", 2)), Namespace: new(gatewayv1.Namespace(w.namespace()))}, Listeners: entries}}
	case 5, 6, 7:
		return &gatewayv1.HTTPRoute{ObjectMeta: w.meta(ns, w.name("http", 4)), Spec: gatewayv1.HTTPRouteSpec{CommonRouteSpec: common, Hostnames: w.hostnames(),
			Rules: []gatewayv1.HTTPRouteRule{{
				Matches:     []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: new(gatewayv1.PathMatchPathPrefix), Value: new(pick(w, "/", "/a", "/b"))}}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: backends[0]}}}}}}
	case 8:
		return &gatewayv1.GRPCRoute{ObjectMeta: w.meta(ns, w.name("grpc", 2)), Spec: gatewayv1.GRPCRouteSpec{CommonRouteSpec: common, Hostnames: w.hostnames(),
			Rules: []gatewayv1.GRPCRouteRule{{BackendRefs: []gatewayv1.GRPCBackendRef{{BackendRef: backends[0]}}}}}}
	case 9:
		return &gatewayv1.TLSRoute{ObjectMeta: w.meta(ns, w.name("tls", 3)), Spec: gatewayv1.TLSRouteSpec{CommonRouteSpec: common, Hostnames: w.hostnames(),
			Rules: []gatewayv1.TLSRouteRule{{BackendRefs: backends}}}}
	case 10:
		return pick[runtime.Object](w,
			&gatewayv1.TCPRoute{ObjectMeta: w.meta(ns, w.name("tcp", 2)), Spec: gatewayv1.TCPRouteSpec{CommonRouteSpec: common, Rules: []gatewayv1.TCPRouteRule{{BackendRefs: backends}}}},
			&gatewayv1.UDPRoute{ObjectMeta: w.meta(ns, w.name("udp", 2)), Spec: gatewayv1.UDPRouteSpec{CommonRouteSpec: common, Rules: []gatewayv1.UDPRouteRule{{BackendRefs: backends}}}})
	case 11:
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: pick(w, nil, map[string]string{"open": "yes"})}}
	case 12:
		return &corev1.Service{ObjectMeta: w.meta(ns, w.name("svc", 3)), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
			{Name: "a", Port: 80, Protocol: pick(w, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP), AppProtocol: pick(w, nil, nil, new("kubernetes.io/h2c"))}}}}
	case 13:
		service := w.name("svc", 3)
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: w.name("slice", 3), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new("a"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.0.0.%d", 1+w.r.IntN(9))}}}}
	case 14:
		// Nonsense comes in a name of its own: what a Secret held before it came to
		// hold nonsense is meant to make a difference.
		name := w.name("secret", 3)
		certificate, key := issue(w.t, []string{pick(w, "a.test", "*.test")}, now.Add(-time.Hour), now.Add(24*time.Hour))
		return &corev1.Secret{ObjectMeta: w.meta(ns, name), Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": certificate, "tls.key": key}}
	case 15:
		certificate, _ := issue(w.t, []string{pick(w, "ca1", "ca2")}, now.Add(-time.Hour), now.Add(24*time.Hour))
		return pick[runtime.Object](w,
			&corev1.ConfigMap{ObjectMeta: w.meta(ns, w.name("ca", 2)), Data: map[string]string{"ca.crt": string(certificate)}},
			&gatewayv1.BackendTLSPolicy{ObjectMeta: w.meta(ns, w.name("policy", 2)), Spec: gatewayv1.BackendTLSPolicySpec{
				TargetRefs: []gatewayv1.LocalPolicyTargetReferenceWithSectionName{{LocalPolicyTargetReference: gatewayv1.LocalPolicyTargetReference{Kind: "Service", Name: gatewayv1.ObjectName(w.name("svc", 3))}}},
				Validation: gatewayv1.BackendTLSPolicyValidation{Hostname: "x.test", CACertificateRefs: []gatewayv1.LocalObjectReference{{Kind: "ConfigMap", Name: gatewayv1.ObjectName(w.name("ca", 2))}}}}})
	default:
		return pick[runtime.Object](w,
			&gatewayv1.ReferenceGrant{ObjectMeta: w.meta(ns, w.name("grant", 2)), Spec: gatewayv1.ReferenceGrantSpec{
				From: []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: pick[gatewayv1.Kind](w, kindGateway, kindListenerSet, kindHTTPRoute, kindTLSRoute), Namespace: gatewayv1.Namespace(w.namespace())}},
				To:   []gatewayv1.ReferenceGrantTo{{Kind: pick[gatewayv1.Kind](w, "Secret", "Service", "ConfigMap")}}}},
			&ClientTrafficPolicy{ObjectMeta: w.meta(ns, w.name("traffic", 2)), Spec: ClientTrafficPolicySpec{HTTP3: true,
				Targets: []PolicyTarget{{Group: gatewayv1.GroupName, Kind: kindGateway, Name: gatewayv1.ObjectName(w.name("gw", 2)), SectionName: pick(w, nil, new(gatewayv1.SectionName("l1")))}}}})
	}
}

func kindOf(o runtime.Object) string {
	if _, ok := o.(*ClientTrafficPolicy); ok {
		return "ClientTrafficPolicy"
	}
	kinds, _, err := scheme().ObjectKinds(o)
	if err != nil {
		panic(err)
	}
	return kinds[0].Kind
}

func keyOf(o runtime.Object) string {
	m := o.(metav1.Object)
	return kindOf(o) + "/" + m.GetNamespace() + "/" + m.GetName()
}

// change sets or deletes something, in the world and in a Translator.
func (w *world) change(tr *Translator) string {
	if len(w.objects) > 0 && w.r.IntN(4) == 0 {
		keys := slices.Sorted(maps.Keys(w.objects))
		o := w.objects[keys[w.r.IntN(len(keys))]]
		delete(w.objects, keyOf(o))
		m := o.(metav1.Object)
		tr.Delete(kindOf(o), m.GetNamespace(), m.GetName())
		return "delete " + keyOf(o)
	}
	o := w.draw()
	w.objects[keyOf(o)] = o
	tr.Set(o)
	return "set " + keyOf(o)
}

func describeAll(tr *Translator) string {
	cfg, _ := tr.Build()
	text := summary(tr.Statuses(failing(cfg), placedAll(tr))) + "---\n" + configSummary(cfg)
	for _, name := range slices.SortedFunc(maps.Keys(tr.gateways), compareNames) {
		text += fmt.Sprintln("ports", name, tr.Ports(name))
	}
	return text
}

// TestIncremental says that it makes no difference in which order, and through how
// many Builds, a Translator came to know its objects.
func TestIncremental(t *testing.T) {
	for seed := range uint64(60) {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 1)), objects: make(map[string]runtime.Object)}
		tr := newTestTranslator()
		var log []string
		for range 60 {
			for range 1 + w.r.IntN(4) {
				log = append(log, w.change(tr))
			}
			got := describeAll(tr)
			fresh := newTestTranslator()
			keys := slices.Sorted(maps.Keys(w.objects))
			w.r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			for _, key := range keys {
				fresh.Set(w.objects[key])
			}
			if diff := cmp.Diff(describeAll(fresh), got); diff != "" {
				t.Fatalf("seed %d: after %d changes, the last being %q, the Translator differs from a fresh one (-fresh +incremental):\n%s",
					seed, len(log), log[max(0, len(log)-5):], diff)
			}
		}
	}
}

// TestNothingIsLeftBehind deletes all there is.
func TestNothingIsLeftBehind(t *testing.T) {
	for seed := range uint64(20) {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 2)), objects: make(map[string]runtime.Object)}
		tr := newTestTranslator()
		for range 200 {
			w.change(tr)
			if w.r.IntN(3) == 0 {
				tr.Build()
			}
		}
		for _, o := range w.objects {
			m := o.(metav1.Object)
			tr.Delete(kindOf(o), m.GetNamespace(), m.GetName())
		}
		cfg, _ := tr.Build()
		if text := configSummary(cfg); text != "" {
			t.Fatalf("seed %d: without objects there is still\n%s", seed, text)
		}
		if list := tr.Statuses(failing(cfg), nil); len(list) > 0 {
			t.Fatalf("seed %d: without objects there are still statuses:\n%s", seed, summary(list))
		}
		for name, n := range map[string]int{
			"classes": len(tr.classes), "gateways": len(tr.gateways), "sets": len(tr.sets), "routes": len(tr.routes),
			"namespaces": len(tr.namespaces), "setsOf": len(tr.setsOf), "setsIn": len(tr.setsIn), "routesOf": len(tr.routesOf),
			"routesIn": len(tr.routesIn), "routesTo": len(tr.routesTo), "usedBy": len(tr.usedBy), "lastGood": len(tr.lastGood),
			"bound": len(tr.bound), "clusters": len(tr.clusters.routes) + len(tr.clusters.byService), "staleGateways": len(tr.staleGateways) + len(tr.staleSecrets),
			"staleRoutes": len(tr.staleRoutes), "staleListeners": len(tr.staleListeners), "cached routes": len(tr.cache.routes.keys),
			"cached classes": len(tr.cache.classes), "cached policies": len(tr.cache.policyObjs),
		} {
			if n > 0 {
				t.Errorf("seed %d: without objects, %d %s are left", seed, n, name)
			}
		}
	}
}
