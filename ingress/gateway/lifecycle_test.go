package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

func statusOf(t *testing.T, list []Status, kind, name string) Status {
	t.Helper()
	for _, s := range list {
		if s.Kind == kind && s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no status of %s %s", kind, name)
	return Status{}
}

func listenerCondition(t *testing.T, s Status, listener, kind string) metav1.Condition {
	t.Helper()
	for _, l := range s.Gateway.Listeners {
		if string(l.Name) == listener {
			return conditionOf(t, l.Conditions, kind)
		}
	}
	t.Fatalf("there is no listener %s", listener)
	return metav1.Condition{}
}

func conditionOf(t *testing.T, list []metav1.Condition, kind string) metav1.Condition {
	t.Helper()
	i := indexCondition(list, kind)
	if i < 0 {
		t.Fatalf("there is no condition %s", kind)
	}
	return list[i]
}

func statuses(tr *Translator) []Status {
	cfg, _ := tr.Build()
	return tr.Statuses(failing(cfg), placedAll(tr))
}

// TestLastGoodCertificate lets a Secret come to hold nonsense, be mended, and be
// deleted.
func TestLastGoodCertificate(t *testing.T) {
	tr, all := shop(t, 0)
	cfg, _ := tr.Build()
	good := listenerOf(t, cfg, "a").TLS.Certificates[0]

	nonsense := all["Secret/infra/a"].DeepCopyObject().(*corev1.Secret)
	nonsense.Data["tls.crt"] = []byte("nonsense")
	tr.Set(nonsense)
	cfg, _ = tr.Build()
	if got := listenerOf(t, cfg, "a").TLS.Certificates; len(got) != 1 || got[0] != good {
		t.Errorf("a Secret that came to hold nonsense leaves %d certificates, and not the one it held before", len(got))
	}
	s := statusOf(t, statuses(tr), "Gateway", "gw")
	if c := listenerCondition(t, s, "a", "ResolvedRefs"); c.Status != metav1.ConditionFalse || c.Reason != "InvalidCertificateRef" || !strings.Contains(c.Message, "still served") {
		t.Errorf("a certificate that is served from memory is told as %+v", c)
	}
	if c := listenerCondition(t, s, "a", "Programmed"); c.Status != metav1.ConditionTrue {
		t.Errorf("a listener that serves the certificate it had is told as %+v", c)
	}
	if c := listenerCondition(t, s, "b", "ResolvedRefs"); c.Status != metav1.ConditionTrue {
		t.Errorf("the other listener is told as %+v", c)
	}

	// What was kept goes with the last reference to it.
	g := all["Gateway/infra/gw"].DeepCopyObject().(*gatewayv1.Gateway)
	g.Spec.Listeners = g.Spec.Listeners[:1]
	tr.Set(g)
	tr.Build()
	tr.Set(all["Gateway/infra/gw"])
	cfg, _ = tr.Build()
	if got := listenerOf(t, cfg, "a").TLS.Certificates; len(got) != 0 {
		t.Error("a certificate is served from memory that nobody referred to for a while")
	}

	tr.Set(all["Secret/infra/a"])
	tr.Build()
	tr.Delete("Secret", "infra", "a")
	cfg, _ = tr.Build()
	if got := listenerOf(t, cfg, "a").TLS.Certificates; len(got) != 0 {
		t.Error("the certificate of a Secret that was deleted is still served")
	}
	if c := listenerCondition(t, statusOf(t, statuses(tr), "Gateway", "gw"), "a", "Programmed"); c.Status != metav1.ConditionFalse {
		t.Errorf("a listener without a certificate is told as %+v", c)
	}
}

// TestGrantRevoked takes back what let a Gateway use a Secret.
func TestGrantRevoked(t *testing.T) {
	tr := newTestTranslator()
	for _, o := range manifest(t, "testdata/certificates.yaml") {
		tr.Set(o)
	}
	cfg, _ := tr.Build()
	if n := len(listenerOf(t, cfg, "granted").TLS.Certificates); n != 1 {
		t.Fatalf("with a ReferenceGrant there are %d certificates, want 1", n)
	}
	tr.Delete("ReferenceGrant", "vault", "open")
	cfg, _ = tr.Build()
	if n := len(listenerOf(t, cfg, "granted").TLS.Certificates); n != 0 {
		t.Errorf("after the ReferenceGrant was deleted there are %d certificates, want none", n)
	}
}

// TestDates lets a certificate expire without anything else happening.
func TestDates(t *testing.T) {
	at := now
	tr, _ := shop(t, 0)
	tr.options.Now = func() time.Time { return at }
	reason := func() string {
		return listenerCondition(t, statusOf(t, statuses(tr), "Gateway", "gw"), "a", "ResolvedRefs").Reason
	}
	if r := reason(); r != "ResolvedRefs" {
		t.Errorf("today the certificate is told as %s", r)
	}
	at = now.Add(25 * time.Hour)
	if r := reason(); r != string(ReasonCertificateExpired) {
		t.Errorf("an hour after it expired the certificate is told as %s", r)
	}
	at = now.Add(-2 * time.Hour)
	tr, _ = shop(t, 0)
	tr.options.Now = func() time.Time { return at }
	if r := reason(); r != string(ReasonCertificateNotYetValid) {
		t.Errorf("an hour before it is valid the certificate is told as %s", r)
	}
}

// TestTransitionTime says that a time moves with the status of its condition, and
// with nothing else.
func TestTransitionTime(t *testing.T) {
	tr, all := shop(t, 1)
	long := metav1.NewTime(now.Add(-48 * time.Hour))
	g := all["Gateway/infra/gw"].DeepCopyObject().(*gatewayv1.Gateway)
	g.Status.Conditions = []metav1.Condition{
		{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Whatever", ObservedGeneration: 0, LastTransitionTime: long},
		{Type: "Programmed", Status: metav1.ConditionFalse, LastTransitionTime: long},
	}
	g.Status.Listeners = []gatewayv1.ListenerStatus{{Name: "a", Conditions: []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, LastTransitionTime: long}}}}
	tr.Set(g)
	route := all["HTTPRoute/infra/route-0"].DeepCopyObject().(*gatewayv1.HTTPRoute)
	route.Status.Parents = []gatewayv1.RouteParentStatus{
		{ControllerName: "example.com/other", ParentRef: route.Spec.ParentRefs[0], Conditions: []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-72 * time.Hour))}}},
		{ControllerName: DefaultControllerName, ParentRef: route.Spec.ParentRefs[0], Conditions: []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, LastTransitionTime: long}}},
	}
	tr.Set(route)
	list := statuses(tr)
	s := statusOf(t, list, "Gateway", "gw")
	r := statusOf(t, list, "HTTPRoute", "route-0")
	for name, c := range map[string]struct {
		got  metav1.Condition
		want metav1.Time
	}{
		"what was true and is":             {conditionOf(t, s.Gateway.Conditions, "Accepted"), long},
		"what was false and is true":       {conditionOf(t, s.Gateway.Conditions, "Programmed"), metav1.NewTime(now)},
		"what is new":                      {conditionOf(t, s.Gateway.Conditions, "ResolvedRefs"), metav1.NewTime(now)},
		"what was true of a listener":      {listenerCondition(t, s, "a", "Accepted"), long},
		"what was not told of a listener":  {listenerCondition(t, s, "b", "Accepted"), metav1.NewTime(now)},
		"what was true of a route, by us":  {conditionOf(t, r.Parents[0].Conditions, "Accepted"), long},
		"what was not told of a route yet": {conditionOf(t, r.Parents[0].Conditions, "ResolvedRefs"), metav1.NewTime(now)},
	} {
		if !c.got.LastTransitionTime.Equal(&c.want) {
			t.Errorf("%s: lastTransitionTime is %v, want %v", name, c.got.LastTransitionTime, c.want)
		}
	}
	for _, c := range s.Gateway.Conditions {
		if c.ObservedGeneration != g.Generation {
			t.Errorf("%s has observed generation %d, want %d", c.Type, c.ObservedGeneration, g.Generation)
		}
	}
}

