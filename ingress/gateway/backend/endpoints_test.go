package backend

import (
	"fmt"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/ingress/upstream"
)

func TestEndpoints(t *testing.T) {
	const web = `
kind: Service
metadata: {name: web}
spec: {ports: [{name: http, port: 80, targetPort: web}], ipFamilies: [IPv4]}
`
	slice := func(name, kind, ports, endpoints string) string {
		return fmt.Sprintf(`
---
kind: EndpointSlice
metadata: {name: %s, labels: {kubernetes.io/service-name: web}}
addressType: %s
ports: %s
endpoints: %s
`, name, kind, ports, endpoints)
	}
	const http = `[{name: http, port: 8080}]`
	ready := slice("a", "IPv4", http, `[{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: true}}]`)

	for _, tt := range []struct {
		name    string
		docs    string
		options Options
		want    string
	}{
		{name: "none", docs: web},
		{name: "unknown readiness is ready", docs: web + ready, want: "10.0.0.1:8080 10.0.0.2:8080"},
		{name: "a named target port is another number in each slice",
			docs: web + ready + slice("b", "IPv4", `[{name: http, port: 9090}, {name: metrics, port: 9100}]`, `[{addresses: [10.0.0.3]}]`),
			want: "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:9090"},
		{name: "other ports are not this one", docs: web + slice("a", "IPv4", `[{name: metrics, port: 9100}, {port: 8080}]`, `[{addresses: [10.0.0.1]}]`)},
		{name: "nor is that of another protocol", docs: web + slice("a", "IPv4", `[{name: http, port: 8080, protocol: UDP}]`, `[{addresses: [10.0.0.1]}]`)},
		{name: "unnamed ports", docs: `
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
` + slice("a", "IPv4", `[{port: 8080}]`, `[{addresses: [10.0.0.1]}]`), want: "10.0.0.1:8080"},
		{name: "a slice for any port takes that of the Service", docs: `
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, targetPort: 8081}]}
` + slice("a", "IPv4", `[{name: ""}]`, `[{addresses: [10.0.0.1]}]`), want: "10.0.0.1:8081"},
		{name: "headless", docs: strings.Replace(web, "{ports", "{clusterIP: None, ports", 1) + ready, want: "10.0.0.1:8080 10.0.0.2:8080"},
		{name: "the ready before the rest",
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.0.0.2]}]`),
			want: "10.0.0.2:8080"},
		{name: "nobody is ready: those who serve to their end",
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}},
  {addresses: [10.0.0.2], conditions: {ready: false, serving: false, terminating: true}},
  {addresses: [10.0.0.3], conditions: {ready: false, serving: true}}]`),
			want: "10.0.0.1:8080"},
		{name: "not ready is nobody", docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], conditions: {ready: false}}]`)},
		{name: "unless the Service publishes them",
			docs: strings.Replace(web, "{ports", "{publishNotReadyAddresses: true, ports", 1) + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], conditions: {ready: false, serving: false}}]`),
			want: "10.0.0.1:8080"},
		{name: "dual stack: the Service's first family",
			docs: strings.Replace(web, "[IPv4]", "[IPv6, IPv4]", 1) + ready + slice("b", "IPv6", http, `[{addresses: ["fd00::1"]}]`),
			want: "[fd00::1]:8080"},
		{name: "dual stack: IPv4 if it does not say",
			docs: strings.Replace(web, ", ipFamilies: [IPv4]", "", 1) + ready + slice("b", "IPv6", http, `[{addresses: ["fd00::1"]}]`),
			want: "10.0.0.1:8080 10.0.0.2:8080"},
		{name: "dual stack: the other family if the first has nobody ready",
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}]`) + slice("b", "IPv6", http, `[{addresses: ["fd00::1"]}]`),
			want: "[fd00::1]:8080"},
		{name: "manual slices of both families, one without endpoints",
			docs: strings.Replace(web, ", ipFamilies: [IPv4]", "", 1) + slice("a", "IPv4", http, `[]`) + slice("b", "IPv6", http, `[{addresses: ["fd00::1"]}]`),
			want: "[fd00::1]:8080"},
		{name: "names", docs: web + slice("a", "FQDN", http, `[{addresses: [b.example.com, ignored.example.com]}, {addresses: [a.example.com]}]`),
			want: "a.example.com:8080 b.example.com:8080"},
		{name: "an endpoint that moves stands in two slices",
			docs: web + ready + slice("b", "IPv4", http, `[{addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}]`),
			want: "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080"},
		{name: "nonsense is left out",
			docs: web + slice("a", "IPv4", http, `[{addresses: []}, {addresses: [web]}, {addresses: ["fd00::1"]}, {addresses: [10.0.0.1]}]`) +
				slice("b", "IPv4", `[{name: http, port: 0}]`, `[{addresses: [10.0.0.9]}]`) + slice("c", "Smoke", http, `[{addresses: [10.0.0.8]}]`),
			want: "10.0.0.1:8080"},
		{name: "hints of this zone", options: Options{Zone: "a"},
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], zone: a, hints: {forZones: [{name: a}]}}, {addresses: [10.0.0.2], zone: b, hints: {forZones: [{name: b}]}}]`),
			want: "10.0.0.1:8080@a"},
		{name: "hints of this node before those of the zone", options: Options{Zone: "a", Node: "n1"},
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], nodeName: n1, hints: {forZones: [{name: a}], forNodes: [{name: n1}]}}, {addresses: [10.0.0.2], nodeName: n2, hints: {forZones: [{name: a}], forNodes: [{name: n2}]}}]`),
			want: "10.0.0.1:8080@/n1"},
		{name: "hints that not all have do not count", options: Options{Zone: "a"},
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], hints: {forZones: [{name: a}]}}, {addresses: [10.0.0.2]}]`),
			want: "10.0.0.1:8080 10.0.0.2:8080"},
		{name: "nor where the Service says how near: farther ones may be needed", options: Options{Zone: "a"},
			docs: strings.Replace(web, "{ports", "{trafficDistribution: PreferSameZone, ports", 1) +
				slice("a", "IPv4", http, `[{addresses: [10.0.0.1], zone: a, hints: {forZones: [{name: a}]}}, {addresses: [10.0.0.2], zone: b, hints: {forZones: [{name: b}]}}]`),
			want: "10.0.0.1:8080@a 10.0.0.2:8080@b"},
		{name: "nor do those of other zones only", options: Options{Zone: "c"},
			docs: web + slice("a", "IPv4", http, `[{addresses: [10.0.0.1], hints: {forZones: [{name: a}]}}]`),
			want: "10.0.0.1:8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := NewIndex(tt.options)
			load(t, x, tt.docs)
			got, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", 80))
			if p != nil {
				t.Fatal(p)
			}
			var eps []string
			for _, e := range x.Cluster(got.Cluster).Endpoints {
				s := e.Addr.String()
				if e.Host != "" {
					s = fmt.Sprintf("%s:%d", e.Host, e.Port)
				}
				if e.Zone != "" || e.Node != "" {
					s += "@" + e.Zone
				}
				if e.Node != "" {
					s += "/" + e.Node
				}
				eps = append(eps, s)
			}
			if s := strings.Join(eps, " "); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
		})
	}
}

func TestLocality(t *testing.T) {
	for distribution, want := range map[string]upstream.Locality{
		"": upstream.Anywhere, "PreferClose": upstream.SameZone, "PreferSameZone": upstream.SameZone, "PreferSameNode": upstream.SameNode, "Other": upstream.Anywhere,
	} {
		x := NewIndex(Options{})
		field := ""
		if distribution != "" {
			field = "trafficDistribution: " + distribution + ", "
		}
		load(t, x, "kind: Service\nmetadata: {name: web}\nspec: {"+field+"ports: [{port: 80}]}")
		got, _ := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", 80))
		if c := x.Cluster(got.Cluster); c.Locality != want {
			t.Errorf("%q: locality %v, want %v", distribution, c.Locality, want)
		}
	}
}
