package main

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/identity"
)

const uid = "Kubernetes//Pod/shop/"

// twoNodes are the agents of two nodes: a has shop/client and shop/intruder, b
// has shop/server, which lets the client in.
type twoNodes struct {
	a, b *inspect.Agent

	mu          sync.Mutex // guards the fields below
	connections []proxy.ConnInfo
}

func workload(name, ip, node string) *mesh.Workload {
	return &mesh.Workload{
		UID: uid + name, Name: name, Namespace: "shop", ServiceAccount: name, Node: node,
		Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Protocol: mesh.HBONE,
	}
}

func newTwoNodes(t *testing.T) *twoNodes {
	t.Helper()
	n := new(twoNodes)
	host := mesh.NamespacedHostname{Namespace: "shop", Hostname: "server.shop.svc.cluster.local"}
	server := workload("server", "10.2.0.1", "b")
	server.Services = map[mesh.NamespacedHostname]mesh.PortMap{host: {80: 8080}}
	bare := workload("bare", "10.1.0.9", "a")
	bare.Protocol = mesh.TCP
	world := mesh.World{
		Workloads: []*mesh.Workload{workload("client", "10.1.0.1", "a"), workload("intruder", "10.1.0.2", "a"), bare, server},
		Services: []*mesh.Service{{
			Name: "server", Namespace: "shop", Hostname: host.Hostname, Ports: mesh.PortMap{80: 8080},
			VIPs: []mesh.VIP{{Prefix: netip.MustParsePrefix("10.96.0.1/32")}},
		}},
		Policies: []policy.Policy{{Name: "allow-client", Namespace: "shop", Scope: policy.Namespace, Rules: []policy.Rule{{Clauses: []policy.Clause{{
			Matches: []policy.Match{{Principals: []policy.StringMatch{{Kind: policy.Exact, Value: "cluster.local/ns/shop/sa/client"}}}},
		}}}}}},
	}
	agent := func(node string, pods ...string) *inspect.Agent {
		a := &inspect.Agent{Store: mesh.NewStore()}
		a.Store.Node = node
		if err := a.Store.Replace(world); err != nil {
			t.Fatal(err)
		}
		a.Info = func() inspect.Info {
			return inspect.Info{
				Version: "v1.2.3", Node: node, Started: time.Now().Add(-time.Hour), Ready: true, TrustDomains: []string{"cluster.local"},
				World: inspect.World{Source: "file", Synced: true},
			}
		}
		a.Pods = func() (list []inspect.Captured) {
			for _, p := range pods {
				list = append(list, inspect.Captured{UID: uid + p, Identity: "spiffe://cluster.local/ns/shop/sa/" + p, State: inspect.StateServing})
			}
			return list
		}
		a.Certificates = func() (list []identity.CertificateInfo) {
			for _, p := range pods {
				list = append(list, identity.CertificateInfo{
					ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/" + p), Serial: "c0ffee", NotAfter: time.Now().Add(time.Hour),
				})
			}
			return list
		}
		return a
	}
	n.a, n.b = agent("a", "client", "intruder"), agent("b", "server")
	n.a.Unenrolled = func() []inspect.Unenrolled {
		return []inspect.Unenrolled{{Namespace: "shop", Name: "bare", UID: uid + "bare", Reason: "label istio.io/dataplane-mode=none"}}
	}
	n.a.Connections = func() []proxy.ConnInfo {
		n.mu.Lock()
		defer n.mu.Unlock()
		for i := range n.connections {
			n.connections[i].Sent += 1 << 20
		}
		return append([]proxy.ConnInfo(nil), n.connections...)
	}
	n.connections = []proxy.ConnInfo{{
		ID: 1, Pod: uid + "client", Direction: "outbound", Mode: "hbone", Phase: proxy.PhaseOpen,
		Source: netip.MustParseAddrPort("10.1.0.1:40000"), Destination: netip.MustParseAddrPort("10.96.0.1:80"), HBONE: "10.2.0.1:15008",
		SourceID: "spiffe://cluster.local/ns/shop/sa/client", DestID: "spiffe://cluster.local/ns/shop/sa/server",
		Service: host.String(), Opened: time.Now().Add(-time.Minute), Received: 42,
	}}
	return n
}

