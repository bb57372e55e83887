package report

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/agent/proxy"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// golden compares what write writes at 80 and 120 columns, and at any width,
// with files.
func golden(t *testing.T, name string, write func(w io.Writer, width int)) {
	t.Helper()
	for _, width := range []int{0, 80, 120} {
		var got bytes.Buffer
		write(&got, width)
		var again bytes.Buffer
		if write(&again, width); !bytes.Equal(got.Bytes(), again.Bytes()) {
			t.Errorf("%s at %d columns: the same facts are told in two ways", name, width)
		}
		path := filepath.Join("testdata", fmt.Sprintf("%s-%d.txt", name, width))
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
		for line := range strings.Lines(got.String()) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); width > 0 && n > width {
				t.Errorf("%s: a line of %d characters: %s", path, n, line)
			}
			if strings.TrimRight(line, " ") != line || strings.Contains(line, "\x1b") {
				t.Errorf("%s: spaces at the end, or an escape: %q", path, line)
			}
		}
	}
}

func id(sa string) string { return "spiffe://cluster.local/ns/shop/sa/" + sa }

func certificate(sa string, left time.Duration) inspect.Certificate {
	return inspect.Certificate{Identity: id(sa), Serial: "4f2a91", NotBefore: noon.Add(-time.Hour), NotAfter: noon.Add(left), Pods: 1}
}

func statuses() []From[inspect.Status] {
	a := inspect.Status{
		Info: inspect.Info{
			Version: "v0.3.1", Node: "node-a", Started: noon.Add(-26 * time.Hour), Ready: true,
			World: inspect.World{Source: "kubernetes", Synced: true, Changed: noon.Add(-3 * time.Second), Contact: noon.Add(-time.Second)},
		},
		Now:        noon,
		Pods:       inspect.PodCounts{Enrolled: 12, Serving: 12, Unenrolled: 5, Connections: 240},
		Unenrolled: nil, Certificates: []inspect.Certificate{certificate("client", 11*time.Hour+59*time.Minute), certificate("server", 23*time.Hour)},
	}
	for _, name := range []string{"coredns-1", "coredns-2", "kube-proxy-a", "metrics-server-7d4f"} {
		a.Unenrolled = append(a.Unenrolled, inspect.Unenrolled{Namespace: "kube-system", Name: name, Reason: "no label istio.io/dataplane-mode=ambient on the pod or its namespace"})
	}
	a.Unenrolled = append(a.Unenrolled, inspect.Unenrolled{Namespace: "shop", Name: "node-exporter-x", Reason: "hostNetwork"})
	b := inspect.Status{
		Info: inspect.Info{
			Version: "v0.3.0", Node: "node-b", Started: noon.Add(-90 * time.Second),
			Readiness: []string{"pending: pod Kubernetes//Pod/shop/server-6c9: no certificate for spiffe://cluster.local/ns/shop/sa/server: the CA is unreachable: dial adit-ca.adit-system.svc:15012: connection refused"},
			World: inspect.World{
				Source: "kubernetes", Synced: true, Error: "Get https://10.96.0.1: connection refused", Contact: noon.Add(-4 * time.Minute),
				Kinds: []inspect.Kind{{Name: "Pod", Seen: true}, {Name: "AuthorizationPolicy.security.istio.io", Reason: "the cluster has no such kind; make crds installs it"}},
			},
		},
		Now:  noon,
		Pods: inspect.PodCounts{Enrolled: 3, Serving: 2},
		Failing: []inspect.Pod{{
			Namespace: "shop", Name: "server-6c9f8d7b5-x2x9z", Enrolled: true, State: "retrying", Since: noon.Add(-42 * time.Second),
			Error: "enter /proc/4711/ns/net: no such file or directory",
		}},
		Certificates: []inspect.Certificate{
			{Identity: id("server"), LastError: "the CA is unreachable: dial adit-ca.adit-system.svc:15012: connection refused", Failures: 7, NextAttempt: noon.Add(12 * time.Second)},
			func() inspect.Certificate {
				c := certificate("worker", 20*time.Minute)
				c.LastError, c.NextAttempt = "the CA is unreachable: connection refused", noon.Add(time.Minute)
				return c
			}(),
		},
	}
	return []From[inspect.Status]{
		{Node: "node-a", Agent: "adit-agent-1", Value: a},
		{Node: "node-b", Agent: "adit-agent-2", Value: b},
		{Node: "node-c", Agent: "adit-agent-3", Err: errors.New("port-forward through the API server: pods \"adit-agent-3\" is forbidden")},
	}
}

func TestStatus(t *testing.T) {
	golden(t, "status", func(w io.Writer, width int) { Status(w, width, statuses()) })
}