// TestBind lets the socket of a port become known later.
func TestBind(t *testing.T) {
	known := uint16(0)
	tr := newTestTranslator(func(o *Options) {
		o.Bind = func(gateway types.NamespacedName, port uint16, udp bool) (ingress.Bind, bool) {
			return ingress.Bind{Port: known, UDP: udp}, known != 0
		}
	})
	for _, o := range objects(t, []byte(`
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: edge}
spec: {controllerName: adit-mesh.github.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra}
spec:
  gatewayClassName: edge
  listeners: [{name: http, port: 80, protocol: HTTP}]
`)) {
		tr.Set(o)
	}
	cfg, _ := tr.Build()
	if len(cfg.Ports) != 0 {
		t.Error("a port is served that nobody said where")
	}
	if got := tr.Ports(types.NamespacedName{Namespace: "infra", Name: "gw"}); len(got) != 1 {
		t.Errorf("Ports are %v before it is known where they are served, want one", got)
	}
	s := statusOf(t, statuses(tr), "Gateway", "gw")
	if c := listenerCondition(t, s, "http", "Programmed"); c.Status != metav1.ConditionFalse || c.Reason != "Pending" {
		t.Errorf("a listener that has no socket yet is told as %+v", c)
	}
	if c := conditionOf(t, s.Gateway.Conditions, "Programmed"); c.Status != metav1.ConditionFalse || c.Reason != "Pending" {
		t.Errorf("a Gateway that has no socket yet is told as %+v", c)
	}
	known = 10080
	cfg, changed := tr.Build()
	if !changed || len(cfg.Ports) != 1 || cfg.Ports[0].Bind.Port != 10080 || cfg.Ports[0].Public != 80 {
		t.Fatalf("after the socket became known: changed %t, %+v", changed, cfg.Ports)
	}
	if c := listenerCondition(t, statusOf(t, statuses(tr), "Gateway", "gw"), "http", "Programmed"); c.Status != metav1.ConditionTrue {
		t.Errorf("a listener that is served is told as %+v", c)
	}
}