// serve opens the admin port of an agent, which is for its own machine only.
func serve(t *testing.T, a *inspect.Agent) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	a.Register(mux)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, _, _ := net.SplitHostPort(r.Host); host != "127.0.0.1" {
			http.Error(w, "not from here", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// adit runs a command line and returns what it prints and its exit code.
func adit(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	t.Setenv("COLUMNS", "120")
	var b bytes.Buffer
	cmd := newRootCmd()
	cmd.SetOut(&b)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		b.WriteString(message(err))
		return b.String(), exitCode(err)
	}
	return b.String(), 0
}

func TestAskingTwoAgents(t *testing.T) {
	n := newTwoNodes(t)
	a, b := serve(t, n.a), serve(t, n.b)
	gone := httptest.NewServer(nil)
	gone.Close()
	both := []string{"--admin", b, "--admin", a}
	for _, tt := range []struct {
		args string
		code int
		want []string
		not  []string
	}{
		{"status", 0, []string{"a", "v1.2.3", "2/2", "shop/bare", "dataplane-mode=none", "3 are valid"}, nil},
		{"status --admin " + gone.URL, 0, []string{"2/2", "no answer: ", "connection refused"}, nil},
		{"pods", 0, []string{"shop/client", "shop/server", "1 pod is not enrolled"}, []string{"shop/bare"}},
		{"pods --all", 0, []string{"shop/bare", "not enrolled", "label istio.io/dataplane-mode=none"}, nil},
		{"pods shop/server", 0, []string{"shop/server"}, []string{"shop/client", "not enrolled"}},
		{"pods 10.1.0.1", 0, []string{"shop/client"}, []string{"shop/server"}},
		{"pods a/b/c", 2, []string{`"a/b/c" is neither`}, nil},
		{"connections", 0, []string{"shop/client", "shop/server:80", "mTLS", "out", "42"}, nil},
		{"connections shop/server", 0, []string{"shop/client"}, nil},
		{"connections 10.96.0.1", 0, []string{"shop/client"}, nil},
		{"connections other", 0, []string{"No connection is open"}, nil},
		{"connections --direction in", 0, []string{"No connection is open"}, nil},
		{"connections --direction up", 2, []string{"neither in nor out"}, nil},
		{"connections --watch --interval 1ms", 2, []string{"too short"}, nil},
		{"connections --watch --interval 100ms --rounds 2", 0, []string{"SENT/S", "every 100ms", "Mi"}, nil},
		{"why shop/client shop/server:8080", 0, []string{"connects, mTLS", "service/shop/server asks about that"}, nil},
		{"why shop/client service/shop/server", 0, []string{
			"connects, mTLS", "allowed by policy shop/allow-client, rule 1", "must prove to be spiffe://cluster.local/ns/shop/sa/server",
			"the agent of its own node, b", "valid for 59m, serial c0ffee",
		}, []string{"by what it knows"}},
		{"why shop/intruder server:80", 3, []string{"refused", "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/intruder", "the connection would be refused"}, nil},
		{"why shop/bare 10.2.0.1:8080", 3, []string{"it is not enrolled: label istio.io/dataplane-mode=none", "without identity (plaintext)"}, nil},
		{"why shop/client 203.0.113.1:443", 0, []string{"connects, plaintext", "out of the mesh"}, nil},
		{"why shop/client shop/servr:80", 2, []string{"no pod or service shop/servr is known; did you mean shop/server?"}, nil},
		{"why shop/client", 2, []string{"needs a source and a destination"}, nil},
		{"status -o yaml", 2, []string{"neither table nor json"}, nil},
		{"status extra", 2, []string{"takes no argument"}, nil},
		{"status --timeout 0s", 2, []string{"is no time"}, nil},
	} {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			out, code := adit(t, append(args, both...)...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("lacks %q", want)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(out, not) {
					t.Errorf("has %q", not)
				}
			}
			if t.Failed() {
				t.Log(out)
			}
		})
	}
}