// With nothing wrong there is little to read.
func TestStatusOfAGoodDay(t *testing.T) {
	agents := statuses()[:1]
	agents[0].Value.Unenrolled = nil
	golden(t, "status-well", func(w io.Writer, width int) { Status(w, width, agents) })
}

func somePods() []From[[]inspect.Pod] {
	valid, none := certificate("client", 11*time.Hour), inspect.Certificate{Identity: id("server"), LastError: "the CA is away"}
	return []From[[]inspect.Pod]{
		{Node: "node-a", Agent: "adit-agent-1", Value: []inspect.Pod{
			{Namespace: "kube-system", Name: "coredns-5d78c9869d-abcde", Node: "node-a", Reason: "namespace kube-system is excluded"},
			{Namespace: "shop", Name: "client-7d9f8b6c4d-k2l9p", Node: "node-a", Enrolled: true, State: "serving", Identity: id("client"), Certificate: &valid,
				Connections: 12, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("fd00:10:244:1::2")}},
		}},
		{Node: "node-b", Agent: "adit-agent-2", Value: []inspect.Pod{
			{Namespace: "shop", Name: "server-0", Node: "node-b", Enrolled: true, State: "retrying", Identity: id("server"), Certificate: &none,
				Error: "enter /proc/4711/ns/net: no such file or directory", Addresses: []netip.Addr{netip.MustParseAddr("10.244.2.2")}},
		}},
		{Node: "node-c", Agent: "adit-agent-3", Err: errors.New("its pod is Pending: 0/3 nodes are available")},
	}
}

func TestPods(t *testing.T) {
	golden(t, "pods", func(w io.Writer, width int) { Pods(w, width, noon, somePods(), false) })
	golden(t, "pods-all", func(w io.Writer, width int) { Pods(w, width, noon, somePods(), true) })
}

func TestPodsOfNobody(t *testing.T) {
	var b bytes.Buffer
	Pods(&b, 80, noon, []From[[]inspect.Pod]{{Node: "node-a"}}, false)
	if !strings.Contains(b.String(), "kubectl label namespace") {
		t.Errorf("no pod is enrolled, and nobody says how to: %q", b.String())
	}
}

func connection(change func(*inspect.Connection)) inspect.Connection {
	c := inspect.Connection{
		ConnInfo: proxy.ConnInfo{
			ID: 1, Direction: "outbound", Mode: "hbone", Phase: proxy.PhaseOpen, Opened: noon.Add(-95 * time.Second),
			Source: netip.MustParseAddrPort("10.244.1.2:41022"), Destination: netip.MustParseAddrPort("10.96.0.10:8080"),
			SourceID: id("client"), DestID: id("server"), Service: "shop/server.shop.svc.cluster.local", Sent: 1536, Received: 5 << 20,
		},
		Node: "node-a", SourcePod: "shop/client-7d9f8b6c4d-k2l9p", DestinationPod: "shop/server-0", Security: inspect.MutualTLS,
	}
	if change != nil {
		change(&c)
	}
	return c
}

func someConnections() []inspect.Connection {
	return []inspect.Connection{
		connection(func(c *inspect.Connection) {
			c.ID, c.Direction, c.Node, c.Destination = 9, "inbound", "node-b", netip.MustParseAddrPort("10.244.2.2:8080")
		}),
		connection(nil),
		connection(func(c *inspect.Connection) {
			c.ID, c.Mode, c.Security, c.DestID, c.Service, c.DestinationPod = 2, "passthrough", inspect.Plaintext, "", "", ""
			c.Destination = netip.MustParseAddrPort("203.0.113.7:443")
		}),
		connection(func(c *inspect.Connection) {
			c.ID, c.Phase, c.Security, c.DestinationPod, c.Sent, c.Received = 3, proxy.PhaseDialing, "", "", 0, 0
			c.Opened = noon.Add(-time.Second)
		}),
		connection(func(c *inspect.Connection) {
			c.ID, c.Direction, c.Mode, c.Security, c.SourceID, c.SourcePod = 10, "inbound", "tcp", inspect.Plaintext, "", ""
			c.Node, c.Source = "node-b", netip.MustParseAddrPort("[2001:db8::7]:50000")
		}),
		connection(func(c *inspect.Connection) {
			c.ID, c.Mode, c.Security, c.DestinationPod, c.DestID = 4, "local", inspect.SameNode, "shop/cache-0", id("cache")
			c.Opened = noon.Add(-50 * time.Hour)
		}),
	}
}

func TestConnections(t *testing.T) {
	golden(t, "connections", func(w io.Writer, width int) { Connections(w, width, 0, noon, someConnections(), nil) })
}

func TestConnectionsWatched(t *testing.T) {
	golden(t, "connections-watch", func(w io.Writer, width int) {
		var rates Rates
		before, after := someConnections(), someConnections()
		rates.Look(noon.Add(-2*time.Second), before)
		for i := range after {
			after[i].Sent += int64(i) << 12
			after[i].Received += int64(i) << 22
		}
		after[0].Opened = noon.Add(-time.Second) // by an agent that was restarted
		Connections(w, width, 4, noon, after, rates.Look(noon, after))
	})
}

