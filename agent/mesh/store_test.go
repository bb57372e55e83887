package mesh

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/adit-mesh/adit/agent/policy"
)

func names(ws []*Workload) string {
	var out []string
	for _, w := range ws {
		out = append(out, w.Name)
	}
	return strings.Join(out, " ")
}

func TestApplyChangesAllOrNothing(t *testing.T) {
	s := store(t, pod("a", "10.0.0.2"), svc("default/web", []string{"/10.1.0.1"}), policy.Policy{Name: "p", Namespace: "default"})
	before := s.current.Load()
	changed, cancel := s.Subscribe()
	defer cancel()

	good := pod("b", "10.0.0.3")
	tests := []struct {
		why  string
		u    Update
		want []string
	}{
		{"nil workload", Update{Workloads: []*Workload{good, nil}}, []string{"workload is nil"}},
		{"nil service", Update{Services: []*Service{nil}}, []string{"service is nil"}},
		{"no uid", Update{Workloads: []*Workload{{Namespace: "x"}}}, []string{"uid is empty"}},
		{"invalid address", Update{Workloads: []*Workload{good, {UID: "x", Namespace: "x", Addresses: []netip.Addr{{}}}}}, []string{"address 0: invalid IP"}},
		{"no namespace, no identity", Update{Workloads: []*Workload{{UID: "x"}}}, []string{"identity spiffe://cluster.local/ns//sa/default"}},
		{"bad trust domain", Update{Workloads: []*Workload{{UID: "x", Namespace: "x", TrustDomain: "A B"}}}, []string{"identity spiffe://A B/"}},
		{"gateway with nothing", Update{Workloads: []*Workload{{UID: "x", Namespace: "x", Waypoint: &GatewayAddress{}}}}, []string{"waypoint: a gateway has either"}},
		{"gateway with both", Update{Services: []*Service{{Hostname: "x", Waypoint: &GatewayAddress{Hostname: key("a/b"), Address: NetworkAddress{"", addr("10.0.0.1")}}}}}, []string{"waypoint: a gateway has either"}},
		{"weighted gateway with nothing", Update{Services: []*Service{{Hostname: "x", WeightedWaypoints: []WeightedWaypoint{{}}}}}, []string{"weighted waypoint 0"}},
		{"policy key without namespace", Update{Workloads: []*Workload{{UID: "x", Namespace: "x", AuthorizationPolicies: []string{"p"}}}}, []string{`"p" is not namespace/name`}},
		{"service key without hostname", Update{Workloads: []*Workload{{UID: "x", Namespace: "x", Services: map[NamespacedHostname]PortMap{{"x", ""}: nil}}}}, []string{`"x/" has no hostname`}},
		{"enums from a newer control plane", Update{
			Workloads: []*Workload{{UID: "x", Namespace: "x", Protocol: 9, NetworkMode: 9, Status: 9}},
			Services:  []*Service{{Hostname: "x", Visibility: 9, IPFamilies: 9, LoadBalancing: LoadBalancing{Mode: 9, HealthPolicy: 9, RoutingPreference: []LocalityScope{0, 9}}}}},
			[]string{"tunnel protocol 9", "network mode 9", "status 9", "visibility 9", "IP families 9", "load balancing mode 9", "health policy 9", "routing preference 0", "routing preference 9"}},
		{"service without hostname", Update{Services: []*Service{{}}}, []string{"hostname is empty"}},
		{"invalid VIP", Update{Services: []*Service{{Hostname: "x", VIPs: []VIP{{}}}}}, []string{"is not an address or a CIDR"}},
		{"port 0", Update{Services: []*Service{{Hostname: "x", Ports: PortMap{0: 1}}}}, []string{"port 0"}},
		{"policy", Update{Policies: []policy.Policy{{Name: "x", Action: 9}}}, []string{"unknown action 9"}},
		{"all of it at once", Update{Workloads: []*Workload{{}}, Services: []*Service{{}}, Policies: []policy.Policy{{}}}, []string{"uid is empty", "hostname is empty", "name is empty"}},
	}
	for _, tt := range tests {
		tt.u.RemovedWorkloads = []string{"Kubernetes//Pod/default/a"}
		err := s.Apply(tt.u)
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error = %v, want %q", tt.why, err, want)
			}
		}
		if s.current.Load() != before {
			t.Fatalf("%s: the world changed although the update was refused", tt.why)
		}
		if err := s.Replace(World{Workloads: tt.u.Workloads, Services: tt.u.Services, Policies: tt.u.Policies}); err == nil || s.current.Load() != before {
			t.Fatalf("%s: Replace = %v, or the world changed", tt.why, err)
		}
	}
	select {
	case <-changed:
		t.Error("subscribers were told of a change that did not happen")
	default:
	}
}

