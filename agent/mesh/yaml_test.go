package mesh

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/adit-mesh/adit/agent/policy"
)

// The place and the words of every mistake, as an operator reads them.
func TestParseFileMistakes(t *testing.T) {
	workload := func(fields string) string {
		return "workloads:\n- uid: a\n  namespace: n\n  workloadIps: [10.0.0.1]\n" + fields
	}
	service := func(fields string) string {
		return "services:\n- name: a\n  namespace: n\n  hostname: a.n\n" + fields
	}
	match := func(fields string) string {
		return "policies:\n- {name: p, namespace: n, scope: Global, action: Deny, rules: [[[\n" + fields + "\n]]]}\n"
	}
	tests := []struct {
		why, yaml string
		want      []string // after "w.yaml:"
	}{
		{"nothing", "", []string{" the file is empty; an empty world is written as workloads: []"}},
		{"comments only", "# nothing\n", []string{" the file is empty; an empty world is written as workloads: []"}},
		{"not YAML", "workloads: [1\nservices: 2", []string{"2:1: not YAML: ',' or ']' must be specified"}},
		{"a tab", "workloads:\n\t- a", []string{"2:1: not YAML: a tab cannot indent; use spaces"}},
		{"two documents", "workloads: []\n---\nworkloads: []\n", []string{"3:1: second YAML document; put everything into one"}},
		{"not a mapping", "- a\n", []string{`1:1: is a list; want key: value pairs`}},
		{"unknown key", "workload: []\n", []string{"1:1: workload: unknown key; did you mean workloads?"}},
		{"unknown key, far from any", "foobar: []\n", []string{"1:1: foobar: unknown key; known here: workloads, services, policies"}},
		{"duplicate key", "workloads: []\nworkloads: []\n", []string{"2:1: workloads: duplicate key, first on line 1; remove one of the two"}},
		{"wrong type", "workloads: {}\n", []string{"1:12: workloads: is a mapping; want a list"}},
		{"item of the wrong type", "workloads: [x]\n", []string{
			`1:13: workloads[0]: is the text "x"; want key: value pairs`,
			`1:13: workloads[0]: namespace is missing; add it`}},

		{"unknown field of a workload", workload("  adress: 10.0.0.2\n"), []string{"5:3: workloads[0].adress: unknown key; known here: " + strings.Join(workloadFields, ", ")}},
		{"a field in snake case", workload("  service_account: x\n"), []string{"5:3: workloads[0].service_account: unknown key; did you mean serviceAccount?"}},
		{"number for text", workload("  node: 7\n"), []string{"5:9: workloads[0].node: is the number 7; want text, put it in quotes"}},
		{"boolean for text", workload("  name: true\n"), []string{"5:9: workloads[0].name: is the boolean true; want text, put it in quotes"}},
		{"nothing for text", workload("  name:\n"), []string{`5:9: workloads[0].name: has no value; write "" or leave the key out`}},
		{"list for text", workload("  name: [a]\n"), []string{"5:9: workloads[0].name: is a list; want text"}},
		{"text for a boolean", workload("  nativeTunnel: maybe\n"), []string{`5:17: workloads[0].nativeTunnel: is the text "maybe"; want true or false`}},
		{"text for a number", workload("  capacity: much\n"), []string{`5:13: workloads[0].capacity: is the text "much"; want a number`}},
		{"negative number", workload("  capacity: -1\n"), []string{"5:13: workloads[0].capacity: is -1; want a number from 0 to 4294967295"}},
		{"huge number", workload("  capacity: 4294967296\n"), []string{"5:13: workloads[0].capacity: is 4294967296; want a number from 0 to 4294967295"}},
		{"fraction", workload("  capacity: 1.5\n"), []string{"5:13: workloads[0].capacity: is the number 1.5; want a number"}},
		{"unknown enum", workload("  protocol: HBNE\n"), []string{`5:13: workloads[0].protocol: "HBNE" is unknown; want one of TCP, HBONE, NONE`}},
		{"unknown status", workload("  status: sick\n"), []string{`5:11: workloads[0].status: "sick" is unknown; want one of Healthy, Unhealthy`}},
		{"no namespace", "workloads:\n- {uid: a}\n", []string{"2:3: workloads[0]: namespace is missing; add it"}},
		{"no uid and no name", "workloads:\n- {namespace: n, workloadIps: [10.0.0.1]}\n", []string{"2:3: workloads[0]: neither uid nor name; add a uid, by convention cluster//Pod/namespace/name"}},
		{"no address", "workloads:\n- {uid: a, namespace: n}\n", []string{"2:3: workloads[0]: no address; add workloadIps: [...]"}},
		{"bad address", "workloads:\n- {uid: a, namespace: n, workloadIps: [10.0.0.256]}\n", []string{`2:40: workloads[0].workloadIps[0]: "10.0.0.256" is not an IP address; write it like 10.0.0.1 or fd00::1`}},
		{"address with a length", "workloads:\n- {uid: a, namespace: n, workloadIp: 10.0.0.1/24}\n", []string{`2:38: workloads[0].workloadIp: "10.0.0.1/24" is not an IP address; write it like 10.0.0.1 or fd00::1`}},
		{"unspecified address", "workloads:\n- {uid: a, namespace: n, workloadIps: ['::']}\n", []string{`2:40: workloads[0].workloadIps[0]: "::" is not an IP address; write it like 10.0.0.1 or fd00::1`}},
		{"address twice in a workload", workload("  workloadIp: 10.0.0.1\n"), []string{"5:15: workloads[0].workloadIp: address 10.0.0.1 is listed twice; remove one"}},
		{"address of another workload", workload("- {uid: b, namespace: n, workloadIps: [10.0.0.2, '::ffff:10.0.0.1']}\n"), []string{
			"5:50: workloads[1].workloadIps[1]: address /10.0.0.1 is already used on line 4; one address is one identity; pods of the host network have networkMode: HostNetwork"}},
		{"uid twice", workload("- {uid: a, namespace: n, workloadIps: [10.0.0.2]}\n"), []string{`5:9: workloads[1].uid: uid "a" is already used on line 2; give each workload its own`}},
		{"uid twice, by name", "workloads:\n- {name: a, namespace: n, workloadIps: [10.0.0.1]}\n- {name: a, namespace: n, workloadIps: [10.0.0.2]}\n", []string{
			`3:3: workloads[1]: uid "Kubernetes//Pod/n/a" is already used on line 2; give each workload its own`}},
		{"netns twice", workload("  netns: a\n- {uid: b, namespace: n, workloadIps: [10.0.0.2], netns: a}\n"), []string{
			`6:58: workloads[1].netns: netns "a" on node "" is already used on line 5; each pod has its own`}},
		{"no identity", workload("  serviceAccount: a b\n"), []string{
			`2:3: workloads[0]: trustDomain "cluster.local", namespace "n" and serviceAccount "a b" make no SPIFFE ID: path segment characters are limited to letters, numbers, dots, dashes, and underscores`}},
		{"service key without namespace", workload("  services: {web: {80: 80}}\n"), []string{`5:14: workloads[0].services.web: "web" is not namespace/hostname, the key of a service`}},
		{"bad service port", workload("  services:\n    n/web.example.com: {http: 80}\n"), []string{`6:25: workloads[0].services["n/web.example.com"].http: is the text "http"; want a number`}},
		{"service port out of range", workload("  services:\n    n/web: {70000: 80}\n"), []string{`6:13: workloads[0].services["n/web"].70000: is 70000; want a number from 1 to 65535`}},
		{"target port out of range", workload("  services:\n    n/web: {80: 0}\n"), []string{`6:17: workloads[0].services["n/web"].80: is 0; want a number from 1 to 65535`}},
		{"policy key without namespace", workload("  authorizationPolicies: [p]\n"), []string{`5:27: workloads[0].authorizationPolicies[0]: "p" is not a policy's namespace/name; write the namespace too`}},
		{"gateway without destination", workload("  waypoint: {hboneMtlsPort: 15008}\n"), []string{"5:13: workloads[0].waypoint: destination is missing; add it"}},
		{"gateway nowhere", workload("  waypoint: {destination: waypoint}\n"), []string{`5:27: workloads[0].waypoint.destination: "waypoint" is no destination; write namespace/hostname or network/address`}},
		{"gateway port", workload("  networkGateway: {destination: n/gw, hboneMtlsPort: 0}\n"), []string{"5:54: workloads[0].networkGateway.hboneMtlsPort: is 0; want a number from 1 to 65535"}},
		{"undefined alias", workload("  name: *x\n"), []string{"5:9: workloads[0].name: alias *x has no anchor &x; define it or write the value out", "5:9: workloads[0].name: has no value; write \"\" or leave the key out"}},
		{"merge key", "x: &x {uid: a}\nworkloads: [{<<: *x, namespace: n, workloadIps: [10.0.0.1]}]\n", []string{
			"1:1: x: unknown key; known here: workloads, services, policies",
			"2:13: workloads[0]: neither uid nor name; add a uid, by convention cluster//Pod/namespace/name",
			"2:14: workloads[0]: merge keys (<<) are not supported; write the keys out"}},

		{"service without hostname", "services:\n- {name: a, namespace: n}\n", []string{"2:3: services[0]: hostname is missing; add it"}},
		{"service twice", service("- {name: b, namespace: n, hostname: A.n}\n"), []string{`5:3: services[1]: service n/a.n is already used on line 2; write its fields once`}},
		{"VIP without a network", service("  vips: [10.1.0.1]\n"), []string{`5:10: services[0].vips[0]: "10.1.0.1" has no network; write /10.1.0.1, or the network's name before the slash`}},
		{"CIDR VIP without a network", service("  vips: [10.1.0.0/16]\n"), []string{`5:10: services[0].vips[0]: "10.1.0.0/16" has no network; write /10.1.0.0/16, or the network's name before the slash`}},
		{"bad VIP", service("  vips: [n/10.1.0]\n"), []string{`5:10: services[0].vips[0]: "n/10.1.0" is not a VIP; write network/address or network/address/length, the network may be empty: /10.1.0.1`}},
		{"bad VIP length", service("  vips: [n/10.1.0.0/33]\n"), []string{`5:10: services[0].vips[0]: "n/10.1.0.0/33" is not a VIP; write network/address or network/address/length, the network may be empty: /10.1.0.1`}},
		{"VIP with bits beyond its length", service("  vips: [n/10.1.0.7/24]\n"), []string{`5:10: services[0].vips[0]: "n/10.1.0.7/24" has bits beyond its length; write n/10.1.0.0/24`}},
		{"VIP of another service", service("  vips: [/10.1.0.1]\n- {name: b, namespace: n, hostname: b.n, vips: [/10.1.0.2, '/::ffff:10.1.0.1']}\n"), []string{
			"6:60: services[1].vips[1]: VIP /10.1.0.1 is already used on line 5; services must not overlap; give each its own address or range"}},
		{"range of another service", service("  vips: [/10.1.0.0/16]\n- {name: b, namespace: n, hostname: b.n, vips: [/10.1.0.0/16]}\n"), []string{
			"6:49: services[1].vips[0]: VIP /10.1.0.0/16 is already used on line 5; services must not overlap; give each its own address or range"}},
		{"bad port", service("  ports: {80: 65536}\n"), []string{"5:15: services[0].ports.80: is 65536; want a number from 0 to 65535"}},
		{"port twice", service("  ports: {80: 1, 80: 2}\n"), []string{"5:18: services[0].ports.80: duplicate key, first on line 5; remove one of the two"}},
		{"bad SPIFFE ID", service("  subjectAltNames: [web, 'spiffe://cluster.local/']\n"), []string{`5:26: services[0].subjectAltNames[1]: "spiffe://cluster.local/" is not a SPIFFE ID: path cannot have a trailing slash`}},
		{"unknown mode", service("  loadBalancer: {mode: Random}\n"), []string{`5:24: services[0].loadBalancer.mode: "Random" is unknown; want one of Standard, Strict, Failover, Passthrough, UnspecifiedMode`}},
		{"mode without scopes", service("  loadBalancer: {mode: STRICT}\n"), []string{"5:17: services[0].loadBalancer: mode Strict compares localities, but routingPreferences is empty; list scopes such as Region, Zone"}},
		{"endpoints are not written here", service("  endpoints: {}\n"), []string{"5:3: services[0].endpoints: unknown key; known here: " + strings.Join(serviceFields, ", ")}},

		{"policy without most", "policies:\n- {name: p}\n", []string{
			"2:3: policies[0]: namespace is missing; add it", "2:3: policies[0]: scope is missing; add it",
			"2:3: policies[0]: action is missing; add it", "2:3: policies[0]: rules is missing; add it"}},
		{"policy without a name", "policies:\n- {name: '', namespace: n, scope: Global, action: Deny, rules: []}\n", []string{"2:3: policies[0].name: is empty; decisions are reported under this name"}},
		{"policy name with a namespace", "policies:\n- {name: n/p, namespace: n, scope: Global, action: Deny, rules: []}\n", []string{`2:10: policies[0].name: "n/p" has a slash; the namespace goes into namespace`}},
		{"policy twice", "policies:\n- &p {name: p, namespace: n, scope: Global, action: Deny, rules: []}\n- *p\n", []string{"3:3: policies[1]: policy n/p is already used on line 2; give each policy its own name"}},
		{"unknown action", "policies:\n- {name: p, namespace: n, scope: Global, action: Audit, rules: []}\n", []string{`2:50: policies[0].action: "Audit" is unknown; want one of Allow, Deny`}},
		{"rules nested too little", "policies:\n- {name: p, namespace: n, scope: Global, action: Deny, rules: [{}]}\n", []string{"2:64: policies[0].rules[0]: is a mapping; want a list"}},
		{"unknown kind", match("{sourceIPs: []}"), []string{"3:2: policies[0].rules[0][0][0].sourceIPs: unknown key; did you mean sourceIps?"}},
		{"bad CIDR", match("{sourceIps: [10.0.0.0/33]}"), []string{`3:14: policies[0].rules[0][0][0].sourceIps[0]: "10.0.0.0/33" is not a CIDR; write it like 10.0.0.0/8 or fd00::/64`}},
		{"bad port in a match", match("{notDestinationPorts: [0]}"), []string{"3:24: policies[0].rules[0][0][0].notDestinationPorts[0]: is 0; want a number from 1 to 65535"}},
		{"bare string match", match("{principals: [cluster.local/ns/a/sa/b]}"), []string{`3:15: policies[0].rules[0][0][0].principals[0]: is the text "cluster.local/ns/a/sa/b", without a way to compare; write exact: value, prefix: value, suffix: value or presence: []`}},
		{"unknown comparison", match("{principals: [{regex: a}]}"), []string{`3:16: policies[0].rules[0][0][0].principals[0].regex: unknown comparison "regex"; write exact: value, prefix: value, suffix: value or presence: []`}},
		{"two comparisons", match("{principals: [{exact: a, prefix: b}]}"), []string{`3:15: policies[0].rules[0][0][0].principals[0]: has 2 keys; one match is one comparison: write exact: value, prefix: value, suffix: value or presence: []`}},
		{"empty comparison", match("{principals: [{exact: ''}]}"), []string{`3:23: policies[0].rules[0][0][0].principals[0].exact: compares with nothing; write exact: value, prefix: value, suffix: value or presence: []`}},
		{"presence of something", match("{principals: [{presence: [a]}]}"), []string{`3:26: policies[0].rules[0][0][0].principals[0].presence: presence takes no value; write presence: []`}},
		{"service account without namespace", match("{serviceAccounts: [{serviceAccount: a}]}"), []string{"3:20: policies[0].rules[0][0][0].serviceAccounts[0]: namespace is missing; add it"}},

		{"several mistakes, in the order of the file", "services: 1\nworkloads: 2\npolicies: 3\n", []string{
			"1:11: services: is the number 1; want a list", "2:12: workloads: is the number 2; want a list", "3:11: policies: is the number 3; want a list"}},
	}
	for _, tt := range tests {
		w, err := ParseFile("w.yaml", []byte(tt.yaml))
		if err == nil {
			t.Errorf("%s: accepted", tt.why)
			continue
		}
		if len(w.Workloads)+len(w.Services)+len(w.Policies) > 0 {
			t.Errorf("%s: a world came with the error", tt.why)
		}
		got := strings.Split(err.Error(), "\n")
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], "w.yaml:")
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.why, diff)
		}
	}
}