func TestWhy(t *testing.T) {
	client := certificate("client", 11*time.Hour)
	server := certificate("server", 23*time.Hour)
	e := inspect.Explanation{
		Src: "shop/client", Dst: "shop/server:8080", AnsweredBy: "node-a", Destination: netip.MustParseAddrPort("10.96.0.10:8080"),
		Source: inspect.Party{
			Pod: "shop/client-7d9f8b6c4d-k2l9p", Address: netip.MustParseAddr("10.244.1.2"), Node: "node-a", Identity: id("client"),
			Captured: true, Capture: "the agent captures it", Certificate: &client,
		},
		Notes: []string{"shop/client is no pod; this is the first of its 2: shop/client-7d9f8b6c4d-k2l9p"},
	}
	hop := func(name, ip string, in *inspect.Inbound) inspect.Hop {
		return inspect.Hop{
			To:   inspect.Party{Pod: "shop/" + name, Address: netip.MustParseAddr(ip), Node: "node-b", Identity: id("server"), Captured: true},
			Mode: "hbone", Dial: netip.AddrPortFrom(netip.MustParseAddr(ip), 15008), Authority: ip + ":8080", Expect: []string{id("server")},
			Inbound: in,
		}
	}
	e.Legs = []inspect.Leg{{
		From: e.Source, Route: "mesh", Service: "shop/server.shop.svc.cluster.local", Endpoints: 5,
		Hops: []inspect.Hop{
			hop("server-0", "10.244.2.2", &inspect.Inbound{
				AnsweredBy: "node-b", Local: true, Identity: id("server"), Captured: true, Certificate: &server, Allowed: true,
				Policy: "shop/allow-client", Reason: "allowed by policy shop/allow-client, rule 1", Status: 200,
				DryRun: []inspect.DryRun{{Policy: "shop/stricter", Action: "DENY", Matched: true, Reason: "dry run: would be denied by policy shop/stricter, rule 1"}},
			}),
			hop("server-1", "10.244.2.3", &inspect.Inbound{
				AnsweredBy: "node-a", Error: "there is no agent of node node-b to ask", Identity: id("server"), Captured: true,
				Reason: "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/client to port 8080; tried shop/allow-somebody", Status: 401,
			}),
		},
	}}
	e.Conclude()
	golden(t, "why", func(w io.Writer, width int) { Why(w, width, noon, &e) })

	bare := inspect.Explanation{
		Src: "192.0.2.7", Dst: "shop/server-0:8080", Destination: netip.MustParseAddrPort("10.244.2.2:8080"),
		Source: inspect.Party{Address: netip.MustParseAddr("192.0.2.7"), Capture: "nothing is known of this address: a node, or outside of the mesh"},
	}
	bare.Legs = []inspect.Leg{{From: bare.Source, Route: inspect.RouteUncaptured, Hops: []inspect.Hop{{
		To:   inspect.Party{Pod: "shop/server-0", Address: netip.MustParseAddr("10.244.2.2"), Node: "node-b", Captured: true},
		Mode: "tcp", Dial: netip.MustParseAddrPort("10.244.2.2:8080"),
		Inbound: &inspect.Inbound{AnsweredBy: "node-b", Local: true, Captured: true, Policy: "shop/strict", Reason: "denied by policy shop/strict, rule 1", Status: 401},
	}}}}
	bare.Conclude()
	golden(t, "why-plaintext", func(w io.Writer, width int) { Why(w, width, noon, &bare) })
}

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 125 * time.Second: "2m5s",
		11 * time.Minute: "11m", 179 * time.Minute: "179m", 3 * time.Hour: "3h", 47 * time.Hour: "47h", 49 * time.Hour: "2d",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %s, want %s", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 999: "999", 1000: "1.0Ki", 1536: "1.5Ki", 100 << 10: "100Ki", 1000 << 10: "1.0Mi", 5 << 30: "5.0Gi", 1 << 62: "4096Pi",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestIdentities(t *testing.T) {
	var one, two identities
	one.add(id("client"))
	two.add(id("client"))
	two.add("spiffe://other.example/ns/shop/sa/client")
	for _, tt := range []struct {
		names *identities
		id    string
		want  string
	}{
		{&one, id("client"), "shop/client"},
		{&two, id("client"), "cluster.local/shop/client"},
		{&one, "spiffe://cluster.local/else", "spiffe://cluster.local/else"},
		{&one, "", ""},
	} {
		if got := tt.names.short(tt.id); got != tt.want {
			t.Errorf("short(%q) = %q, want %q", tt.id, got, tt.want)
		}
	}
}