// TestPlacement says what a Gateway is told of where it is reached, and by what
// the data plane applied.
func TestPlacement(t *testing.T) {
	name := types.NamespacedName{Namespace: "infra", Name: "gw"}
	ip := []gatewayv1.GatewayStatusAddress{{Type: new(gatewayv1.IPAddressType), Value: "192.0.2.1"}}
	for _, c := range []struct {
		about  string
		placed map[types.NamespacedName]Placement
		status metav1.ConditionStatus
		reason string
	}{
		{"nothing is known", nil, metav1.ConditionFalse, "Pending"},
		{"there is no address", map[types.NamespacedName]Placement{name: {}}, metav1.ConditionFalse, "AddressNotAssigned"},
		{"an address is not usable", map[types.NamespacedName]Placement{name: {Addresses: ip, Problem: &PlacementProblem{"AddressNotUsable", "it is not ours"}}}, metav1.ConditionFalse, "AddressNotUsable"},
		{"all is well", map[types.NamespacedName]Placement{name: {Addresses: ip}}, metav1.ConditionTrue, "Programmed"},
	} {
		tr, _ := shop(t, 0)
		cfg, _ := tr.Build()
		s := statusOf(t, tr.Statuses(failing(cfg), c.placed), "Gateway", "gw")
		if got := conditionOf(t, s.Gateway.Conditions, "Programmed"); got.Status != c.status || got.Reason != c.reason {
			t.Errorf("%s: Programmed is %+v, want %s %s", c.about, got, c.status, c.reason)
		}
		if got, want := len(s.Gateway.Addresses), len(c.placed[name].Addresses); got != want {
			t.Errorf("%s: there are %d addresses, want %d", c.about, got, want)
		}
		// The same Translator tells otherwise as soon as something else is so.
		failed := ingress.Applied{Failed: map[ingress.Bind]error{}}
		for _, p := range cfg.Ports {
			failed.Failed[p.Bind] = errors.New("in use")
		}
		s = statusOf(t, tr.Statuses(failed, map[types.NamespacedName]Placement{name: {Addresses: ip}}), "Gateway", "gw")
		if got := conditionOf(t, s.Gateway.Conditions, "Programmed"); got.Status != metav1.ConditionFalse || got.Reason != "PortUnavailable" {
			t.Errorf("after %s, without any socket: Programmed is %+v", c.about, got)
		}
	}
}

// TestStatusesAreKept says that what did not change is the same value.
func TestStatusesAreKept(t *testing.T) {
	tr, _ := shop(t, 2)
	before := statuses(tr)
	tr.Set(shopRoute(1, 2, "/other"))
	after := statuses(tr)
	if statusOf(t, before, "GatewayClass", "edge").Class != statusOf(t, after, "GatewayClass", "edge").Class {
		t.Error("the status of the class became another when a route changed")
	}
	if &statusOf(t, before, "HTTPRoute", "route-0").Parents[0] != &statusOf(t, after, "HTTPRoute", "route-0").Parents[0] {
		t.Error("the status of a route became another when another route changed")
	}
	if got := statusOf(t, after, "HTTPRoute", "route-1"); got.Generation != 2 || got.Parents[0].Conditions[0].ObservedGeneration != 2 {
		t.Errorf("the status of the route that changed is of generation %d", got.Generation)
	}
}

// TestGenerationBefore says that a status is about what was built, not about what
// was set since.
func TestGenerationBefore(t *testing.T) {
	tr, all := shop(t, 1)
	cfg, _ := tr.Build()
	tr.Set(shopRoute(0, 2, "/other"))
	g := all["Gateway/infra/gw"].DeepCopyObject().(*gatewayv1.Gateway)
	g.Generation = 2
	g.Spec.Listeners = g.Spec.Listeners[:2]
	tr.Set(g)
	list := tr.Statuses(failing(cfg), placedAll(tr))
	if got := statusOf(t, list, "HTTPRoute", "route-0").Generation; got == 2 {
		t.Error("a route's status is said to be of a generation that was not built")
	}
	if got := statusOf(t, list, "Gateway", "gw").Generation; got == 2 {
		t.Error("a Gateway's status is said to be of a generation that was not built")
	}
	tr.Build()
	if got := statusOf(t, statuses(tr), "Gateway", "gw").Generation; got != 2 {
		t.Errorf("after Build the Gateway's status is of generation %d, want 2", got)
	}
}

