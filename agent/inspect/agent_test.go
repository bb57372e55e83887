package inspect

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
)

// serve answers on a real socket.
func serve(t *testing.T, a *Agent) (get func(path string, v any) int) {
	t.Helper()
	mux := http.NewServeMux()
	a.Register(mux)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return func(path string, v any) int {
		t.Helper()
		resp, err := server.Client().Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, v); err != nil {
			t.Fatalf("GET %s: %v in %s", path, err, body)
		}
		return resp.StatusCode
	}
}

func TestStatus(t *testing.T) {
	var s Status
	serve(t, agentOf(t))("/status", &s)
	if want := (PodCounts{Enrolled: 4, Serving: 3, Unenrolled: 1}); s.Pods != want {
		t.Errorf("pods %+v, want %+v", s.Pods, want)
	}
	if len(s.Failing) != 1 || s.Failing[0].Name != "stuck" || s.Failing[0].Error != "its network namespace is gone" {
		t.Errorf("failing: %+v; want the one that is stuck, and why", s.Failing)
	}
	if len(s.Unenrolled) != 1 || s.Unenrolled[0].Reason != "no label" {
		t.Errorf("unenrolled: %+v", s.Unenrolled)
	}
	if s.World.Workloads != 17 || s.World.Services != 10 || s.World.Policies != 5 {
		t.Errorf("world: %+v; want what the store has", s.World)
	}
	var problems []string
	for _, c := range s.Certificates {
		problems = append(problems, c.Problem(s.Now))
	}
	if want := []string{"", "", "no certificate yet: the CA is away"}; !cmp.Equal(problems, want) {
		t.Errorf("problems of certificates: %q, want %q", problems, want)
	}
}

func TestCertificateExpires(t *testing.T) {
	c := certificateOf(certified("client"))
	if problem := c.Problem(c.NotAfter.Add(-time.Nanosecond)); problem != "" {
		t.Errorf("just before its end: %s", problem)
	}
	if problem := c.Problem(c.NotAfter); problem != "the certificate expired at 2030-06-01T23:00:00Z" {
		t.Errorf("at its end: %q", problem)
	}
}

func TestPods(t *testing.T) {
	var pods []Pod
	serve(t, agentOf(t))("/pods", &pods)
	byName := map[string]Pod{}
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
		byName[p.Name] = p
	}
	if want := []string{"bare", "client", "near", "stuck", "uncertified"}; !cmp.Equal(names, want) {
		t.Fatalf("pods %v, want %v", names, want)
	}
	client, bare := byName["client"], byName["bare"]
	if !client.Enrolled || client.Certificate == nil || client.Certificate.Serial != "5eed" || client.Addresses[0].String() != "10.1.0.1" {
		t.Errorf("client: %+v", client)
	}
	if bare.Enrolled || bare.Reason != "no label" || bare.Addresses[0].String() != "10.1.0.3" {
		t.Errorf("bare: %+v", bare)
	}
}

// A pod that has left the store is listed by the names in its uid.
func TestPodThatTheWorldHasForgotten(t *testing.T) {
	a := &Agent{Store: mesh.NewStore(), Pods: func() []Captured {
		return []Captured{{UID: "Kubernetes//Pod/shop/gone", State: "draining"}, {UID: "odd", State: "draining"}}
	}}
	pods := a.ListPods()
	if len(pods) != 2 || pods[0].Name != "odd" || pods[1].Namespace != "shop" || pods[1].Name != "gone" {
		t.Errorf("pods: %+v", pods)
	}
}

func TestConnections(t *testing.T) {
	a := agentOf(t)
	open := func(id uint64, direction, mode, pod, src, dst, hbone string) proxy.ConnInfo {
		return proxy.ConnInfo{
			ID: id, Direction: direction, Mode: mode, Phase: proxy.PhaseOpen, Pod: "Kubernetes//Pod/shop/" + pod,
			Source: netip.MustParseAddrPort(src), Destination: netip.MustParseAddrPort(dst), HBONE: hbone,
		}
	}
	deciding := open(6, "outbound", "passthrough", "client", "10.1.0.1:40006", "10.96.0.2:80", "")
	deciding.Phase = proxy.PhaseDeciding
	a.Connections = func() []proxy.ConnInfo {
		return []proxy.ConnInfo{
			open(1, "outbound", "hbone", "client", "10.1.0.1:40001", "10.96.0.2:80", "10.2.0.1:15008"),
			open(2, "inbound", "hbone", "near", "10.2.0.1:40002", "10.1.0.2:8080", "10.1.0.2:15008"),
			open(3, "outbound", "local", "client", "10.1.0.1:40003", "10.1.0.2:8080", ""),
			open(4, "inbound", "tcp", "near", "192.0.2.1:40004", "10.1.0.2:8080", ""),
			open(5, "outbound", "passthrough", "client", "10.1.0.1:40005", "203.0.113.1:443", ""),
			deciding,
		}
	}
	var got []Connection
	serve(t, a)("/connections", &got)
	type short struct {
		ID       uint64
		From, To string
		Security Security
	}
	var shown []short
	for _, c := range got {
		shown = append(shown, short{c.ID, c.SourcePod, c.DestinationPod, c.Security})
	}
	want := []short{
		{1, "shop/client", "shop/open-1", MutualTLS},
		{2, "shop/open-1", "shop/near", MutualTLS},
		{3, "shop/client", "shop/near", SameNode},
		{4, "", "shop/near", Plaintext},
		{5, "shop/client", "", Plaintext},
		{6, "shop/client", "", ""},
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("connections (-want +got):\n%s", diff)
	}
}