func TestParseFileReportsSomeOfManyMistakes(t *testing.T) {
	_, err := ParseFile("w.yaml", []byte("workloads:\n"+strings.Repeat("- 1\n", 1000)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxReported+1 || lines[maxReported] != "w.yaml: 1980 more mistakes" {
		t.Errorf("%d lines, the last %q; want the first %d and a count", len(lines), lines[len(lines)-1], maxReported)
	}
	var first *FieldError
	if !errors.As(err, &first) || first.File != "w.yaml" || first.Line != 2 || first.Column != 3 || first.Field != "workloads[0]" {
		t.Errorf("first mistake = %+v, want it with its place", first)
	}
}

// A bomb of aliases, and an alias inside its own anchor, end with an error
// before they take long.
func TestParseFileBombs(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	wide := func(anchor, item string) string {
		return fmt.Sprintf("&%s [%s]", anchor, strings.TrimSuffix(strings.Repeat(item+",", 300), ","))
	}
	rules := "a: " + wide("a", "{}") + "\nb: " + wide("b", "*a") + "\nc: " + wide("c", "*b") +
		"\npolicies: [{name: p, namespace: n, scope: Global, action: Deny, rules: *c}]\n"
	if _, err := ParseFile("w.yaml", []byte(rules)); err == nil || !strings.Contains(err.Error(), "aliases expand to more than 100000 values") {
		t.Errorf("27 million matches out of %d bytes: error = %v", len(rules), err)
	}
	for _, data := range []string{
		strings.Repeat("[", 1_000_000),
		strings.Repeat("{a: ", 300_000),
		strings.Repeat("- ", 300_000),
		strings.Repeat("a: ", 300_000),
		strings.Repeat("!a ", 300_000),
		strings.Repeat("&a ", 3_000),
		strings.Repeat("? ", 300_000),
		bomb + "workloads: *k\n",
		bomb + "policies: [{name: p, namespace: n, scope: Global, action: Deny, rules: *k}]\n",
		"workloads: &w [*w]\n",
		"workloads: &w *w\n",
		"policies: [{name: p, namespace: n, scope: Global, action: Deny, rules: &r [*r, *r]}]\n",
		"workloads: " + strings.Repeat("[", 2000) + strings.Repeat("]", 2000),
	} {
		if _, err := ParseFile("w.yaml", []byte(data)); err == nil {
			t.Errorf("accepted: %.80s", data)
		}
	}
}

func TestParseFile(t *testing.T) {
	// Both spellings of enums and matches, old and new fields, and YAML's ways
	// to write the same.
	const data = `
workloads:
- &client
  uid: cluster1//v1/Pod/default/local
  name: local
  namespace: default
  serviceAccount: "123"
  trustDomain: example.org
  workloadIps: ["127.0.0.1", ::1, "::ffff:127.0.0.9"]
  protocol: Hbone
  network: n
  networkMode: HOST_NETWORK
  node: node1
  clusterId: c
  hostname: h.example.com
  canonicalName: cn
  canonicalRevision: cr
  workloadName: wn
  workloadType: cronjob
  nativeTunnel: true
  waypoint: {destination: default/waypoint.example.com, hboneMtlsPort: 15009}
  networkGateway:
    destination: n/fd00::9
    hboneMtlsPort: 15008
  applicationTunnel: {protocol: PROXY, port: 15088}
  locality: {region: r, zone: z, subzone: s}
  services:
    "default/Example.com": {80: 8080, 0x1bb: 8443}
    default/other.example.com:
  authorizationPolicies: [default/p, /root]
  status: UNHEALTHY
  capacity: 7
  netns: /var/run/netns/local
- {name: plain, namespace: default, workloadIp: 127.0.0.2, waypoint: null}
services:
- name: local
  namespace: default
  hostname: Example.com
  vips: [/127.10.0.1, n/fd00::/64, "/10.0.0.0/8"]
  ports: {80: 8080, 81: 0}
  subjectAltNames: ["spiffe://cluster.local/ns/default/sa/local", dns.example.com]
  waypoint: {destination: /10.9.9.9}
  weightedWaypoints: [{destination: {destination: default/wp}, weight: 3}]
  loadBalancer: {routingPreferences: [Network, REGION, zone, Subzone, Node, Cluster], mode: FAILOVER, healthPolicy: ALLOW_ALL}
  ipFamilies: IPv4
  canonical: true
  ingressUseWaypoint: true
  visibility: NAMESPACE
- {name: bare, namespace: "", hostname: bare}
policies:
- name: p
  namespace: default
  scope: WorkloadSelector
  action: ALLOW
  dryRun: true
  rules:
  - - - namespaces: [{Exact: a}, {prefix: b}]
        notNamespaces: [!Suffix c, Presence]
        serviceAccounts: [{namespace: n, serviceAccount: s}]
        notServiceAccounts: [{namespace: n2, serviceAccount: s2}]
        principals: [{PRESENCE: []}, {presence: {}}, !Presence [], {presence: }]
        notPrincipals: [{exact: cluster.local/ns/a/sa/b}]
        sourceIps: [10.0.0.0/8, fd00::1]
        notSourceIps: [10.1.0.0/16]
        destinationIps: [0.0.0.0/0]
        notDestinationIps: ["::/0"]
        destinationPorts: [80, 443]
        notDestinationPorts: [9999]
      - {}
    - []
  - []
- {name: q, namespace: istio-system, scope: WORKLOAD_SELECTOR, action: deny, rules: []}
`
	w, err := ParseFile("w.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	str := func(k policy.MatchKind, v string) policy.StringMatch { return policy.StringMatch{Kind: k, Value: v} }
	want := World{
		Workloads: []*Workload{
			{
				UID: "cluster1//v1/Pod/default/local", Name: "local", Namespace: "default", ServiceAccount: "123", TrustDomain: "example.org",
				Addresses: addrs("127.0.0.1", "::1", "127.0.0.9"), Protocol: HBONE, Network: "n", NetworkMode: HostNetwork,
				Node: "node1", ClusterID: "c", Hostname: "h.example.com", CanonicalName: "cn", CanonicalRevision: "cr",
				WorkloadName: "wn", WorkloadType: CronJob, NativeTunnel: true,
				Waypoint:          &GatewayAddress{Hostname: key("default/waypoint.example.com"), HBONEPort: 15009},
				NetworkGateway:    &GatewayAddress{Address: NetworkAddress{"n", addr("fd00::9")}, HBONEPort: 15008},
				ApplicationTunnel: &ApplicationTunnel{TunnelPROXY, 15088},
				Locality:          Locality{"r", "z", "s"},
				Services: map[NamespacedHostname]PortMap{
					key("default/example.com"): {80: 8080, 443: 8443}, key("default/other.example.com"): {},
				},
				AuthorizationPolicies: []string{"default/p", "/root"}, Status: Unhealthy, Capacity: new(uint32(7)), Netns: "/var/run/netns/local",
			},
			{UID: "Kubernetes//Pod/default/plain", Name: "plain", Namespace: "default", Addresses: addrs("127.0.0.2")},
		},
		Services: []*Service{
			{
				Name: "local", Namespace: "default", Hostname: "example.com",
				VIPs: []VIP{vip("/127.10.0.1"), vip("n/fd00::/64"), vip("/10.0.0.0/8")}, Ports: PortMap{80: 8080, 81: 0},
				SubjectAltNames:   []string{"spiffe://cluster.local/ns/default/sa/local", "dns.example.com"},
				Waypoint:          gatewayAt("/10.9.9.9"),
				WeightedWaypoints: []WeightedWaypoint{{*gatewayAt("default/wp"), 3}},
				LoadBalancing: LoadBalancing{
					RoutingPreference: []LocalityScope{ScopeNetwork, ScopeRegion, ScopeZone, ScopeSubzone, ScopeNode, ScopeCluster},
					Mode:              ModeFailover, HealthPolicy: AllowAll,
				},
				IPFamilies: IPv4Only, Canonical: true, IngressUseWaypoint: true, Visibility: NamespaceOnly,
			},
			{Name: "bare", Hostname: "bare"},
		},
		Policies: []policy.Policy{
			{
				Name: "p", Namespace: "default", Scope: policy.WorkloadSelector, Action: policy.Allow, DryRun: true,
				Rules: []policy.Rule{
					{Clauses: []policy.Clause{
						{Matches: []policy.Match{{
							Namespaces:          []policy.StringMatch{str(policy.Exact, "a"), str(policy.Prefix, "b")},
							NotNamespaces:       []policy.StringMatch{str(policy.Suffix, "c"), str(policy.Presence, "")},
							ServiceAccounts:     []policy.ServiceAccountMatch{{Namespace: "n", ServiceAccount: "s"}},
							NotServiceAccounts:  []policy.ServiceAccountMatch{{Namespace: "n2", ServiceAccount: "s2"}},
							Principals:          []policy.StringMatch{str(policy.Presence, ""), str(policy.Presence, ""), str(policy.Presence, ""), str(policy.Presence, "")},
							NotPrincipals:       []policy.StringMatch{str(policy.Exact, "cluster.local/ns/a/sa/b")},
							SourceIPs:           prefixes("10.0.0.0/8", "fd00::1/128"),
							NotSourceIPs:        prefixes("10.1.0.0/16"),
							DestinationIPs:      prefixes("0.0.0.0/0"),
							NotDestinationIPs:   prefixes("::/0"),
							DestinationPorts:    []uint16{80, 443},
							NotDestinationPorts: []uint16{9999},
						}, {}}},
						{},
					}},
					{},
				},
			},
			{Name: "q", Namespace: "istio-system", Scope: policy.WorkloadSelector, Action: policy.Deny},
		},
	}
	opts := cmp.Options{cmpopts.EquateComparable(addr("::1"), vip("/::1").Prefix), cmpopts.IgnoreUnexported(Workload{}, Service{})}
	if diff := cmp.Diff(want, w, opts); diff != "" {
		t.Errorf("world (-want +got)\n%s", diff)
	}
	if err := NewStore().Replace(w); err != nil {
		t.Errorf("what the file holds, the Store refuses: %v", err)
	}
}

// The example is true: it parses, warns of nothing, and does what it says.
func TestExampleWorld(t *testing.T) {
	const path = "../../deploy/examples/world.yaml"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := ParseFile(path, data)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.warnings(); len(got) > 0 {
		t.Errorf("warnings: %s", strings.Join(got, "\n"))
	}
	s := NewStore()
	s.Random = func(uint64) uint64 { return 0 }
	if err := s.Replace(w); err != nil {
		t.Fatal(err)
	}
	if got := names(s.Local()); got != "web-1" {
		t.Errorf("local pods = %s, want web-1", got)
	}
	web := s.WorkloadByUID("Kubernetes//Pod/shop/web-1")
	if got := len(s.Outbound(web, addrPort("10.1.0.20:5432")).Hops); got != 2 {
		t.Errorf("%d candidates for the database, want 2", got)
	}
	if r := s.Outbound(web, addrPort("203.0.113.5:443")); r.Kind != RoutePassthrough || r.Service == nil {
		t.Errorf("partner range = %s, want its passthrough", describe(r))
	}
	db := s.WorkloadByUID("Kubernetes//Pod/shop/db-1")
	c := policy.Connection{Source: web.Identity(), SourceAddr: addr("10.0.0.11"), Destination: addrPort("10.0.1.21:5432")}
	if d := s.Policies(db).Check(c); !d.Allowed || d.Policy != "shop/db-from-web" {
		t.Errorf("web to db = %+v, want allowed by shop/db-from-web", d)
	}
	c.Source = db.Identity()
	if d := s.Policies(db).Check(c); d.Allowed {
		t.Errorf("db to db = %+v, want refused", d)
	}
	c.Source = web.Identity()
	c.Destination = addrPort("10.0.1.21:22")
	if d := s.Policies(db).Check(c); d.Allowed {
		t.Errorf("web to db's ssh = %+v, want refused", d)
	}
	if d := s.Policies(web).Check(policy.Connection{SourceAddr: addr("10.0.0.99"), Destination: addrPort("10.0.0.11:8080")}); d.Allowed || d.Policy != "shop/strict" {
		t.Errorf("plaintext to web = %+v, want denied by shop/strict", d)
	}
}

// Whatever the bytes, there is an error or a world that a Store takes.
func FuzzParseFile(f *testing.F) {
	if data, err := os.ReadFile("../../deploy/examples/world.yaml"); err == nil {
		f.Add(data)
	}
	f.Add([]byte("workloads: [{uid: a, namespace: n, workloadIps: [10.0.0.1], services: {n/a: {80: 80}}}]"))
	f.Add([]byte("services:\n- &a {name: a, namespace: n, hostname: h, vips: [/10.0.0.1]}\n- *a\n"))
	f.Add([]byte("policies: [{name: p, namespace: n, scope: Global, action: Deny, rules: [[[{principals: [!Exact a, {presence: []}]}]]]}]"))
	f.Add([]byte("workloads: &w [*w]\n"))
	f.Add([]byte("? a\n: |\n  b\n<<: *c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := ParseFile("w.yaml", data)
		if err != nil {
			if !strings.Contains(err.Error(), "w.yaml") {
				t.Fatalf("error without its place: %v", err)
			}
			return
		}
		if err := NewStore().Replace(w); err != nil {
			t.Fatalf("the parser accepts what the Store refuses: %v", err)
		}
	})
}
