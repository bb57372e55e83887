package kube

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway"
)

// pod is a Source that runs, and what it applied.
type pod struct {
	*Source
	t    *testing.T
	stop func()

	mu     sync.Mutex // guards all below
	config *ingress.Config
	failed map[ingress.Bind]error // what apply answers
}

// world is a namespace of the pods and a controller of its own: tests share the
// API server.
type world struct {
	*apiServer
	t          *testing.T
	system     string // namespace of the pods
	apps       string // namespace of Gateways
	controller string
	class      string
}

var worlds struct {
	sync.Mutex
	n int
}

func newWorld(t *testing.T) *world {
	s := server(t)
	worlds.Lock()
	worlds.n++
	n := worlds.n
	worlds.Unlock()
	w := &world{
		apiServer: s, t: t, system: fmt.Sprintf("system-%d", n), apps: fmt.Sprintf("apps-%d", n),
		controller: fmt.Sprintf("example.com/controller-%d", n), class: fmt.Sprintf("class-%d", n),
	}
	for _, name := range []string{w.system, w.apps} {
		s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+name+"}")
	}
	return w
}

// install makes the definitions of Gateway API, once.
func (w *world) install() {
	w.t.Helper()
	if _, err := w.client.Resource(ours("httproutes")).List(w.t.Context(), metav1.ListOptions{Limit: 1}); err != nil {
		for _, text := range crds(w.t) {
			w.apply(w.t, text)
		}
		for _, c := range custom {
			if c.resource.Group == gatewayv1.GroupName {
				eventually(w.t, c.kind+" is served", func() bool {
					_, err := w.client.Resource(c.resource).List(w.t.Context(), metav1.ListOptions{Limit: 1})
					return err == nil
				})
			}
		}
	}
	w.apply(w.t, fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: %s}\nspec: {controllerName: %s}", w.class, w.controller))
}

func (w *world) pod(name string, change ...func(*Config)) *pod {
	w.t.Helper()
	return w.podAt(w.admin, name, change...)
}

