package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

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