func TestValidateIsWhatApplyRefuses(t *testing.T) {
	if err := pod("a", "10.0.0.1").Validate(); err != nil {
		t.Errorf("Validate of a good workload = %v", err)
	}
	if err := (&Workload{}).Validate(); err == nil {
		t.Error("Validate of an empty workload = nil")
	}
	if err := svc("a/b", []string{"/10.0.0.1"}).Validate(); err != nil {
		t.Errorf("Validate of a good service = %v", err)
	}
	if err := (&Service{}).Validate(); err == nil {
		t.Error("Validate of an empty service = nil")
	}
}

func TestStoreFillsInDefaults(t *testing.T) {
	given := &Workload{UID: "x", Namespace: "n", Addresses: []netip.Addr{addr("::ffff:10.0.0.1")}}
	s := store(t, given)
	w := s.Workload(addr("10.0.0.1"))
	if w == nil || w != s.WorkloadByUID("x") || w != s.Workload(addr("::ffff:10.0.0.1")) {
		t.Fatalf("workload by mapped and plain address = %v", w)
	}
	if got := fmt.Sprint(w.TrustDomain, w.ServiceAccount, w.ClusterID, w.Identity()); got != "cluster.localdefaultKubernetesspiffe://cluster.local/ns/n/sa/default" {
		t.Errorf("defaults = %s", got)
	}
	if given.TrustDomain != "" || given.Addresses[0] != addr("::ffff:10.0.0.1") {
		t.Error("the caller's workload was changed")
	}
	if given.Identity() != w.Identity() {
		t.Errorf("identity before the Store = %s, after = %s", given.Identity(), w.Identity())
	}
}

func TestReplaceKeepsWhatIsTheSame(t *testing.T) {
	s := store(t, pod("a", "10.0.0.2"), pod("b", "10.0.0.3"), svc("default/web", nil), svc("default/old", nil))
	a, b, web := s.WorkloadByUID("Kubernetes//Pod/default/a"), s.WorkloadByUID("Kubernetes//Pod/default/b"), s.Service(key("default/web"))
	changed, cancel := s.Subscribe()
	defer cancel()
	if err := s.Replace(world(pod("a", "10.0.0.2"), pod("b", "10.0.0.4"), pod("c", "10.0.0.5"), svc("default/web", nil))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("the change is visible, but subscribers were not told")
	}
	if s.WorkloadByUID(a.UID) != a || s.Service(key("default/web")) != web {
		t.Error("an object that did not change must stay the same pointer, so that nobody reacts to it")
	}
	if now := s.WorkloadByUID(b.UID); now == b || now.Addresses[0] != addr("10.0.0.4") {
		t.Error("a changed workload stayed the same")
	}
	if s.Workload(addr("10.0.0.3")) != nil || s.Service(key("default/old")) != nil {
		t.Error("what the new world lacks is still there")
	}
	snapshot := s.current.Load()
	if err := s.Replace(world(pod("a", "10.0.0.2"), pod("b", "10.0.0.4"), pod("c", "10.0.0.5"), svc("default/web", nil))); err != nil {
		t.Fatal(err)
	}
	if s.current.Load() != snapshot {
		t.Error("the same world again is no change")
	}
	select {
	case <-changed:
		t.Error("subscribers were told of no change")
	default:
	}
}