func (w *world) podAt(cfg *rest.Config, name string, change ...func(*Config)) *pod {
	w.t.Helper()
	p := &pod{t: w.t}
	config := Config{
		REST: cfg, Namespace: w.system, PodName: name,
		Gateway: gateway.Options{ControllerNames: []string{w.controller}},
		Logger:  slog.New(slog.NewTextHandler(testLog{w.t, name}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, f := range change {
		f(&config)
	}
	source, err := New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Source = source
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := source.Run(ctx, p.apply); err != nil {
			w.t.Error(err)
		}
		source.api.http.CloseIdleConnections()
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.t.Cleanup(p.stop)
	return p
}

type testLog struct {
	t    *testing.T
	name string
}

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s: %s", l.name, strings.TrimSpace(string(b)))
	return len(b), nil
}

func (p *pod) apply(c *ingress.Config) ingress.Applied {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = c
	return ingress.Applied{Failed: p.failed}
}

// ports are what is served, as "gateway public->bind".
func (p *pod) ports() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.config == nil {
		return nil
	}
	for _, port := range p.config.Ports {
		out = append(out, fmt.Sprintf("%s %d->%d", port.Gateway, port.Public, port.Bind.Port))
	}
	slices.Sort(out)
	return out
}

func (w *world) get(kind, name string, into object) {
	w.t.Helper()
	resource, _, _ := resourceOf(kind)
	u, err := w.client.Resource(resource).Namespace(w.apps).Get(w.t.Context(), name, metav1.GetOptions{})
	if err == nil {
		_, err = convert(u, into)
	}
	if err != nil {
		w.t.Fatalf("%s %s: %v", kind, name, err)
	}
}

func (w *world) services(namespace string) (out []corev1.Service) {
	w.t.Helper()
	list, err := w.client.Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, u := range list.Items {
		var s corev1.Service
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &s); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// assign gives a Service addresses, as a load balancer does.
func (w *world) assign(service string, addresses ...string) {
	w.t.Helper()
	var in []any
	for _, a := range addresses {
		in = append(in, map[string]any{"ip": a})
	}
	c := w.client.Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(w.system)
	eventually(w.t, "the Service takes an address", func() bool {
		u, err := c.Get(w.t.Context(), service, metav1.GetOptions{})
		if err != nil {
			return false
		}
		if err := unstructured.SetNestedSlice(u.Object, in, "status", "loadBalancer", "ingress"); err != nil {
			w.t.Fatal(err)
		}
		_, err = c.UpdateStatus(w.t.Context(), u, metav1.UpdateOptions{})
		return err == nil
	})
}

func condition(list []metav1.Condition, kind string) string {
	if c := meta.FindStatusCondition(list, kind); c != nil {
		return fmt.Sprintf("%s %s gen%d", c.Status, c.Reason, c.ObservedGeneration)
	}
	return "none"
}

func (w *world) gateway(name, listeners string) {
	w.t.Helper()
	w.apply(w.t, fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s, namespace: %s}\nspec:\n  gatewayClassName: %s\n  listeners:\n%s", name, w.apps, w.class, listeners))
}

func (w *world) route(name, gateway string) {
	w.t.Helper()
	w.apply(w.t, fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: %s, namespace: %s}\nspec:\n  parentRefs: [{name: %s}]\n  rules: [{backendRefs: [{name: backend, port: 80}]}]", name, w.apps, gateway))
}

const httpListener = "  - {name: http, port: 80, protocol: HTTP}\n"

// From a Gateway to an address, and what every step of it says.
func TestGatewayGetsAnAddress(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.gateway("eg", httpListener+"  - {name: alt, port: 8080, protocol: HTTP}\n")
	w.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: backend, namespace: "+w.apps+"}\nspec: {ports: [{port: 80}]}")
	w.route("r", "eg")
	p := w.pod("a")
	name := serviceName(gw(w.apps, "eg"), roleBalancer)
	eventually(t, "both ports are served on target ports", func() bool {
		return slices.Equal(p.ports(), []string{w.apps + "/eg 80->10080", w.apps + "/eg 8080->18080"})
	})
	var g gatewayv1.Gateway
	eventually(t, "the Gateway is accepted and waits for an address", func() bool {
		w.get("Gateway", "eg", &g)
		return condition(g.Status.Conditions, "Accepted") == "True Accepted gen1" &&
			condition(g.Status.Conditions, "Programmed") == "False AddressNotAssigned gen1"
	})
	w.assign(name, "192.0.2.7", "2001:db8::7")
	eventually(t, "the Gateway has the address, and is programmed", func() bool {
		w.get("Gateway", "eg", &g)
		return condition(g.Status.Conditions, "Programmed") == "True Programmed gen1" && len(g.Status.Addresses) == 2
	})
	if a := g.Status.Addresses[0]; a.Value != "192.0.2.7" || *a.Type != gatewayv1.IPAddressType {
		t.Errorf("the address is %+v", a)
	}
	var r gatewayv1.HTTPRoute
	eventually(t, "the route is accepted", func() bool {
		w.get("HTTPRoute", "r", &r)
		return len(r.Status.Parents) == 1 && condition(r.Status.Parents[0].Conditions, "Accepted") == "True Accepted gen1"
	})
	var class gatewayv1.GatewayClass
	eventually(t, "the class is accepted", func() bool {
		u, err := w.client.Resource(ours("gatewayclasses")).Get(t.Context(), w.class, metav1.GetOptions{})
		if err != nil {
			return false
		}
		_, err = convert(u, &class)
		return err == nil && strings.HasPrefix(condition(class.Status.Conditions, "Accepted"), "True") &&
			strings.HasPrefix(condition(class.Status.Conditions, "SupportedVersion"), "True")
	})
	for _, s := range w.services(w.system) {
		if s.Name != name || s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal ||
			*s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyPreferDualStack {
			t.Errorf("Service %s is %+v", s.Name, s.Spec)
		}
	}
	if !slices.ContainsFunc(w.services(w.apps), func(s corev1.Service) bool {
		return s.Name == "eg-adit" && s.Spec.ExternalName == name+"."+w.system+".svc.cluster.local" && s.Labels[labelGateway] == "eg" &&
			len(s.OwnerReferences) == 1 && s.OwnerReferences[0].UID == g.UID
	}) {
		t.Errorf("the Gateway has no name in its namespace: %v", w.services(w.apps))
	}
	// Nothing is written once everything is said.
	before := g.ResourceVersion
	w.gateway("other", httpListener)
	eventually(t, "another Gateway's status is written", func() bool {
		var other gatewayv1.Gateway
		w.get("Gateway", "other", &other)
		return strings.HasPrefix(condition(other.Status.Conditions, "Programmed"), "False AddressNotAssigned")
	})
	if w.get("Gateway", "eg", &g); g.ResourceVersion != before {
		t.Error("a status was written that had not changed")
	}
	// Asked for, it is as written.
	if !slices.ContainsFunc(p.Statuses(t.Context()), func(o runtime.Object) bool {
		got, ok := o.(*gatewayv1.Gateway)
		return ok && got.Name == "eg" && condition(got.Status.Conditions, "Programmed") == "True Programmed gen1"
	}) {
		t.Error("the Gateway's status cannot be asked for")
	}
	// A socket that could not be had is no port that is programmed.
	p.mu.Lock()
	p.failed = map[ingress.Bind]error{{Port: 10080}: fmt.Errorf("address already in use")}
	p.mu.Unlock()
	w.route("r2", "eg")
	eventually(t, "the listener whose socket failed is not programmed", func() bool {
		w.get("Gateway", "eg", &g)
		return slices.ContainsFunc(g.Status.Listeners, func(l gatewayv1.ListenerStatus) bool {
			return l.Name == "http" && strings.HasPrefix(condition(l.Conditions, "Programmed"), "False")
		})
	})
	p.mu.Lock()
	p.failed = nil
	p.mu.Unlock()
	p.Recheck(func() ingress.Applied { return ingress.Applied{} })
	eventually(t, "it is once the socket could be had", func() bool {
		w.get("Gateway", "eg", &g)
		return !slices.ContainsFunc(g.Status.Listeners, func(l gatewayv1.ListenerStatus) bool {
			return !strings.HasPrefix(condition(l.Conditions, "Programmed"), "True")
		})
	})
	p.stop()
	if got := p.Statuses(t.Context()); got != nil {
		t.Errorf("after the end there are statuses: %v", got)
	}
}

// All pods have the same keys, whoever makes them.
func TestKeysAreShared(t *testing.T) {
	w := newWorld(t)
	pods := []*pod{w.pod("a"), w.pod("b"), w.pod("c")}
	got := make([]string, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			keys, err := p.Keys(t.Context())
			if err != nil || len(keys) != keysSize {
				t.Errorf("%d bytes: %v", len(keys), err)
			}
			got[i] = string(keys)
		})
	}
	wg.Wait()
	if got[0] != got[1] || got[1] != got[2] {
		t.Error("they have different keys")
	}
	secrets := w.client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(w.system)
	if _, err := secrets.Patch(t.Context(), keysSecret, types.MergePatchType, []byte(`{"data":{"key":"eA=="}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods[0].Keys(t.Context()); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("keys that are too short: %v", err)
	}
}

// What others write in a status stays, and what we wrote goes when it is not
// ours to say any more.
func TestOthersStatusIsKept(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.gateway("eg", httpListener)
	w.route("r", "eg")
	c := w.client.Resource(ours("httproutes")).Namespace(w.apps)
	u, err := c.Get(t.Context(), "r", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	foreign := map[string]any{
		"controllerName": "example.org/other", "parentRef": map[string]any{"name": "theirs"},
		"conditions": []any{map[string]any{"type": "Accepted", "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": "2020-01-01T00:00:00Z"}},
	}
	if err := unstructured.SetNestedSlice(u.Object, []any{foreign}, "status", "parents"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdateStatus(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.pod("a")
	var r gatewayv1.HTTPRoute
	owners := func() (out []string) {
		w.get("HTTPRoute", "r", &r)
		for _, p := range r.Status.Parents {
			out = append(out, string(p.ControllerName))
		}
		return out
	}
	eventually(t, "both are there", func() bool {
		return slices.Equal(owners(), []string{"example.org/other", w.controller})
	})
	if got := r.Status.Parents[0].Conditions[0]; got.Reason != "Fine" || got.LastTransitionTime.UTC().Year() != 2020 {
		t.Errorf("the other's condition became %+v", got)
	}
	since := r.Status.Parents[1].Conditions[0].LastTransitionTime
	// A change that changes no condition's status keeps its time.
	time.Sleep(1100 * time.Millisecond)
	w.merge("HTTPRoute", "r", `{"spec":{"hostnames":["a.example"]}}`)
	eventually(t, "the new generation is observed", func() bool {
		owners()
		return r.Status.Parents[1].Conditions[0].ObservedGeneration == r.Generation && r.Generation == 2
	})
	if got := r.Status.Parents[1].Conditions[0].LastTransitionTime; !got.Equal(&since) {
		t.Errorf("the condition is said to have changed at %v, not %v", got, since)
	}
	w.merge("HTTPRoute", "r", `{"spec":{"parentRefs":[{"name":"theirs"}]}}`)
	eventually(t, "ours is gone, theirs is not", func() bool {
		return slices.Equal(owners(), []string{"example.org/other"})
	})
}

func (w *world) merge(kind, name, patch string) {
	w.t.Helper()
	resource, _, _ := resourceOf(kind)
	if _, err := w.client.Resource(resource).Namespace(w.apps).Patch(w.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// One pod writes; when it goes, another does, at once; and all serve.
func TestLeaderHandsOver(t *testing.T) {
	w := newWorld(t)
	w.install()
	a := w.pod("a")
	eventually(t, "a leads", a.Leading)
	b := w.pod("b")
	w.gateway("eg", httpListener)
	want := []string{w.apps + "/eg 80->10080"}
	eventually(t, "both serve the Gateway on the target port that one of them gave it", func() bool {
		return slices.Equal(a.ports(), want) && slices.Equal(b.ports(), want)
	})
	if b.Leading() {
		t.Error("two pods lead")
	}
	began := time.Now()
	a.stop()
	if a.Leading() {
		t.Error("a pod that has stopped leads")
	}
	eventually(t, "b leads", b.Leading)
	if took := time.Since(began); took > leaseDuration/2 {
		t.Errorf("it took %v although the Lease was let go", took)
	}
	w.gateway("eg2", httpListener)
	var g gatewayv1.Gateway
	eventually(t, "b writes", func() bool {
		w.get("Gateway", "eg2", &g)
		return strings.HasPrefix(condition(g.Status.Conditions, "Accepted"), "True") && slices.Contains(b.ports(), w.apps+"/eg2 80->10000")
	})
}

// A leader that cannot reach the API server stops writing before another may
// begin, and everything stays served.
func TestLeaderIsCutOff(t *testing.T) {
	w := newWorld(t)
	w.install()
	r := newRelay(t, w.address)
	a := w.podAt(w.config("admin-token", r.Addr().String()), "a")
	eventually(t, "a leads", a.Leading)
	w.gateway("eg", httpListener)
	want := []string{w.apps + "/eg 80->10080"}
	eventually(t, "a serves", func() bool { return slices.Equal(a.ports(), want) })
	b := w.pod("b")
	r.set(true)
	eventually(t, "a knows that it leads no more, or b does not lead yet", func() bool {
		if a.Leading() && b.Leading() {
			t.Fatal("two pods lead")
		}
		return b.Leading()
	})
	if !slices.Equal(a.ports(), want) {
		t.Errorf("without the API server it serves %v", a.ports())
	}
	w.gateway("eg2", httpListener)
	eventually(t, "b writes", func() bool { return len(b.ports()) == 2 })
	r.set(false)
	eventually(t, "a catches up", func() bool { return slices.Equal(a.ports(), b.ports()) })
}

func TestServicesFollowGateways(t *testing.T) {
	w := newWorld(t)
	w.install()
	taken := serviceName(gw(w.apps, "taken"), roleBalancer)
	w.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {ports: [{port: 1}]}", taken, w.system))
	p := w.pod("a")
	w.gateway("eg", httpListener)
	name := serviceName(gw(w.apps, "eg"), roleBalancer)
	find := func(name string) *corev1.Service {
		for _, s := range w.services(w.system) {
			if s.Name == name {
				return &s
			}
		}
		return nil
	}
	eventually(t, "there is a Service", func() bool { return find(name) != nil })

	// Labels come and go with the Gateway's; what a cloud adds stays.
	w.merge("Gateway", "eg", `{"spec":{"infrastructure":{"labels":{"team":"edge"},"annotations":{"cloud.example/lb":"internal"}}}}`)
	eventually(t, "infrastructure is propagated", func() bool {
		s := find(name)
		return s.Labels["team"] == "edge" && s.Annotations["cloud.example/lb"] == "internal"
	})
	services := w.client.Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(w.system)
	if _, err := services.Patch(t.Context(), name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"cloud.example/id":"7"}},"spec":{"selector":{"app":"evil"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what somebody changed by hand is put back", func() bool {
		return find(name).Spec.Selector["app"] == "" && find(name).Spec.Selector["app.kubernetes.io/name"] == "adit-ingress"
	})
	w.merge("Gateway", "eg", `{"spec":{"infrastructure":{"labels":null,"annotations":null}}}`)
	eventually(t, "what was propagated is taken back", func() bool {
		s := find(name)
		return s.Labels["team"] == "" && s.Annotations["cloud.example/lb"] == "" && s.Annotations["cloud.example/id"] == "7"
	})

	// A listener more; UDP on the same port number.
	w.merge("Gateway", "eg", `{"spec":{"listeners":[{"name":"http","port":80,"protocol":"HTTP"},{"name":"dns","port":53,"protocol":"UDP"},{"name":"dnst","port":53,"protocol":"TCP"}]}}`)
	eventually(t, "ports follow listeners", func() bool {
		return slices.Equal(portsOf(find(name)), []string{"tcp-53 TCP 53 10053", "tcp-80 TCP 80 10080", "udp-53 UDP 53 10053"})
	})

	// An address of one's own.
	w.merge("Gateway", "eg", `{"spec":{"addresses":[{"value":"192.0.2.9"}]}}`)
	eventually(t, "the balancer is asked for the address", func() bool {
		s := find(name)
		return s.Spec.LoadBalancerIP == "192.0.2.9" && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	})
	var g gatewayv1.Gateway
	eventually(t, "an address that the balancer does not have is not usable", func() bool {
		w.get("Gateway", "eg", &g)
		return condition(g.Status.Conditions, "Programmed") == fmt.Sprintf("False AddressNotUsable gen%d", g.Generation)
	})
	w.assign(name, "192.0.2.9")
	eventually(t, "it is once the balancer has it", func() bool {
		w.get("Gateway", "eg", &g)
		return condition(g.Status.Conditions, "Programmed") == fmt.Sprintf("True Programmed gen%d", g.Generation) && len(g.Status.Addresses) == 1
	})
	w.merge("Gateway", "eg", `{"spec":{"addresses":[{"value":"2001:db8::9"}]}}`)
	eventually(t, "a Service of another family is made", func() bool {
		s := find(name)
		return s != nil && s.Spec.LoadBalancerIP == "2001:db8::9" && s.Spec.IPFamilies[0] == corev1.IPv6Protocol
	})

	// Somebody else's Service is left alone.
	w.gateway("taken", httpListener)
	eventually(t, "it is said whose the Service is", func() bool {
		w.get("Gateway", "taken", &g)
		return strings.Contains(condition(g.Status.Conditions, "Programmed"), "NoResources")
	})
	if s := find(taken); s.Spec.Type != corev1.ServiceTypeClusterIP || len(s.Labels) > 0 {
		t.Errorf("somebody else's Service became %+v", s)
	}
	w.deleteService(taken)
	eventually(t, "it is made once the name is free", func() bool { s := find(taken); return s != nil && s.Labels[labelManaged] == managedBy })

	// The class is deleted by mistake, and made again: clients know the address.
	uid := find(name).UID
	w.gateway("gone", httpListener)
	gone := serviceName(gw(w.apps, "gone"), roleBalancer)
	eventually(t, "there is a Service more", func() bool { return find(gone) != nil })
	w.delete(t, "gateway.networking.k8s.io/v1", "GatewayClass", "", w.class)
	eventually(t, "nothing is served for a Gateway without a class", func() bool { return len(p.ports()) == 0 })
	w.delete(t, "gateway.networking.k8s.io/v1", "Gateway", w.apps, "gone")
	eventually(t, "Services are looked through", func() bool { return find(gone) == nil })
	w.install()
	eventually(t, "it is served again", func() bool { return len(p.ports()) > 0 })
	if s := find(name); s == nil || s.UID != uid {
		t.Error("the Service was lost with the class")
	}

	w.delete(t, "gateway.networking.k8s.io/v1", "Gateway", w.apps, "eg")
	eventually(t, "Services go with their Gateway", func() bool {
		return find(name) == nil && !slices.ContainsFunc(w.services(w.apps), func(s corev1.Service) bool { return s.Name == "eg-adit" })
	})
	// One that went while nobody was there to see it.
	p.stop()
	w.delete(t, "gateway.networking.k8s.io/v1", "Gateway", w.apps, "taken")
	w.pod("b")
	eventually(t, "what a leader missed is cleaned up by the next", func() bool { return find(taken) == nil })
}

func (w *world) deleteService(name string) {
	w.t.Helper()
	err := w.client.Resource(corev1.SchemeGroupVersion.WithResource("services")).Namespace(w.system).Delete(w.t.Context(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		w.t.Fatal(err)
	}
}

// A Secret is seen whatever its type, if something refers to it.
func TestSecretsAndConfigMaps(t *testing.T) {
	w := newWorld(t)
	w.install()
	p := w.pod("a")
	w.gateway("eg", "  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}\n")
	var g gatewayv1.Gateway
	refs := func() string {
		w.get("Gateway", "eg", &g)
		if len(g.Status.Listeners) == 0 {
			return ""
		}
		c := meta.FindStatusCondition(g.Status.Listeners[0].Conditions, "ResolvedRefs")
		return string(c.Status) + " " + c.Message
	}
	eventually(t, "the Secret is missing", func() bool { return strings.HasPrefix(refs(), "False") })
	missing := refs()
	w.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: "+w.apps+"}\ntype: Opaque\nstringData: {a: b}")
	eventually(t, "a Secret that is no certificate is not the same as none", func() bool {
		now := refs()
		return strings.HasPrefix(now, "False") && now != missing
	})
	w.delete(t, "v1", "Secret", w.apps, "cert")
	eventually(t, "it is missing again", func() bool { return refs() == missing })
	cert, key := keyPair(t, "a.example")
	w.apply(t, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: %s}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n%s  tls.key: |\n%s", w.apps, indent(cert), indent(key)))
	eventually(t, "the certificate is there", func() bool { return strings.HasPrefix(refs(), "True") })
	eventually(t, "it is served", func() bool { return len(p.ports()) == 1 })
}

// Without definitions there is nothing to serve; with them there is, at once.
// It runs on an API server of its own.
func TestWaitsForDefinitions(t *testing.T) {
	server(t) // or skip
	s, err := startAPIServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	w := &world{apiServer: s, t: t, system: "system", apps: "apps", controller: "example.com/c", class: "c"}
	for _, name := range []string{w.system, w.apps} {
		s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+name+"}")
	}
	p := w.pod("a")
	select {
	case <-p.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for kinds that the API server does not have")
	}
	for _, k := range p.Kinds() {
		if custom := strings.Contains(k.Name, ".gateway."); k.Present == custom {
			t.Errorf("%s: present %v, error %q", k.Name, k.Present, k.Error)
		}
	}
	w.install()
	w.gateway("eg", httpListener)
	eventually(t, "the Gateway is served", func() bool { return len(p.ports()) == 1 })
	if s := p.kind("clienttrafficpolicies.gateway.envoyproxy.io"); s.Present || s.Error == "" {
		t.Errorf("a kind that is not there: %+v", s)
	}
}

func (p *pod) kind(name string) KindStatus {
	all := p.Kinds()
	return all[slices.IndexFunc(all, func(k KindStatus) bool { return k.Name == name })]
}
