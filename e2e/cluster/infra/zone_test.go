package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// known is a zone with a dual-stack Service, and a headless one with many addresses.
func known(t testing.TB) *zone {
	t.Helper()
	index := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, index)
	endpoints := cache.NewIndexer(cache.MetaNamespaceKeyFunc, index)
	no, db := false, "db-0"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "db-x", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.244.1.1"}, Hostname: &db},
			{Addresses: []string{"10.244.1.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
		},
	}
	for i := range 100 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.2.%d", i)}})
	}
	for _, err := range []error{
		services.Add(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "web"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.7", ClusterIPs: []string{"10.96.0.7", "fd00:10:96::7"}},
		}),
		services.Add(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "db"},
			Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone},
		}),
		endpoints.Add(slice),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &zone{corelisters.NewServiceLister(services), discoverylisters.NewEndpointSliceLister(endpoints)}
}

func TestLookup(t *testing.T) {
	z := known(t)
	for _, test := range []struct {
		why, name string
		kind      dnsmessage.Type
		want      string // of one address; "" is none
		code      dnsmessage.RCode
	}{
		{"a Service", "web.a.svc.cluster.local.", dnsmessage.TypeA, "10.96.0.7", 0},
		{"its other family", "web.a.svc.cluster.local.", dnsmessage.TypeAAAA, "fd00:10:96::7", 0},
		{"in capitals", "WEB.a.svc.Cluster.local.", dnsmessage.TypeA, "10.96.0.7", 0},
		{"a type it has none of exists", "web.a.svc.cluster.local.", dnsmessage.TypeMX, "", 0},
		{"a family it has none of exists", "db.b.svc.cluster.local.", dnsmessage.TypeAAAA, "", 0},
		{"a host of a headless Service", "db-0.db.b.svc.cluster.local.", dnsmessage.TypeA, "10.244.1.1", 0},
		{"no such host", "db-1.db.b.svc.cluster.local.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
		{"a Service with an address has no hosts", "x.web.a.svc.cluster.local.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
		{"another namespace's", "web.b.svc.cluster.local.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
		{"an entry of a search list", "web.a.svc.a.svc.cluster.local.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
		{"outside", "example.com.", dnsmessage.TypeA, "", dnsmessage.RCodeNameError},
	} {
		got, code := z.lookup(test.name, test.kind)
		var want []netip.Addr
		if test.want != "" {
			want = []netip.Addr{netip.MustParseAddr(test.want)}
		}
		if !slices.Equal(got, want) || code != test.code {
			t.Errorf("%s: %s %s is %v, %s; want %v, %s", test.why, test.name, test.kind, got, code, want, test.code)
		}
	}
	all, _ := z.lookup("db.b.svc.cluster.local.", dnsmessage.TypeA)
	if len(all) != 101 || slices.Contains(all, netip.MustParseAddr("10.244.1.2")) {
		t.Errorf("the headless Service has %d addresses; want the 101 that are ready", len(all))
	}
}

func query(t testing.TB, name string) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnswerTooLongForADatagramIsCutAndSaysSo(t *testing.T) {
	z := known(t)
	for limit, want := range map[int]struct {
		answers int
		cut     bool
	}{maxUDP: {0, true}, 1<<16 - 1: {101, false}} {
		b, ok := z.respond(query(t, "db.b.svc.cluster.local."), limit)
		var m dnsmessage.Message
		if err := m.Unpack(b); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if len(m.Answers) != want.answers || m.Truncated != want.cut || m.ID != 7 || len(b) > limit {
			t.Errorf("limit %d: %d answers, truncated %v, id %d, %d octets; want %+v", limit, len(m.Answers), m.Truncated, m.ID, len(b), want)
		}
	}
}

func FuzzRespond(f *testing.F) {
	z := known(f)
	f.Add(query(f, "web.a.svc.cluster.local."))
	f.Add(query(f, "db.b.svc.cluster.local."))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, ok := z.respond(b, maxUDP)
		if !ok {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil || len(answer) > maxUDP || !m.Response {
			t.Errorf("answer %x to %x: %v", answer, b, err)
		}
	})
}
