package inspect

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/identity"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

func pod(name, ip, node string, opts ...func(*mesh.Workload)) *mesh.Workload {
	w := &mesh.Workload{
		UID: "Kubernetes//Pod/shop/" + name, Name: name, Namespace: "shop", ServiceAccount: strings.TrimRight(name, "-0123456789"),
		Node: node, Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Protocol: mesh.HBONE,
	}
	for _, o := range opts {
		o(w)
	}
	return w
}

func plain(w *mesh.Workload)     { w.Protocol = mesh.TCP }
func unhealthy(w *mesh.Workload) { w.Status = mesh.Unhealthy }

func serves(service string, port, target uint16) func(*mesh.Workload) {
	return func(w *mesh.Workload) {
		w.Services = map[mesh.NamespacedHostname]mesh.PortMap{{Namespace: "shop", Hostname: service + ".shop.svc.cluster.local"}: {port: target}}
	}
}

func lists(policies ...string) func(*mesh.Workload) {
	return func(w *mesh.Workload) { w.AuthorizationPolicies = policies }
}

func service(name, vip string, port, target uint16, opts ...func(*mesh.Service)) *mesh.Service {
	s := &mesh.Service{
		Name: name, Namespace: "shop", Hostname: name + ".shop.svc.cluster.local", Ports: mesh.PortMap{port: target},
	}
	if vip != "" {
		a := netip.MustParseAddr(vip)
		s.VIPs = []mesh.VIP{{Prefix: netip.PrefixFrom(a, a.BitLen())}}
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

func principal(kind policy.MatchKind, value string, not bool) policy.Policy {
	m := policy.Match{}
	if not {
		m.NotPrincipals = []policy.StringMatch{{Kind: kind, Value: value}}
	} else {
		m.Principals = []policy.StringMatch{{Kind: kind, Value: value}}
	}
	return policy.Policy{Namespace: "shop", Scope: policy.WorkloadSelector, Rules: []policy.Rule{{Clauses: []policy.Clause{{Matches: []policy.Match{m}}}}}}
}

// world has a client on node a, and on node b one server for each thing that
// may be in its way.
func world(t *testing.T) *mesh.Store {
	t.Helper()
	allow := principal(policy.Exact, "cluster.local/ns/shop/sa/client", false)
	allow.Name = "allow-client"
	others := principal(policy.Exact, "cluster.local/ns/shop/sa/somebody", false)
	others.Name = "allow-somebody"
	strict := principal(policy.Presence, "", true)
	strict.Name, strict.Action = "strict", policy.Deny
	rehearsed := others
	rehearsed.Name, rehearsed.DryRun = "rehearsed", true

	viaWaypoint := func(s *mesh.Service) {
		s.Waypoint = &mesh.GatewayAddress{Hostname: mesh.NamespacedHostname{Namespace: "shop", Hostname: "waypoint.shop.svc.cluster.local"}, HBONEPort: 15008}
	}
	native := func(w *mesh.Workload) { w.NativeTunnel = true }

	s := mesh.NewStore()
	s.Node = "a"
	s.Random = func(uint64) uint64 { return 0 }
	err := s.Replace(mesh.World{
		Workloads: []*mesh.Workload{
			pod("client", "10.1.0.1", "a"),
			pod("near", "10.1.0.2", "a", serves("nearby", 80, 8080)),
			pod("bare", "10.1.0.3", "a", plain),
			pod("stuck", "10.1.0.4", "a"),
			pod("uncertified", "10.1.0.5", "a"),
			pod("open-1", "10.2.0.1", "b", serves("open", 80, 8080)),
			pod("allowed-1", "10.2.0.2", "b", serves("allowed", 80, 8080), lists("shop/allow-client")),
			pod("denied-1", "10.2.0.3", "b", serves("denied", 80, 8080), lists("shop/allow-somebody")),
			pod("strict-1", "10.2.0.4", "b", serves("strict", 80, 8080), lists("shop/strict")),
			pod("rehearsed-1", "10.2.0.5", "b", lists("shop/rehearsed")),
			pod("sick-1", "10.2.0.6", "b", serves("sick", 80, 8080), unhealthy),
			pod("mixed-1", "10.2.0.7", "b", serves("mixed", 80, 8080), lists("shop/allow-client")),
			pod("mixed-2", "10.2.0.8", "b", serves("mixed", 80, 8080), lists("shop/allow-somebody")),
			pod("external", "10.2.0.9", "b", plain),
			pod("waypoint-1", "10.2.0.10", "b", serves("waypoint", 15008, 15008), native),
			pod("behind-1", "10.2.0.11", "b", serves("behind", 80, 8080), lists("shop/allow-waypoint")),
			pod("headless-1", "10.2.0.12", "b", serves("headless", 80, 8080)),
		},
		Services: []*mesh.Service{
			service("nearby", "10.96.0.1", 80, 8080), service("open", "10.96.0.2", 80, 8080), service("allowed", "10.96.0.3", 80, 8080),
			service("denied", "10.96.0.4", 80, 8080), service("strict", "10.96.0.5", 80, 8080), service("sick", "10.96.0.6", 80, 8080),
			service("mixed", "10.96.0.7", 80, 8080), service("waypoint", "10.96.0.8", 15008, 15008),
			service("behind", "10.96.0.9", 80, 8080, viaWaypoint), service("headless", "", 80, 8080),
		},
		Policies: []policy.Policy{allow, others, strict, rehearsed, func() policy.Policy {
			p := principal(policy.Exact, "cluster.local/ns/shop/sa/waypoint", false)
			p.Name = "allow-waypoint"
			return p
		}()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func certified(sa string) identity.CertificateInfo {
	return identity.CertificateInfo{
		ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/" + sa), Serial: "5eed",
		NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(11 * time.Hour), References: 1,
	}
}

// agentOf is an agent on node a.
func agentOf(t *testing.T) *Agent {
	serving := func(name string) Captured {
		return Captured{UID: "Kubernetes//Pod/shop/" + name, Identity: "spiffe://cluster.local/ns/shop/sa/" + name, State: StateServing}
	}
	stuck := serving("stuck")
	stuck.State, stuck.Error = "retrying", "its network namespace is gone"
	return &Agent{
		Store: world(t),
		Info: func() Info {
			return Info{Node: "a", Ready: true, Version: "v1", TrustDomains: []string{"cluster.local"}, SameNode: "hbone"}
		},
		Pods: func() []Captured {
			return []Captured{serving("client"), serving("near"), serving("uncertified"), stuck}
		},
		Unenrolled: func() []Unenrolled {
			return []Unenrolled{{Namespace: "shop", Name: "bare", UID: "Kubernetes//Pod/shop/bare", Reason: "no label"}}
		},
		Certificates: func() []identity.CertificateInfo {
			return []identity.CertificateInfo{certified("client"), certified("near"), {
				ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/uncertified"), LastError: "the CA is away", Failures: 3,
			}}
		},
		Now: func() time.Time { return noon },
	}
}

func TestExplain(t *testing.T) {
	direct := func(a *Agent) {
		info := a.Info()
		info.SameNode = "direct"
		a.Info = func() Info { return info }
	}
	foreignHere := func(a *Agent) {
		info := a.Info()
		info.TrustDomains = []string{"other.example"}
		a.Info = func() Info { return info }
	}
	for _, tt := range []struct {
		name, src, dst string
		change         func(*Agent)
		verdict        Verdict
		security       Security
		because        string // part of it
		dial           string // of the first hop
	}{
		{"no policy", "shop/client", "shop/open:80", nil, Connects, MutualTLS, "no policy applies", "10.2.0.1:15008"},
		{"allowed by policy", "shop/client", "allowed.shop:80", nil, Connects, MutualTLS, "allowed by policy shop/allow-client, rule 1", "10.2.0.2:15008"},
		{"denied by policy", "shop/client", "denied:80", nil, Refused, "", "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/client", "10.2.0.3:15008"},
		{"strict lets mTLS in", "shop/client", "shop/strict", nil, Connects, MutualTLS, "no DENY policy matches", "10.2.0.4:15008"},
		{"strict refuses plaintext", "shop/bare", "shop/strict", nil, Refused, "", "denied by policy shop/strict", "10.2.0.4:8080"},
		{"plaintext where it is permitted", "shop/bare", "shop/open", nil, Connects, Plaintext, "no policy applies", "10.2.0.1:8080"},
		{"unknown source", "192.0.2.9", "shop/open", nil, Connects, Plaintext, "no policy applies", "10.2.0.1:8080"},
		{"unknown source, strict", "192.0.2.9", "10.2.0.4:8080", nil, Refused, "", "denied by policy shop/strict", "10.2.0.4:8080"},
		{"policy of identities, plaintext", "192.0.2.9", "shop/allowed", nil, Refused, "", "without identity", "10.2.0.2:8080"},
		{"out of the mesh", "shop/client", "203.0.113.1:443", nil, Connects, Plaintext, "nothing is known of the destination", "203.0.113.1:443"},
		{"known and not in the mesh", "shop/client", "shop/external:5432", nil, Connects, Plaintext, "not in the mesh", "10.2.0.9:5432"},
		{"no agent anywhere", "shop/bare", "203.0.113.1:443", nil, Connects, Plaintext, "no agent is at either end", "203.0.113.1:443"},
		{"no healthy endpoint", "shop/client", "shop/sick", nil, Refused, "", "no healthy endpoint for port 80: of 1 workloads, 1 unhealthy", ""},
		{"no healthy endpoint, plaintext", "shop/bare", "shop/sick", nil, Refused, "", "no healthy endpoint", ""},
		{"no such port", "shop/client", "shop/open:81", nil, Refused, "", "has no port 81", ""},
		{"same node through the network", "shop/client", "shop/nearby", nil, Connects, MutualTLS, "no policy applies", "10.1.0.2:15008"},
		{"same node inside the agent", "shop/client", "shop/nearby", direct, Connects, SameNode, "no policy applies", "10.1.0.2:15008"},
		{"itself", "shop/client", "10.1.0.1:80", nil, Connects, "", "stays inside the pod", ""},
		{"endpoints differ", "shop/client", "shop/mixed", nil, Depends, MutualTLS, "it depends on the endpoint: no ALLOW", "10.2.0.7:15008"},
		{"by way of a waypoint", "shop/client", "shop/behind", nil, Connects, MutualTLS, "allowed by policy shop/allow-waypoint", "10.2.0.10:15008"},
		{"around the waypoint, plaintext", "shop/bare", "shop/behind", nil, Refused, "", "without identity", "10.2.0.11:8080"},
		{"dry run", "shop/client", "shop/rehearsed-1:80", nil, Connects, MutualTLS, "no ALLOW policy applies", "10.2.0.5:15008"},
		{"own port", "shop/client", "10.2.0.1:15006", nil, Refused, "", "agent's own listener", "10.2.0.1:15008"},
		{"own port, plaintext", "192.0.2.9", "10.2.0.1:15006", nil, Refused, "", "belongs to the agent", "10.2.0.1:15006"},
		{"no certificate here", "shop/uncertified", "shop/open", nil, Refused, "", "no certificate yet: the CA is away", "10.2.0.1:15008"},
		{"no certificate there", "shop/client", "shop/uncertified:80", nil, Refused, "", "the peer's side: no certificate yet", "10.1.0.5:15008"},
		{"not captured yet", "shop/stuck", "shop/open", nil, Depends, "", "retrying: its network namespace is gone", "10.2.0.1:15008"},
		{"not captured yet there", "shop/client", "shop/stuck:80", nil, Refused, "", "nobody takes HBONE at 10.1.0.4:15008", "10.1.0.4:15008"},
		{"foreign trust domain", "shop/client", "shop/open", foreignHere, Refused, "", "trust domain cluster.local are not accepted", "10.2.0.1:15008"},
		{"past the agent", "192.0.2.9", "10.1.0.2:8080", func(a *Agent) {
			if err := a.Store.Apply(mesh.Update{Workloads: []*mesh.Workload{pod("near", "10.1.0.2", "a", lists("shop/strict"))}}); err != nil {
				panic(err)
			}
			pods := a.Pods()
			pods[1].BypassInbound = true
			a.Pods = func() []Captured { return pods }
		}, Connects, Plaintext, "reaches this pod without the agent", "10.1.0.2:8080"},
		{"peer that speaks HBONE itself", "shop/client", "shop/waypoint-1:9080", nil, Connects, MutualTLS, "decides itself", "10.2.0.10:15008"},
		{"headless", "shop/client", "headless.shop.svc.cluster.local:8080", nil, Connects, MutualTLS, "no policy applies", "10.2.0.12:15008"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := agentOf(t)
			if tt.change != nil {
				tt.change(a)
			}
			e, err := a.Explain(tt.src, tt.dst)
			if err != nil {
				t.Fatal(err)
			}
			if e.Verdict != tt.verdict || e.Security != tt.security || !strings.Contains(e.Because, tt.because) {
				t.Errorf("%s -> %s: %s, security %q, because %q;\nwant %s, security %q, because …%s…", tt.src, tt.dst, e.Verdict, e.Security, e.Because, tt.verdict, tt.security, tt.because)
			}
			dial := ""
			if len(e.Legs[0].Hops) > 0 {
				dial = e.Legs[0].Hops[0].Dial.String()
			}
			if dial != tt.dial {
				t.Errorf("first hop is %q, want %q", dial, tt.dial)
			}
		})
	}
}

func TestExplainTellsTheWholeWay(t *testing.T) {
	e, err := agentOf(t).Explain("shop/client", "shop/behind")
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Legs) != 2 {
		t.Fatalf("%d legs, want one to the waypoint and one from it", len(e.Legs))
	}
	to, on := e.Legs[0].Hops[0], e.Legs[1].Hops[0]
	if !to.Waypoint || to.Inbound != nil || to.Authority != "10.96.0.9:80" {
		t.Errorf("to the waypoint: %+v; want the original destination as authority, and no policy of ours", to)
	}
	if e.Legs[1].From.Pod != "shop/waypoint-1" || on.Arrival.Peer != "spiffe://cluster.local/ns/shop/sa/waypoint" || on.Inbound.Policy != "shop/allow-waypoint" {
		t.Errorf("from the waypoint: %+v, arrival %+v; want it to come as the waypoint", e.Legs[1].From, on.Arrival)
	}
	if want := []string{"spiffe://cluster.local/ns/shop/sa/behind"}; !cmp.Equal(on.Expect, want) {
		t.Errorf("expected identities: %v, want %v", on.Expect, want)
	}
	if e.Source.Certificate == nil || e.Source.Certificate.Serial != "5eed" {
		t.Errorf("certificate of the source: %+v", e.Source.Certificate)
	}
}

func TestExplainReportsDryRuns(t *testing.T) {
	e, err := agentOf(t).Explain("shop/client", "shop/rehearsed-1:80")
	if err != nil {
		t.Fatal(err)
	}
	dry := e.Legs[0].Hops[0].Inbound.DryRun
	if len(dry) != 1 || dry[0].Policy != "shop/rehearsed" || dry[0].Matched {
		t.Errorf("dry runs: %+v; want the one that would refuse", dry)
	}
}

func TestExplainTellsOfProbes(t *testing.T) {
	a := agentOf(t)
	pods := a.Pods()
	pods[1].ProbePorts = []uint16{8080}
	a.Pods = func() []Captured { return pods }
	for dst, want := range map[string]string{"10.1.0.2:8080": "kubelet's own probes of port 8080 are let in whatever policy says", "10.1.0.2:8081": ""} {
		e, err := a.Explain("192.0.2.9", dst)
		if err != nil {
			t.Fatal(err)
		}
		if note := e.Legs[0].Hops[0].Inbound.Note; note != want {
			t.Errorf("%s: note %q, want %q", dst, note, want)
		}
	}
}

// What the agent of the destination says replaces what the source's concluded.
func TestConcludeBelievesTheDestination(t *testing.T) {
	e, err := agentOf(t).Explain("shop/client", "shop/open")
	if err != nil {
		t.Fatal(err)
	}
	h := &e.Legs[0].Hops[0]
	h.Inbound.Identity = "spiffe://cluster.local/ns/shop/sa/impostor"
	if e.Conclude(); e.Verdict != Refused || !strings.Contains(e.Because, "impostor") {
		t.Errorf("with another identity at the other end: %s, %s", e.Verdict, e.Because)
	}
	h.Inbound = &Inbound{AnsweredBy: "b", Local: true, Captured: true, Identity: h.Expect[0], Reason: "denied by policy shop/new, rule 1", Status: 401}
	if e.Conclude(); e.Verdict != Refused || e.Because != "denied by policy shop/new, rule 1" {
		t.Errorf("with a policy that the source has not heard of: %s, %s", e.Verdict, e.Because)
	}
	h.Inbound = nil
	if e.Conclude(); e.Verdict != Connects {
		t.Errorf("with no agent at the other end: %s, %s", e.Verdict, e.Because)
	}
}

func TestQuestionsThatCannotBeAnswered(t *testing.T) {
	for _, tt := range []struct {
		src, dst   string
		want       string
		candidates []string
		notFound   bool
	}{
		{"", "shop/open", "no source", nil, false},
		{"client", "shop/open", `"client" is neither an IP address nor NAMESPACE/NAME`, []string{"shop/client"}, false},
		{"shop/clint", "shop/open", "no pod shop/clint is known", []string{"shop/client"}, true},
		{"shop/open", "shop/near", "a service of that name, which makes no connections", []string{"shop/open-1"}, true},
		{"svc/shop/open", "shop/near", "a service accepts connections", []string{"shop/open-1"}, false},
		{"10.1.0.1:80", "shop/open", "leave out the port", nil, false},
		{"pod/client", "shop/open", "write pod/NAMESPACE/client", nil, false},
		{"job/shop/client", "shop/open", `"job" is no kind`, nil, false},
		{"shop/", "shop/open", "is not NAMESPACE/NAME", nil, false},
		{"shop/client", "", "no destination", nil, false},
		{"shop/client", "http://open.shop/", "is a URL", nil, false},
		{"shop/client", "shop/open:http", `"http" is not a port`, nil, false},
		{"shop/client", "shop/open:0", `"0" is not a port`, nil, false},
		{"shop/client", "10.96.0.2:0", "port 0 is none", nil, false},
		{"shop/client", "203.0.113.1", "203.0.113.1 has no port; write 203.0.113.1:PORT", nil, false},
		{"shop/client", "[2001:db8::1]", "write [2001:db8::1]:PORT", nil, false},
		{"shop/client", "shop/bare", "shop/bare has no port", nil, false},
		{"shop/client", "shop/opne", "no pod or service shop/opne is known", []string{"shop/open"}, true},
		{"shop/client", "open.shpo", "no service has the hostname open.shpo", []string{"shop/open", "shop/open-1"}, true},
		{"shop/client", "www.example.com:443", "outside of the mesh, ask about its IP address", nil, true},
	} {
		t.Run(tt.src+" "+tt.dst, func(t *testing.T) {
			a := agentOf(t)
			_, err := a.Explain(tt.src, tt.dst)
			input := new(InputError)
			if !errors.As(err, &input) {
				t.Fatalf("error %v, want an InputError", err)
			}
			if !strings.Contains(input.Message, tt.want) || input.NotFound != tt.notFound {
				t.Errorf("message %q, not found %t; want …%s…, %t", input.Message, input.NotFound, tt.want, tt.notFound)
			}
			for _, c := range tt.candidates {
				if !slices.Contains(input.Candidates, c) {
					t.Errorf("candidates %v lack %s", input.Candidates, c)
				}
			}
			if tt.candidates == nil && len(input.Candidates) > 0 {
				t.Errorf("candidates %v come from nowhere", input.Candidates)
			}
		})
	}
}

func TestPlacesByShorterNames(t *testing.T) {
	a := agentOf(t)
	if err := a.Store.Apply(mesh.Update{
		Workloads: []*mesh.Workload{pod("both", "10.2.0.99", "b")},
		Services:  []*mesh.Service{service("both", "10.96.0.99", 80, 8080)},
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"open-1", "open-2"} {
		if err := a.Store.Apply(mesh.Update{Workloads: []*mesh.Workload{
			pod(name, "10.2.1."+name[len(name)-1:], "b", serves("open", 80, 8080), func(w *mesh.Workload) { w.WorkloadName = "opener" }),
		}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ dst, want, note string }{
		{"open", "10.96.0.2:80", "port 80"},
		{"open.shop", "10.96.0.2:80", "port 80"},
		{"open.shop.svc", "10.96.0.2:80", "port 80"},
		{"OPEN.shop.svc.cluster.local.:80", "10.96.0.2:80", ""},
		{"service/shop/open:80", "10.96.0.2:80", ""},
		{"pod/shop/open-1:80", "10.2.1.1:80", ""},
		{"shop/opener", "10.2.1.1:8080", "first of its 2"},
		{"10.96.0.2", "10.96.0.2:80", "port 80"},
		{"::ffff:10.96.0.2", "10.96.0.2:80", "port 80"},
		{"[::ffff:10.96.0.2]:80", "10.96.0.2:80", ""},
		{"headless", "10.2.0.12:80", "headless"},
		{"shop/both", "10.96.0.99:80", "pod/shop/both asks about that"},
		{"shop/both:80", "10.96.0.99:80", "pod/shop/both asks about that"},
		{"shop/both:8080", "10.2.0.99:8080", "service/shop/both asks about that"},
		{"pod/shop/both:80", "10.2.0.99:80", ""},
		{"service/shop/both:8080", "10.96.0.99:8080", ""},
	} {
		e, err := a.Explain("shop/client", tt.dst)
		if err != nil {
			t.Errorf("%s: %v", tt.dst, err)
			continue
		}
		if e.Destination.String() != tt.want {
			t.Errorf("%s is taken for %s, want %s", tt.dst, e.Destination, tt.want)
		}
		if notes := strings.Join(e.Notes, "; "); !strings.Contains(notes, tt.note) || tt.note == "" && notes != "" {
			t.Errorf("%s: notes %q, want one about %q", tt.dst, notes, tt.note)
		}
	}
}