func TestWhyOverHTTP(t *testing.T) {
	a := agentOf(t)
	get := serve(t, a)
	want, err := a.Explain("shop/client", "shop/allowed")
	if err != nil {
		t.Fatal(err)
	}
	var got Explanation
	if status := get("/why?src=shop/client&dst=shop/allowed", &got); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	addr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	addrPort := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if diff := cmp.Diff(want, got, addr, addrPort); diff != "" {
		t.Errorf("an explanation is another after its way through JSON (-want +got):\n%s", diff)
	}

	var in Inbound
	get("/why?"+want.Legs[0].Hops[0].Arrival.Query().Encode(), &in)
	if diff := cmp.Diff(*want.Legs[0].Hops[0].Inbound, in, addr, addrPort); diff != "" {
		t.Errorf("the arrival is answered otherwise when asked for by itself (-want +got):\n%s", diff)
	}

	for path, status := range map[string]int{
		"/why":                               http.StatusBadRequest,
		"/why?src=shop/client&dst=nonsense:": http.StatusBadRequest,
		"/why?src=shop/nobody-at-all&dst=shop/allowed":     http.StatusNotFound,
		"/why?pod=x&mode=hbone&from=10.0.0.1":              http.StatusBadRequest,
		"/why?pod=x&mode=smoke&from=10.0.0.1":              http.StatusBadRequest,
		"/why?pod=x&mode=tcp&from=1&to=2":                  http.StatusBadRequest,
		"/why?pod=x&mode=tcp&from=::1&to=[::1]:1&peer=me":  http.StatusBadRequest,
		"/why?pod=x&mode=tcp&from=10.0.0.1&to=10.0.0.2:80": http.StatusOK, // of which nothing is known: refused
	} {
		var refusal InputError
		if got := get(path, &refusal); got != status || status != http.StatusOK && refusal.Message == "" {
			t.Errorf("GET %s: %d with message %q, want %d with one", path, got, refusal.Message, status)
		}
	}
}

func TestReceiveRefusesForUnknownPods(t *testing.T) {
	in := agentOf(t).Receive(Arrival{Pod: "nobody", Mode: "tcp"})
	if in.Allowed || in.Reason == "" {
		t.Errorf("arrival at a pod of which nothing is known: %+v", in)
	}
}

// A tunnel is for a pod's own addresses, as in the proxy.
func TestReceiveChecksTheAuthority(t *testing.T) {
	arrival := Arrival{
		Pod: "Kubernetes//Pod/shop/near", Mode: "hbone", Peer: "spiffe://cluster.local/ns/shop/sa/client",
		Source: netip.MustParseAddr("10.1.0.1"), Local: netip.MustParseAddr("10.1.0.2"), Authority: "10.1.0.9:8080",
	}
	in := agentOf(t).Receive(arrival)
	if in.Allowed || in.Status != http.StatusBadRequest {
		t.Errorf("tunnel for another pod's address: %+v; want 400", in)
	}
	arrival.Authority, arrival.Peer = "10.1.0.2:8080", "spiffe://elsewhere.example/ns/shop/sa/client"
	if in := agentOf(t).Receive(arrival); in.Problem == "" {
		t.Errorf("peer of a foreign trust domain: %+v; want a problem", in)
	}
}

func FuzzWhy(f *testing.F) {
	f.Add("shop/client", "shop/open:80", "pod=x&mode=hbone&from=10.0.0.1&local=10.0.0.2&authority=10.0.0.2:80")
	f.Add("10.1.0.1", "[::1]:80", "pod=x&mode=tcp&from=::1&to=[::1]:80&peer=spiffe://a/b")
	f.Add("svc/shop/open", "open.shop.", "")
	var a *Agent
	f.Fuzz(func(t *testing.T, src, dst, query string) {
		if a == nil {
			a = agentOf(t)
		}
		if e, err := a.Explain(src, dst); err == nil {
			if e.Verdict == "" || len(e.Legs) == 0 || e.Because == "" {
				t.Errorf("%q -> %q: an explanation that explains nothing: %+v", src, dst, e)
			}
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		arrival, err := ParseArrival(q)
		if err != nil {
			return
		}
		again, err := ParseArrival(arrival.Query())
		if err != nil || again != arrival && arrival.Mode != "tcp" {
			t.Errorf("%q: %+v is read back as %+v, %v", query, arrival, again, err)
		}
		_ = a.Receive(arrival)
	})
}
