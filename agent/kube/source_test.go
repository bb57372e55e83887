package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/adit-mesh/adit/agent/mesh"
)

// running is a Source that runs against the API server.
type running struct {
	*Source
	store *mesh.Store
	stop  func()
}

func run(t *testing.T, s *apiServer, edit ...func(*Config)) *running {
	t.Helper()
	cfg := Config{
		REST: s.config("admin-token", s.address), NodeName: here,
		Self:   PodRef{Namespace: "adit-system", Name: "adit-agent-1"},
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})), Registerer: prometheus.NewRegistry(),
	}
	for _, f := range edit {
		f(&cfg)
	}
	src, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Source: src, store: mesh.NewStore()}
	r.store.Node = cfg.NodeName
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx, r.store) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the source does not stop")
		}
		src.api.http.CloseIdleConnections()
	}
	t.Cleanup(r.stop)
	select {
	case <-src.Synced():
	case <-time.After(60 * time.Second):
		t.Fatalf("not synced: %+v", src.Kinds())
	}
	return r
}

func (r *running) at(ip string) *mesh.Workload { return r.store.Workload(netip.MustParseAddr(ip)) }

func (r *running) pod(namespace, name string) *mesh.Workload {
	return r.store.WorkloadByUID("Kubernetes//Pod/" + namespace + "/" + name)
}

func (r *running) kindNamed(t *testing.T, name string) KindStatus {
	t.Helper()
	all := r.Kinds()
	i := slices.IndexFunc(all, func(k KindStatus) bool { return k.Name == name })
	if i < 0 {
		t.Fatalf("no kind %s in %+v", name, all)
	}
	return all[i]
}

func podYAML(namespace, name, node, ip string) string {
	return `
apiVersion: v1
kind: Pod
metadata: {namespace: ` + namespace + `, name: ` + name + `, labels: {app: web}}
spec: {nodeName: ` + node + `, serviceAccountName: web, terminationGracePeriodSeconds: 0, containers: [{name: c, image: x, livenessProbe: {tcpSocket: {port: 8080}}}]}
status: {phase: Running, podIP: ` + ip + `, podIPs: [{ip: ` + ip + `}], conditions: [{type: Ready, status: "True"}]}
`
}

func TestFollowsACluster(t *testing.T) {
	s := server(t)
	s.apply(t, `
apiVersion: v1
kind: Namespace
metadata: {name: follow, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Node
metadata: {name: node-2, labels: {topology.kubernetes.io/zone: z2}}
---
apiVersion: v1
kind: Service
metadata: {namespace: follow, name: web}
spec: {clusterIP: 10.96.7.1, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
`+podYAML("follow", "here", here, "10.1.0.1")+"\n---\n"+podYAML("follow", "there", "node-2", "10.1.0.2")+`
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: follow, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.1.0.2], targetRef: {kind: Pod, namespace: follow, name: there}}
`)
	r := run(t, s)
	// What a server lists at first may be a little old.
	eventually(t, "the service has an endpoint", func() bool { m := r.at("10.1.0.2"); return m != nil && len(m.Services) == 1 })
	eventually(t, "both pods are seen", func() bool { return r.pod("follow", "here") != nil && len(r.Local()) > 0 })
	if m := r.at("10.1.0.2"); m == nil || m.Locality.Zone != "z2" || m.Node != "node-2" {
		t.Fatalf("the workload at 10.1.0.2 is %+v", m)
	}
	route := r.store.Outbound(nil, netip.MustParseAddrPort("10.96.7.1:80"))
	if len(route.Hops) != 1 || route.Hops[0].Dial.String() != "10.1.0.2:8080" {
		t.Errorf("the service is routed to %+v", route)
	}
	local := r.Local()
	i := slices.IndexFunc(local, func(l LocalPod) bool { return l.Namespace == "follow" })
	if i < 0 {
		t.Fatalf("local pods: %+v", local)
	}
	l := local[i]
	if l.Name != "here" || !l.Enrol || l.Identity.String() != "spiffe://cluster.local/ns/follow/sa/web" || len(l.ProbePorts) != 1 || l.IPs[0].String() != "10.1.0.1" {
		t.Errorf("local pod %+v", l)
	}

	changed, cancel := r.SubscribeLocal()
	defer cancel()
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: follow}")
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody is told that the namespace has lost its label")
	}
	if l, err := r.Lookup(t.Context(), l.PodRef); err != nil || l.Enrol {
		t.Errorf("lookup: %+v, %v", l, err)
	}
	s.delete(t, "v1", "Pod", "follow", "there")
	eventually(t, "the workload of a deleted pod is gone", func() bool { return r.at("10.1.0.2") == nil })
	for _, k := range r.Kinds() {
		if !k.Connected && k.Present {
			t.Errorf("%s is not connected: %s", k.Name, k.Error)
		}
	}
}