// Where the agent of the other end is not among those asked, the answer says so.
func TestWhyWithOneAgent(t *testing.T) {
	n := newTwoNodes(t)
	a, b := serve(t, n.a), serve(t, n.b)
	out, code := adit(t, "why", "shop/client", "10.96.0.1", "--admin", a)
	if code != 0 || !strings.Contains(out, "the agent of node a, by what it knows: there is no agent of node b to ask") {
		t.Errorf("asked at the source only: exit code %d\n%s", code, out)
	}
	out, code = adit(t, "why", "shop/client", "10.96.0.1", "--admin", b)
	if code != 0 || !strings.Contains(out, "source's node a was not asked") {
		t.Errorf("asked at the destination only: exit code %d\n%s", code, out)
	}
}

// Each agent is believed about its own half.
func TestWhyAsksWhoKnows(t *testing.T) {
	n := newTwoNodes(t)
	if err := n.b.Store.Apply(mesh.Update{RemovedPolicies: []string{"shop/allow-client"}}); err != nil {
		t.Fatal(err)
	}
	a, b := serve(t, n.a), serve(t, n.b)
	out, code := adit(t, "why", "shop/intruder", "10.96.0.1", "--admin", a, "--admin", b)
	if code != 0 || !strings.Contains(out, "no policy applies to this workload") {
		t.Errorf("the destination's agent has no such policy any more: exit code %d\n%s", code, out)
	}
	n.b.Certificates = func() []identity.CertificateInfo { return nil }
	out, code = adit(t, "why", "shop/intruder", "10.96.0.1", "--admin", a, "--admin", b)
	if code != 3 || !strings.Contains(out, "the peer's side: no certificate yet") {
		t.Errorf("the destination has no certificate: exit code %d\n%s", code, out)
	}
}

func TestNobodyAnswers(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, command := range []string{"status", "pods", "connections", "connections --watch", "why 10.0.0.1 10.0.0.2:80"} {
		out, code := adit(t, append(strings.Fields(command), "--admin", gone.URL)...)
		if code != 1 || !strings.Contains(out, "connection refused") {
			t.Errorf("adit %s with nobody there: exit code %d\n%s", command, code, out)
		}
	}
}

func TestJSON(t *testing.T) {
	n := newTwoNodes(t)
	both := []string{"-o", "json", "--admin", serve(t, n.a), "--admin", serve(t, n.b)}
	read := func(v any, args ...string) {
		t.Helper()
		out, code := adit(t, append(args, both...)...)
		if code != 0 {
			t.Errorf("adit %v: exit code %d\n%s", args, code, out)
		}
		if err := json.NewDecoder(strings.NewReader(out)).Decode(v); err != nil {
			t.Errorf("adit %v: %v in\n%s", args, err, out)
		}
	}
	var status struct {
		Agents []struct {
			Node   string
			Status inspect.Status
		}
	}
	if read(&status, "status"); len(status.Agents) != 2 || status.Agents[0].Node != "a" || status.Agents[1].Status.Version != "v1.2.3" {
		t.Errorf("status: %+v", status)
	}
	var pods struct{ Pods []inspect.Pod }
	if read(&pods, "pods", "--all"); len(pods.Pods) != 4 {
		t.Errorf("pods: %+v", pods)
	}
	var conns struct {
		Connections []struct {
			inspect.Connection
			SentPerSecond float64
		}
		Errors []silence
	}
	if read(&conns, "connections"); len(conns.Connections) != 1 || conns.Connections[0].Security != inspect.MutualTLS || conns.Errors == nil {
		t.Errorf("connections: %+v", conns)
	}
	if read(&conns, "connections", "--watch", "--rounds", "1"); len(conns.Connections) != 1 {
		t.Errorf("a round of a watch: %+v", conns)
	}
	var e inspect.Explanation
	if read(&e, "why", "shop/client", "10.96.0.1"); e.Verdict != inspect.Connects || e.Legs[0].Hops[0].Inbound.AnsweredBy != "b" {
		t.Errorf("why: %+v", e)
	}
}
