package backend

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// world makes objects of few names and few contents, so that they meet.
type world struct {
	*rand.Rand
	live map[string]metav1.Object
}

func pick[T any](w *world, from ...T) T { return from[w.IntN(len(from))] }

func ptr[T any](v T) *T { return &v }

func (w *world) service() metav1.Object {
	o := &corev1.Service{ObjectMeta: w.meta("web", "api")}
	o.Spec.Type = pick(w, corev1.ServiceTypeClusterIP, corev1.ServiceTypeClusterIP, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName)
	o.Spec.PublishNotReadyAddresses = w.IntN(4) == 0
	o.Spec.TrafficDistribution = pick(w, nil, nil, ptr(corev1.ServiceTrafficDistributionPreferClose))
	o.Spec.IPFamilies = pick(w, nil, []corev1.IPFamily{corev1.IPv4Protocol}, []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol})
	for _, port := range []int32{80, 443} {
		if w.IntN(4) == 0 {
			continue
		}
		o.Spec.Ports = append(o.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("p%d", port), Port: port,
			Protocol:    pick(w, "", corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP),
			AppProtocol: pick(w, nil, nil, ptr("kubernetes.io/h2c"), ptr("https"), ptr("mysql")),
		})
	}
	return o
}

func (w *world) slice() metav1.Object {
	o := &discoveryv1.EndpointSlice{ObjectMeta: w.meta("s1", "s2", "s3")}
	o.Labels = pick(w, nil, map[string]string{discoveryv1.LabelServiceName: "web"}, map[string]string{discoveryv1.LabelServiceName: "api"})
	o.AddressType = pick(w, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	addresses := map[discoveryv1.AddressType][]string{
		discoveryv1.AddressTypeIPv4: {"10.0.0.1", "10.0.0.2"}, discoveryv1.AddressTypeIPv6: {"fd00::1", "fd00::2"}, discoveryv1.AddressTypeFQDN: {"a.example.com"},
	}[o.AddressType]
	for _, a := range addresses {
		o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{a},
			Conditions: discoveryv1.EndpointConditions{Ready: pick(w, nil, ptr(true), ptr(false)), Terminating: pick(w, nil, ptr(true))},
		})
	}
	for _, port := range []int32{80, 443} {
		o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: ptr(fmt.Sprintf("p%d", port)), Port: ptr(port + 8000), Protocol: pick(w, nil, ptr(corev1.ProtocolUDP))})
	}
	return o
}

func (w *world) policy() metav1.Object {
	o := &gatewayv1.BackendTLSPolicy{ObjectMeta: w.meta("one", "two")}
	o.CreationTimestamp = metav1.NewTime(time.Unix(int64(w.IntN(2)), 0))
	o.Generation = int64(w.IntN(3))
	for range 1 + w.IntN(2) {
		r := gatewayv1.LocalPolicyTargetReferenceWithSectionName{SectionName: pick(w, nil, ptr(gatewayv1.SectionName("p443")))}
		r.Kind, r.Name = pick[gatewayv1.Kind](w, "Service", "Service", "Service", "Other"), pick[gatewayv1.ObjectName](w, "web", "api")
		o.Spec.TargetRefs = append(o.Spec.TargetRefs, r)
	}
	v := &o.Spec.Validation
	v.Hostname = pick[gatewayv1.PreciseHostname](w, "a.example.com", "b.example.com", "")
	if w.IntN(4) == 0 {
		v.WellKnownCACertificates = ptr(gatewayv1.WellKnownCACertificatesSystem)
	} else {
		for range 1 + w.IntN(2) {
			v.CACertificateRefs = append(v.CACertificateRefs, gatewayv1.LocalObjectReference{Kind: pick[gatewayv1.Kind](w, "ConfigMap", "ConfigMap", "Secret", "Other"), Name: pick[gatewayv1.ObjectName](w, "x", "y")})
		}
	}
	return o
}

func (w *world) authority() metav1.Object {
	if ca := pick(w, testCA, otherCA, ""); w.IntN(2) == 0 {
		return &corev1.ConfigMap{ObjectMeta: w.meta("x", "y"), Data: map[string]string{"ca.crt": ca}}
	} else {
		return &corev1.Secret{ObjectMeta: w.meta("x", "y"), StringData: map[string]string{"ca.crt": ca}}
	}
}

func (w *world) grant() metav1.Object {
	o := &gatewayv1.ReferenceGrant{ObjectMeta: w.meta("g1", "g2")}
	o.Spec.From = []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: pick[gatewayv1.Kind](w, "HTTPRoute", "GRPCRoute"), Namespace: pick[gatewayv1.Namespace](w, "default", "other")}}
	o.Spec.To = []gatewayv1.ReferenceGrantTo{{Kind: "Service", Name: pick(w, nil, ptr(gatewayv1.ObjectName("web")))}}
	return o
}