// Istio's kinds are followed once they are there, however late.
func TestPoliciesComeAndGo(t *testing.T) {
	s := server(t)
	for _, name := range [...]string{"authorizationpolicies", "peerauthentications"} {
		s.delete(t, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name+".security.istio.io")
	}
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: policed, labels: {istio.io/dataplane-mode: ambient}}\n---\n"+
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: adit-system}\n---\n"+podYAML("policed", "web", "node-2", "10.2.0.1"))
	r := run(t, s)
	if k := r.kindNamed(t, "authorizationpolicies.security.istio.io"); k.Present || k.Error == "" {
		t.Errorf("a kind that is not installed: %+v", k)
	}
	eventually(t, "the pod is seen", func() bool { return r.pod("policed", "web") != nil })
	if l := r.pod("policed", "web").AuthorizationPolicies; len(l) != 0 {
		t.Errorf("policies without the kind: %v", l)
	}
	s.apply(t, crds(t))
	eventually(t, "the kinds are followed", func() bool {
		return r.kindNamed(t, "authorizationpolicies.security.istio.io").Synced && r.kindNamed(t, "peerauthentications.security.istio.io").Synced
	})
	s.apply(t, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {namespace: policed, name: default}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: policed, name: get-only}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
`)
	eventually(t, "the pod lists both", func() bool { return len(r.pod("policed", "web").AuthorizationPolicies) == 2 })
	if p := r.pod("policed", "web").Protocol; p != mesh.HBONE {
		t.Errorf("STRICT and to be captured: dialled by %v", p)
	}

	var conditions []any
	policies := s.client.Resource(authorizationPolicies).Namespace("policed")
	eventually(t, "the author is told that the rule is not enforced as written", func() bool {
		u, err := policies.Get(t.Context(), "get-only", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		conditions, _, _ = unstructured.NestedSlice(u.Object, "status", "conditions")
		return len(conditions) == 1
	})
	c := conditions[0].(map[string]any)
	if c["type"] != conditionAccepted || c["status"] != "False" || c["reason"] != "UnsupportedValue" ||
		c["message"] != "rule 1: methods needs a layer 7 proxy: it allows nothing" {
		t.Errorf("condition %v", c)
	}
	lease, err := s.client.Resource(leases).Namespace("adit-system").Get(t.Context(), leaseName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if holder, _, _ := unstructured.NestedString(lease.Object, "spec", "holderIdentity"); holder != "adit-agent-1_"+here {
		t.Errorf("the lease is held by %q", holder)
	}

	for _, name := range [...]string{"authorizationpolicies", "peerauthentications"} {
		s.delete(t, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name+".security.istio.io")
	}
	eventually(t, "the policies are gone with their kinds", func() bool { return len(r.pod("policed", "web").AuthorizationPolicies) == 0 })
	eventually(t, "and that is said", func() bool { return !r.kindNamed(t, "authorizationpolicies.security.istio.io").Present })
}

// While the API server is away what is known stays; what happened meanwhile is
// caught up with.
func TestAPIServerAway(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: away}\n---\n"+podYAML("away", "old", "node-2", "10.3.0.1")+"\n---\n"+podYAML("away", "stays", "node-2", "10.3.0.2"))
	way := newRelay(t, s.address)
	r := run(t, s, func(c *Config) { c.REST = s.config("admin-token", way.Addr().String()) })
	eventually(t, "the pods are seen", func() bool { return r.at("10.3.0.1") != nil && r.at("10.3.0.2") != nil })
	stays := r.at("10.3.0.2")
	way.set(true)
	eventually(t, "it is noticed", func() bool { return !r.kindNamed(t, "pods").Connected })
	s.delete(t, "v1", "Pod", "away", "old")
	s.apply(t, podYAML("away", "new", "node-2", "10.3.0.1"))
	if m := r.at("10.3.0.1"); m == nil || m.Name != "old" {
		t.Errorf("at the address is %v while nobody can know better", m)
	}
	if _, err := r.Lookup(t.Context(), PodRef{"away", "unknown", "x"}); err == nil {
		t.Error("a pod that nobody knows is decided about")
	}
	way.set(false)
	eventually(t, "the address is the new pod's", func() bool { m := r.at("10.3.0.1"); return m != nil && m.Name == "new" })
	eventually(t, "the old workload is gone", func() bool { return r.pod("away", "old") == nil })
	if r.at("10.3.0.2") != stays {
		t.Error("a workload that did not change is another object")
	}
	eventually(t, "it is connected again", func() bool { return r.kindNamed(t, "pods").Connected })
}

func TestLookupBeforeTheWatch(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: early, labels: {istio.io/dataplane-mode: ambient}}")
	r := run(t, s)
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: early, name: web}
spec: {nodeName: `+here+`, containers: [{name: c, image: x}]}`)
	l, err := r.Lookup(t.Context(), PodRef{Namespace: "early", Name: "web"})
	if err != nil || !l.Enrol || l.UID == "" || len(l.IPs) != 0 {
		t.Fatalf("lookup: %+v, %v", l, err)
	}
	addr := netip.MustParseAddr("10.4.0.1")
	r.SetAddresses(l.PodRef, []netip.Addr{addr})
	if m := r.at("10.4.0.1"); m == nil || m.Name != "web" {
		t.Fatalf("the store has %v at the address that the CNI plugin reported", m)
	}
	r.Annotate(l.PodRef, "enabled")
	eventually(t, "it is dialled by tunnel from here", func() bool { return r.at("10.4.0.1").Protocol == mesh.HBONE })
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	pods := s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"}).Namespace("early")
	u, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || u.GetAnnotations()["ambient.istio.io/redirection"] != "enabled" {
		t.Errorf("annotations %v, %v", u.GetAnnotations(), err)
	}
	r.Annotate(l.PodRef, "")
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u, err = pods.Get(t.Context(), "web", metav1.GetOptions{}); err != nil || len(u.GetAnnotations()) != 0 {
		t.Errorf("annotations %v, %v", u.GetAnnotations(), err)
	}
	eventually(t, "it is dialled in plaintext from here", func() bool { return r.at("10.4.0.1").Protocol == mesh.TCP })

	r.Event(l.PodRef, "Warning", "CaptureWaits", "no certificate")
	r.Event(l.PodRef, "Warning", "CaptureWaits", "no certificate")
	events := s.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "events"}).Namespace("early")
	eventually(t, "the event is there, counted", func() bool {
		list, err := events.List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=web"})
		if err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		if len(list.Items) == 1 {
			n, _, _ = unstructured.NestedInt64(list.Items[0].Object, "count")
		}
		return n == 2
	})

	// Another pod by the same name: the old decision is not its.
	s.delete(t, "v1", "Pod", "early", "web")
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: early, name: web, labels: {istio.io/dataplane-mode: none}}
spec: {nodeName: `+here+`, containers: [{name: c, image: x}]}`)
	if _, err := r.Lookup(t.Context(), l.PodRef); err == nil {
		t.Error("the pod of that UID is gone, and is decided about")
	}
	l2, err := r.Lookup(t.Context(), PodRef{Namespace: "early", Name: "web"})
	if err != nil || l2.Enrol || l2.UID == l.UID {
		t.Errorf("lookup: %+v, %v", l2, err)
	}
	s.delete(t, "v1", "Pod", "early", "web")
	if _, err := r.Lookup(t.Context(), PodRef{Namespace: "early", Name: "web"}); err == nil {
		t.Error("a pod that does not exist is decided about")
	}
}

// The label came by one watch and the pod by another: a pod that is not to be
// captured by what is known is asked about again.
func TestLookupSeesAFreshLabel(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: fresh}\n---\n"+podYAML("fresh", "web", here, "10.5.0.1"))
	r := run(t, s)
	eventually(t, "the pod is seen", func() bool {
		return slices.ContainsFunc(r.Local(), func(l LocalPod) bool { return l.Namespace == "fresh" })
	})
	ref := r.Local()[slices.IndexFunc(r.Local(), func(l LocalPod) bool { return l.Namespace == "fresh" })].PodRef
	if l, err := r.Lookup(t.Context(), ref); err != nil || l.Enrol {
		t.Fatalf("lookup: %+v, %v", l, err)
	}
	// As if the watch of namespaces were behind.
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: fresh, labels: {istio.io/dataplane-mode: ambient}}")
	r.world.change(func() { r.world.setNamespace("fresh", &namespace{name: "fresh"}) })
	if l, err := r.Lookup(t.Context(), ref); err != nil || !l.Enrol {
		t.Errorf("lookup: %+v, %v", l, err)
	}
}

func TestBundleFollowsAConfigMap(t *testing.T) {
	s := server(t)
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: roots}")
	r := run(t, s)
	b := r.Bundle("roots", "ca-root", "root-cert.pem")
	changed, cancel := b.Subscribe()
	defer cancel()
	if b.Current() != nil {
		t.Error("certificates before there are any")
	}
	put := func(pem string) {
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "roots", "name": "ca-root"},
			"data": map[string]any{"root-cert.pem": pem},
		}}
		raw, err := u.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		s.apply(t, string(raw))
	}
	wait := func(n int) {
		t.Helper()
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			t.Fatal("nobody is told")
		}
		if len(b.Current()) != n {
			t.Errorf("%d certificates, want %d", len(b.Current()), n)
		}
	}
	one, two := aCertificate(t, "one"), aCertificate(t, "two")
	put(one)
	wait(1)
	put("rubbish\n")
	put(one + two)
	wait(2)
	s.delete(t, "v1", "ConfigMap", "roots", "ca-root")
	put(two)
	wait(1)
}

func TestUninstalling(t *testing.T) {
	s := server(t)
	daemonSet := `
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: agents, name: adit-agent}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}`
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: agents}\n---"+daemonSet)
	u, err := s.client.Resource(daemonSets).Namespace("agents").Get(t.Context(), "adit-agent", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.apply(t, `