func TestSubscribeIsAnEdge(t *testing.T) {
	s := NewStore()
	changed, cancel := s.Subscribe()
	other, cancelOther := s.Subscribe()
	defer cancelOther()
	for i := range 3 {
		if err := s.Apply(Update{Workloads: []*Workload{pod("a", netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).String())}}); err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	select {
	case <-changed:
		t.Error("three changes before the first receive must be one value")
	default:
	}
	<-other
	cancel()
	if err := s.Apply(Update{RemovedWorkloads: []string{"Kubernetes//Pod/default/a"}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Error("a cancelled subscription was told")
	default:
	}
	<-other
	cancel() // twice is harmless
}

func TestEndpointsMayComeBeforeTheirService(t *testing.T) {
	s := store(t, pod("a", "10.0.0.2", serves("default/web")))
	if err := s.Apply(Update{Services: []*Service{svc("default/web", []string{"/10.1.0.1"})}}); err != nil {
		t.Fatal(err)
	}
	if got, want := describe(s.Outbound(nil, addrPort("10.1.0.1:80"))), "mesh default/web | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"; got != want {
		t.Errorf("route = %s, want %s", got, want)
	}
	// And survive it.
	if err := s.Apply(Update{RemovedServices: []NamespacedHostname{key("default/web")}}); err != nil {
		t.Fatal(err)
	}
	if got := describe(s.Outbound(nil, addrPort("10.1.0.1:80"))); got != "passthrough | TCP 10.1.0.1:80" {
		t.Errorf("route after the service has gone = %s", got)
	}
	if err := s.Apply(Update{Services: []*Service{svc("default/web", []string{"/10.1.0.1"})}}); err != nil {
		t.Fatal(err)
	}
	if r := s.Outbound(nil, addrPort("10.1.0.1:80")); len(r.Hops) != 1 {
		t.Errorf("route after the service has come back = %s", describe(r))
	}
	if err := s.Apply(Update{RemovedServices: []NamespacedHostname{key("default/web")}, RemovedWorkloads: []string{"Kubernetes//Pod/default/a"}}); err != nil {
		t.Fatal(err)
	}
	if n := s.current.Load().services.len(); n != 0 {
		t.Errorf("%d services are remembered of which nothing is known", n)
	}
}

func TestUpdateRemovesFirst(t *testing.T) {
	s := store(t, pod("a", "10.0.0.2"))
	err := s.Apply(Update{
		Workloads:        []*Workload{pod("a", "10.0.0.8"), pod("a", "10.0.0.9")},
		RemovedWorkloads: []string{"Kubernetes//Pod/default/a", "never heard of"},
		RemovedServices:  []NamespacedHostname{key("never/heard-of")},
		RemovedPolicies:  []string{"never/heard-of"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := s.WorkloadByUID("Kubernetes//Pod/default/a"); w == nil || w.Addresses[0] != addr("10.0.0.9") {
		t.Errorf("workload = %v, want the last of the two that the update brought", w)
	}
	if s.Workload(addr("10.0.0.8")) != nil || s.Workload(addr("10.0.0.2")) != nil {
		t.Error("an address that the workload no longer has still finds it")
	}
}

func TestLocal(t *testing.T) {
	netns := func(n string) func(*Workload) { return func(w *Workload) { w.Netns = n } }
	node := func(n string) func(*Workload) { return func(w *Workload) { w.Node = n } }
	objects := []any{
		pod("b", "10.0.0.2", netns("b")), pod("a", "10.0.0.1", netns("a"), node("n1")), pod("c", "10.0.0.3", netns("c"), node("n2")),
		pod("d", "10.0.0.4", node("n1")), pod("e", "10.0.0.5", node("n2")), pod("f", "10.0.0.6"),
	}
	for node, want := range map[string]string{"": "a b c", "n1": "a b d", "n2": "b c e"} {
		s := NewStore()
		s.Node = node
		if err := s.Replace(world(objects...)); err != nil {
			t.Fatal(err)
		}
		if got := names(s.Local()); got != want {
			t.Errorf("local on node %q = %s, want %s", node, got, want)
		}
	}
}

func TestLocalFollowsTheWorkload(t *testing.T) {
	netns := func(w *Workload) { w.Netns = "a" }
	s := store(t, pod("a", "10.0.0.1", netns), pod("b", "10.0.0.2"))
	must(t, s.Apply(Update{Workloads: []*Workload{pod("b", "10.0.0.2", netns)}}))
	if got := names(s.Local()); got != "a b" {
		t.Errorf("local = %s, want both: b has a netns now", got)
	}
	must(t, s.Apply(Update{Workloads: []*Workload{pod("b", "10.0.0.2")}, RemovedWorkloads: []string{"Kubernetes//Pod/default/a"}}))
	if got := names(s.Local()); got != "" {
		t.Errorf("local = %s, want none: a is gone and b has no netns", got)
	}
}

func TestChangeIsVisibleWhenSubscribersAreTold(t *testing.T) {
	s := NewStore()
	changed, cancel := s.Subscribe()
	defer cancel()
	var writer sync.WaitGroup
	for i := range 500 {
		name := fmt.Sprint("w", i)
		writer.Go(func() {
			if err := s.Apply(Update{Workloads: []*Workload{pod(name, "10.0.0.1")}}); err != nil {
				t.Error(err)
			}
		})
		<-changed
		if s.WorkloadByUID("Kubernetes//Pod/default/"+name) == nil {
			t.Fatalf("told of change %d before it was visible", i)
		}
		writer.Wait()
	}
}

func TestPolicies(t *testing.T) {
	deny := func(name string, scope policy.Scope) policy.Policy {
		ns, n, _ := strings.Cut(name, "/")
		return policy.Policy{Name: n, Namespace: ns, Scope: scope, Action: policy.Deny, Rules: []policy.Rule{{}}}
	}
	lists := func(keys ...string) func(*Workload) {
		return func(w *Workload) { w.AuthorizationPolicies = keys }
	}
	tests := []struct {
		why  string
		p    []policy.Policy
		w    *Workload
		want string // the policy that decides
	}{
		{"none", nil, pod("a", "10.0.0.2"), ""},
		{"the workload's namespace", []policy.Policy{deny("default/p", policy.Namespace)}, pod("a", "10.0.0.2"), "default/p"},
		{"another namespace", []policy.Policy{deny("other/p", policy.Namespace)}, pod("a", "10.0.0.2"), ""},
		{"global", []policy.Policy{deny("istio-system/p", policy.Global)}, pod("a", "10.0.0.2"), "istio-system/p"},
		{"root namespace", []policy.Policy{deny("/p", policy.Namespace)}, pod("a", "10.0.0.2"), "/p"},
		{"selector, listed", []policy.Policy{deny("default/p", policy.WorkloadSelector)}, pod("a", "10.0.0.2", lists("default/p")), "default/p"},
		{"selector, not listed", []policy.Policy{deny("default/p", policy.WorkloadSelector)}, pod("a", "10.0.0.2"), ""},
		{"listed, not arrived", nil, pod("a", "10.0.0.2", lists("default/p")), "default/p"},
	}
	c := policy.Connection{SourceAddr: addr("10.0.0.9"), Destination: addrPort("10.0.0.2:80")}
	for _, tt := range tests {
		s := store(t, tt.w)
		if err := s.Apply(Update{Policies: tt.p}); err != nil {
			t.Fatal(err)
		}
		d := s.Policies(s.WorkloadByUID(tt.w.UID)).Check(c)
		if d.Policy != tt.want || d.Allowed != (tt.want == "") {
			t.Errorf("%s: decision = %+v, want policy %q", tt.why, d, tt.want)
		}
	}

	s := store(t, pod("a", "10.0.0.2"))
	if d := s.Policies(nil).Check(c); d.Allowed || d.Reason == "" {
		t.Errorf("unknown workload: decision = %+v, want a refusal", d)
	}
	// A caller that still holds the workload from before is not fooled.
	old := s.WorkloadByUID("Kubernetes//Pod/default/a")
	if err := s.Apply(Update{Workloads: []*Workload{pod("a", "10.0.0.2", lists("default/p"))}, Policies: []policy.Policy{deny("default/p", policy.WorkloadSelector)}}); err != nil {
		t.Fatal(err)
	}
	if d := s.Policies(old).Check(c); d.Policy != "default/p" {
		t.Errorf("with a workload from before: decision = %+v, want the policy it lists now", d)
	}
	// A policy that changes its scope leaves the namespace.
	if err := s.Apply(Update{Policies: []policy.Policy{deny("default/q", policy.Namespace)}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(Update{Policies: []policy.Policy{deny("default/q", policy.WorkloadSelector)}, RemovedPolicies: []string{"default/p"}}); err != nil {
		t.Fatal(err)
	}
	if n := s.current.Load().inForce.len(); n != 0 {
		t.Errorf("%d namespaces have policies in force, want none", n)
	}
}

func TestWorldIsSortedAndDumps(t *testing.T) {
	s := store(t, pod("b", "10.0.0.3", via("default/wp"), serves("default/web", 80, 8080)), pod("a", "10.0.0.2", via("/10.0.0.9")),
		svc("b/web", []string{"/10.1.0.1", "n/fd00::/64"}), svc("a/web", nil),
		policy.Policy{Name: "q", Namespace: "a"}, policy.Policy{Name: "p", Namespace: "a", Action: policy.Deny})
	w := s.World()
	if got := fmt.Sprintf("%s %s %s %s %s", names(w.Workloads), w.Services[0].Key(), w.Services[1].Key(), w.Policies[0].Key(), w.Policies[1].Key()); got != "a b a/web b/web a/p a/q" {
		t.Errorf("order = %s", got)
	}
	dump, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"Protocol":"HBONE"`, `"default/web":{"80":8080}`, `"Waypoint":"default/wp:15008"`, `"Waypoint":"/10.0.0.9:15008"`, `"VIPs":["/10.1.0.1","n/fd00::/64"]`, `"Action":"DENY"`, `"Addresses":["10.0.0.2"]`} {
		if !strings.Contains(string(dump), want) {
			t.Errorf("dump lacks %s\n%s", want, dump)
		}
	}
}

// Readers see whole worlds only: both pods of one pair, or none.
func TestReadersNeverSeeHalfAChange(t *testing.T) {
	s := store(t, svc("default/web", []string{"/10.1.0.1"}))
	pair := []*Workload{pod("a", "10.0.0.2", serves("default/web")), pod("b", "10.0.0.3", serves("default/web"))}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if n := len(s.Outbound(nil, addrPort("10.1.0.1:80")).Hops); n != 0 && n != 2 {
					t.Errorf("a reader saw %d of the two endpoints", n)
					return
				}
			}
		})
	}
	for range 300 {
		if err := s.Apply(Update{Workloads: pair}); err != nil {
			t.Error(err)
		}
		if err := s.Apply(Update{RemovedWorkloads: []string{pair[0].UID, pair[1].UID}}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}