func (w *world) meta(names ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: pick(w, "default", "default", "other"), Name: pick(w, names...)}
}

// question is a reference that is resolved after each change.
type question struct {
	from From
	ref  gatewayv1.BackendObjectReference
}

func questions() (qs []question) {
	for _, kind := range []gatewayv1.Kind{"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"} {
		for _, ns := range []string{"default", "other"} {
			for _, name := range []string{"web", "api"} {
				for _, port := range []int32{80, 443} {
					for _, gw := range []types.NamespacedName{{}, edge} {
						qs = append(qs, question{From{Kind: kind, Namespace: "default", Gateway: gw}, ref(ns, name, port)})
					}
				}
			}
		}
	}
	return qs
}

type answer struct {
	target  Target
	problem Problem
	config  *upstream.Config
}

func ask(x *Index, q question) (a answer) {
	t, p := x.Resolve(q.from, q.ref)
	a.target = t
	if p != nil {
		a.problem = *p
	} else {
		a.config = x.Cluster(t.Cluster)
	}
	return a
}

func sameConfig(a, b *upstream.Config) bool {
	if a == nil || b == nil || a.TLS == nil || b.TLS == nil {
		return reflect.DeepEqual(a, b)
	}
	x, y := *a, *b
	x.TLS, y.TLS = nil, nil
	s, r := *a.TLS, *b.TLS
	roots := s.Roots.Equal(r.Roots) // deep equality would compare functions
	s.Roots, r.Roots = nil, nil
	return roots && reflect.DeepEqual(x, y) && reflect.DeepEqual(s, r)
}

func leadsTo(s types.NamespacedName) []types.NamespacedName {
	if s.Name == "web" {
		return []types.NamespacedName{edge, inner}
	}
	return []types.NamespacedName{inner}
}

// What an index says after any series of changes is what one says that was given
// the outcome at once, and TakeChanges told of every difference.
func TestIncrementalIsAsFromScratch(t *testing.T) {
	qs := questions()
	for seed := range uint64(30) {
		w := &world{rand.New(rand.NewPCG(seed, 1)), make(map[string]metav1.Object)}
		x := NewIndex(Options{})
		client := clientCert
		x.SetClientCertificate(edge, client)
		before := make([]answer, len(qs))
		for i, q := range qs {
			before[i] = ask(x, q)
		}
		statuses := x.PolicyStatuses(leadsTo)
		x.TakeChanges()
		for step := range 150 {
			for range 1 + w.IntN(3) {
				w.change(x)
			}
			if w.IntN(20) == 0 {
				client = pick(w, nil, clientCert)
				x.SetClientCertificate(edge, client)
			}
			told := x.TakeChanges()

			fresh := NewIndex(Options{})
			for _, o := range w.live {
				set(fresh, o)
			}
			fresh.SetClientCertificate(edge, client)
			for i, q := range qs {
				after, scratch := ask(x, q), ask(fresh, q)
				name, _ := ServiceOf(q.from.Namespace, q.ref)
				if after.target != scratch.target || after.problem != scratch.problem || !sameConfig(after.config, scratch.config) {
					t.Fatalf("seed %d, step %d: %+v to %v:\nincremental  %+v\nfrom scratch %+v", seed, step, q.from, name, after, scratch)
				}
				resolved := after.target == before[i].target && after.problem == before[i].problem
				granted := name.Namespace != q.from.Namespace && slices.Contains(told.Grants, name.Namespace)
				byGateway := q.from.Gateway == edge // SetClientCertificate says so itself
				if !resolved && !granted && !byGateway && !slices.Contains(told.Services, name) {
					t.Fatalf("seed %d, step %d: %+v to %v was %+v and is %+v, and the changes do not tell: %+v", seed, step, q.from, name, before[i], after, told)
				}
				if after.config != before[i].config && resolved && !slices.Contains(told.Clusters, name) {
					t.Fatalf("seed %d, step %d: the cluster of %v is new, and the changes do not tell: %+v", seed, step, name, told)
				}
				if after.config != before[i].config && after.config != nil && before[i].config != nil && after.config.Key == before[i].config.Key &&
					equalConfigs(after.config, before[i].config) && !recreated(told, name) {
					t.Fatalf("seed %d, step %d: an equal configuration of %v is another pointer", seed, step, name)
				}
				before[i] = after
			}
			now := x.PolicyStatuses(leadsTo)
			if scratch := fresh.PolicyStatuses(leadsTo); !reflect.DeepEqual(now, scratch) {
				t.Fatalf("seed %d, step %d: statuses\nincremental  %+v\nfrom scratch %+v", seed, step, now, scratch)
			}
			if !reflect.DeepEqual(now, statuses) && !told.Policies {
				t.Fatalf("seed %d, step %d: statuses changed, and the changes do not tell:\n%+v\n%+v", seed, step, statuses, now)
			}
			statuses = now
		}
		for _, o := range w.live {
			remove(x, o)
		}
		x.SetClientCertificate(edge, nil)
		if len(x.services) != 0 || len(x.slices) != 0 || len(x.policies) != 0 || len(x.grants) != 0 || len(x.clients) != 0 {
			t.Fatalf("seed %d: something is left of objects that are gone: %+v", seed, x)
		}
	}
}