apiVersion: v1
kind: Pod
metadata:
  namespace: agents
  name: adit-agent-1
  ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: adit-agent, uid: `+string(u.GetUID())+`, controller: true}]
spec: {nodeName: `+here+`, hostNetwork: true, containers: [{name: c, image: x}]}`)
	r := run(t, s, func(c *Config) { c.Self = PodRef{Namespace: "agents", Name: "adit-agent-1"} })
	if r.Uninstalling() {
		t.Fatal("uninstalling from the start")
	}
	s.delete(t, "apps/v1", "DaemonSet", "agents", "adit-agent")
	eventually(t, "the DaemonSet is gone", r.Uninstalling)
	s.apply(t, daemonSet)
	eventually(t, "it was only replaced", func() bool { return !r.Uninstalling() })
	s.delete(t, "v1", "Namespace", "", "agents")
	eventually(t, "the namespace is on its way", r.Uninstalling)
}

// Two agents see what is to be written; one writes.
func TestOneAgentWritesStatus(t *testing.T) {
	s := server(t)
	s.apply(t, crds(t))
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: elect}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: elect-system}")
	a := run(t, s, func(c *Config) { c.Self = PodRef{Namespace: "elect-system", Name: "a"} })
	b := run(t, s, func(c *Config) { c.Self = PodRef{Namespace: "elect-system", Name: "b"} })
	eventually(t, "the kind is followed", func() bool {
		return a.kindNamed(t, "authorizationpolicies.security.istio.io").Synced && b.kindNamed(t, "authorizationpolicies.security.istio.io").Synced
	})
	s.apply(t, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {namespace: elect, name: fine}
spec: {rules: [{}]}`)
	eventually(t, "the policy has a condition", func() bool { return a.status.written.Load()+b.status.written.Load() > 0 })
	eventually(t, "nobody has more to say", func() bool { return len(a.stale(nil)) == 0 && len(b.stale(nil)) == 0 })
	if n := a.status.written.Load() + b.status.written.Load(); n != 1 {
		t.Errorf("%d writes of one condition", n)
	}
	u, err := s.client.Resource(authorizationPolicies).Namespace("elect").Get(t.Context(), "fine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	if c, _ := conditions[0].(map[string]any); len(conditions) != 1 || c["status"] != "True" {
		t.Errorf("conditions %v", conditions)
	}
}

// aCertificate is a self-signed certificate in PEM.
func aCertificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