// TestVersions compares definitions of several releases with ours.
func TestVersions(t *testing.T) {
	for _, c := range []struct {
		found []string
		want  metav1.ConditionStatus
	}{
		{nil, metav1.ConditionTrue},
		{[]string{"v1.6.3"}, metav1.ConditionTrue},
		{[]string{"v1.6.0", "v1.6.3"}, metav1.ConditionTrue},
		{[]string{"v1.7.0"}, metav1.ConditionFalse},
		{[]string{"v1.6.3", "v1.5.1"}, metav1.ConditionFalse},
		{[]string{""}, metav1.ConditionFalse},
		{[]string{"nonsense"}, metav1.ConditionFalse},
	} {
		tr := newTestTranslator(func(o *Options) { o.CRDVersions = []string{"v1.0.0"} })
		tr.Set(&gatewayv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "edge"}, Spec: gatewayv1.GatewayClassSpec{ControllerName: DefaultControllerName}})
		statuses(tr)
		tr.SetCRDVersions(c.found)
		s := statusOf(t, statuses(tr), "GatewayClass", "edge")
		if got := conditionOf(t, s.Class.Conditions, "SupportedVersion").Status; got != c.want {
			t.Errorf("definitions of %q: SupportedVersion is %s, want %s", c.found, got, c.want)
		}
		if got := conditionOf(t, s.Class.Conditions, "Accepted").Status; got != metav1.ConditionTrue {
			t.Errorf("definitions of %q: Accepted is %s", c.found, got)
		}
	}
}

// TestFeatures says that there are no features of a mesh among those of a class,
// and that they are sorted.
func TestFeatures(t *testing.T) {
	list := supportedFeatures()
	want := 0
	for f := range features.AllFeatures {
		if !strings.HasPrefix(string(f.Name), "Mesh") {
			want++
		}
	}
	if len(list) != want {
		t.Errorf("there are %d features, want %d", len(list), want)
	}
	for i, f := range list {
		if strings.HasPrefix(string(f.Name), "Mesh") {
			t.Errorf("%s is not a gateway's", f.Name)
		}
		if i > 0 && list[i-1].Name >= f.Name {
			t.Errorf("%s comes after %s", f.Name, list[i-1].Name)
		}
	}
}

// TestPorts says what a Service for a Gateway has to have.
func TestPorts(t *testing.T) {
	tr := newTestTranslator()
	for _, o := range manifest(t, "testdata/options.yaml") {
		tr.Set(o)
	}
	tr.Build()
	got, err := json.Marshal(tr.Ports(types.NamespacedName{Namespace: "infra", Name: "gw"}))
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"Name":"tcp-443","Port":443,"UDP":false,"QUIC":false},` +
		`{"Name":"tcp-8443","Port":8443,"UDP":false,"QUIC":true},` +
		`{"Name":"tcp-8448","Port":8448,"UDP":false,"QUIC":false},` +
		`{"Name":"udp-8448","Port":8448,"UDP":true,"QUIC":false},` +
		`{"Name":"tcp-8449","Port":8449,"UDP":false,"QUIC":true},` +
		`{"Name":"tcp-8450","Port":8450,"UDP":false,"QUIC":true}]`
	if string(got) != want {
		t.Errorf("the ports are\n%s, want\n%s", got, want)
	}
	if got := tr.Ports(types.NamespacedName{Namespace: "infra", Name: "absent"}); got != nil {
		t.Errorf("the ports of a Gateway that is not there are %v", got)
	}
}

var _ runtime.Object = (*ClientTrafficPolicy)(nil)

// FuzzClientTrafficPolicy says that what can be read can be written and read
// again.
func FuzzClientTrafficPolicy(f *testing.F) {
	f.Add([]byte(`{"spec":{"http3":{},"targetRef":{"group":"g","kind":"Gateway","name":"x","namespace":"y"}}}`))
	f.Add([]byte(`{"spec":{"http3":null,"targetRefs":[{"name":"x","sectionName":"s"}],"other":[1]}}`))
	f.Add([]byte(`{"spec":{"http3":{"a":1}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := DecodeClientTrafficPolicy(raw)
		if err != nil {
			return
		}
		p.targets()
		written, err := json.Marshal(p.DeepCopyObject())
		if err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		again, err := DecodeClientTrafficPolicy(written)
		if err != nil {
			t.Fatalf("read what was written: %v", err)
		}
		if again.Spec.HTTP3 != p.Spec.HTTP3 || len(again.Spec.Targets) != len(p.Spec.Targets) {
			t.Fatalf("%+v came back as %+v", p.Spec, again.Spec)
		}
	})
}