// recreated: a Service or a port that was gone in between has a new cluster.
func recreated(c Changes, s types.NamespacedName) bool { return slices.Contains(c.Services, s) }

func (w *world) change(x *Index) {
	o := pick(w, w.service, w.slice, w.slice, w.policy, w.authority, w.grant)()
	key := fmt.Sprintf("%T %s", o, nameOf(o))
	if old := w.live[key]; old != nil && w.IntN(3) == 0 {
		delete(w.live, key)
		remove(x, old)
		return
	}
	w.live[key] = o
	set(x, o)
}

func TestUnchangedObjectsChangeNothing(t *testing.T) {
	x := NewIndex(Options{})
	const docs = services + `
---
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
`
	load(t, x, docs)
	got, _ := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", 80))
	before := x.Cluster(got.Cluster)
	x.TakeChanges()
	load(t, x, docs)
	if c := x.TakeChanges(); !reflect.DeepEqual(c, Changes{}) {
		t.Errorf("the same objects again are told as %+v", c)
	}
	// What a kubelet and its endpoint controller write all day.
	touched := x.services[in("web")].slices[in("web-1")].DeepCopy()
	touched.ResourceVersion, touched.Annotations = "2", map[string]string{"endpoints.kubernetes.io/last-change-trigger-time": "now"}
	x.SetEndpointSlice(touched)
	if c := x.TakeChanges(); !reflect.DeepEqual(c, Changes{}) {
		t.Errorf("an annotation is told as %+v", c)
	}
	touched = touched.DeepCopy()
	touched.Endpoints[0].TargetRef = &corev1.ObjectReference{Name: "pod"}
	x.SetEndpointSlice(touched)
	if x.Cluster(got.Cluster) != before {
		t.Error("a slice whose addresses stay must leave the cluster the same pointer")
	}
}

func large(services, endpoints int) (*Index, []string, func(service, version int) *discoveryv1.EndpointSlice) {
	x := NewIndex(Options{})
	slice := func(s, version int) *discoveryv1.EndpointSlice {
		o := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d-1", s), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("s%d", s)}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr[int32](8080)}},
		}
		for e := range endpoints {
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", s/256, s%256, (e+version)%256)}})
		}
		return o
	}
	var keys []string
	for s := range services {
		x.SetService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("s%d", s)}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
		x.SetEndpointSlice(slice(s, 0))
		t, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", fmt.Sprintf("s%d", s), 80))
		if p != nil {
			panic(p.Message)
		}
		keys = append(keys, t.Cluster)
		x.Cluster(t.Cluster)
	}
	x.TakeChanges()
	return x, keys, slice
}

// One slice that changes is the work of its Service: that of 1,000 others is not
// looked at.
func TestSliceConcernsItsServiceAlone(t *testing.T) {
	x, keys, slice := large(1000, 10)
	before := make([]*upstream.Config, len(keys))
	for i, k := range keys {
		before[i] = x.Cluster(k)
	}
	x.SetEndpointSlice(slice(7, 1))
	if c := x.TakeChanges(); !reflect.DeepEqual(c, Changes{Clusters: []types.NamespacedName{in("s7")}}) {
		t.Errorf("changes %+v", c)
	}
	for i, k := range keys {
		if stale := x.services[in(fmt.Sprintf("s%d", i))].clusters[k].stale; stale != (i == 7) {
			t.Errorf("cluster %s: stale is %v", k, stale)
		}
		if c := x.Cluster(k); (c != before[i]) != (i == 7) {
			t.Errorf("cluster %s: another pointer: %v", k, c != before[i])
		}
	}
}

func BenchmarkEndpointSlice(b *testing.B) {
	for _, services := range []int{10, 1000} {
		b.Run(fmt.Sprintf("services=%d/endpoints=%d", services, services*10), func(b *testing.B) {
			x, keys, slice := large(services, 10)
			states := [2]*discoveryv1.EndpointSlice{slice(7, 0), slice(7, 1)}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.SetEndpointSlice(states[(i+1)%2])
				for range x.TakeChanges().Clusters {
					x.Cluster(keys[7])
				}
			}
		})
	}
}
