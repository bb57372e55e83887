package authz

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/yaml"

	"github.com/adit-mesh/adit/agent/policy"
)

// object reads a spec as kubectl would.
func object(t testing.TB, spec string) Object {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		t.Fatal(err)
	}
	return Object{Namespace: "shop", Name: "p", Spec: raw}
}

func exact(values ...string) (out []policy.StringMatch) {
	for _, v := range values {
		out = append(out, policy.StringMatch{Kind: policy.Exact, Value: v})
	}
	return out
}

// one is a policy with one rule, each match a clause of its own.
func one(matches ...policy.Match) []policy.Rule {
	var r policy.Rule
	for _, m := range matches {
		r.Clauses = append(r.Clauses, policy.Clause{Matches: []policy.Match{m}})
	}
	return []policy.Rule{r}
}

func TestConvertAuthorization(t *testing.T) {
	anything := []policy.Rule{{}}
	for _, tt := range []struct {
		name, spec string
		rules      []policy.Rule
		deny       bool
		scope      policy.Scope
		selector   map[string]string
		unbound    bool
		problem    string // part of the only problem, "" = none
	}{
		{name: "no spec at all allows nothing in the namespace", spec: `{}`, scope: policy.Namespace},
		{name: "an empty rule allows all", spec: `rules: [{}]`, rules: anything, scope: policy.Namespace},
		{name: "a selector", spec: `{selector: {matchLabels: {app: web}}, rules: [{}]}`,
			rules: anything, scope: policy.WorkloadSelector, selector: map[string]string{"app": "web"}},
		{name: "a selector without labels selects the namespace", spec: `{selector: {}, rules: [{}]}`, rules: anything, scope: policy.Namespace},
		{name: "sources and ports must both match",
			spec: `rules: [{from: [{source: {principals: [cluster.local/ns/a/sa/b], namespaces: ["a*", "*z", "*"]}}], to: [{operation: {ports: ["80", "443"]}}]}]`,
			rules: one(
				policy.Match{DestinationPorts: []uint16{80, 443}},
				policy.Match{Principals: exact("cluster.local/ns/a/sa/b"), Namespaces: []policy.StringMatch{
					{Kind: policy.Prefix, Value: "a"}, {Kind: policy.Suffix, Value: "z"}, {Kind: policy.Presence}}},
			), scope: policy.Namespace},
		{name: "addresses and service accounts",
			spec: `rules: [{from: [{source: {ipBlocks: [10.1.2.3, 10.0.0.1/8, "fd00::/8"], notIpBlocks: [10.9.0.0/16], serviceAccounts: [web, other/api], notServiceAccounts: [x/y]}}]}]`,
			rules: one(policy.Match{
				SourceIPs:          []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
				NotSourceIPs:       []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
				ServiceAccounts:    []policy.ServiceAccountMatch{{Namespace: "shop", ServiceAccount: "web"}, {Namespace: "other", ServiceAccount: "api"}},
				NotServiceAccounts: []policy.ServiceAccountMatch{{Namespace: "x", ServiceAccount: "y"}},
			}), scope: policy.Namespace},
		{name: "conditions",
			spec: `{action: DENY, rules: [{when: [{key: source.ip, values: [10.0.0.0/8]}, {key: destination.port, notValues: ["80"]}]}]}`, deny: true,
			rules: one(policy.Match{SourceIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, policy.Match{NotDestinationPorts: []uint16{80}}), scope: policy.Namespace},
		{name: "a trust domain is the beginning of a principal",
			spec:  `rules: [{from: [{source: {trustDomains: [corp.example], notTrustDomains: ["old*"]}}]}]`,
			rules: one(policy.Match{Principals: []policy.StringMatch{{Kind: policy.Prefix, Value: "corp.example/"}}, NotPrincipals: []policy.StringMatch{{Kind: policy.Prefix, Value: "old"}}}), scope: policy.Namespace},
		{name: "trust domains beside principals cannot be checked",
			spec: `rules: [{from: [{source: {trustDomains: [a], principals: [b]}}]}]`, scope: policy.Namespace, problem: "trustDomains beside principals"},
		{name: "layer 7 in ALLOW: the rule never matches",
			spec:  `rules: [{to: [{operation: {methods: [GET], ports: ["80"]}}]}, {from: [{source: {namespaces: [a]}}]}]`,
			rules: one(policy.Match{Namespaces: exact("a")}), scope: policy.Namespace, problem: "rule 1: methods needs a layer 7 proxy: it allows nothing"},
		{name: "layer 7 in DENY: its layer 4 part counts",
			spec: `{action: DENY, rules: [{to: [{operation: {paths: [/admin], ports: ["80"]}}], when: [{key: "request.headers[x]", values: [v]}]}]}`, deny: true,
			rules: one(policy.Match{DestinationPorts: []uint16{80}}), scope: policy.Namespace, problem: `paths, condition "request.headers[x]" needs a layer 7 proxy`},
		{name: "DENY by layer 7 alone denies all", spec: `{action: DENY, rules: [{to: [{operation: {methods: [GET]}}, {operation: {ports: ["80"]}}]}]}`, deny: true,
			rules: anything, scope: policy.Namespace, problem: "methods"},
		{name: "JWT in ALLOW", spec: `rules: [{from: [{source: {requestPrincipals: ["*"]}}]}]`, scope: policy.Namespace, problem: "requestPrincipals"},
		{name: "a bad CIDR in ALLOW", spec: `rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 10.0.0.0/40]}}]}]`, scope: policy.Namespace, problem: `"10.0.0.0/40" is not an address or a CIDR: it allows nothing`},
		{name: "a bad exception in ALLOW", spec: `rules: [{from: [{source: {notIpBlocks: [x]}}]}]`, scope: policy.Namespace, problem: `"x"`},
		{name: "a bad CIDR in DENY restricts nothing", spec: `{action: DENY, rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, x], namespaces: [a]}}]}]}`, deny: true,
			rules: one(policy.Match{Namespaces: exact("a")}), scope: policy.Namespace, problem: "it denies as if this were not there"},
		{name: "a bad exception in DENY is none", spec: `{action: DENY, rules: [{from: [{source: {notIpBlocks: [10.0.0.0/8, x]}}]}]}`, deny: true,
			rules: one(policy.Match{NotSourceIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}), scope: policy.Namespace, problem: `"x"`},
		{name: "a bad port", spec: `rules: [{to: [{operation: {ports: ["http"]}}]}]`, scope: policy.Namespace, problem: `ports: "http" is not a port`},
		{name: "port 65536", spec: `rules: [{to: [{operation: {ports: ["65536"]}}]}]`, scope: policy.Namespace, problem: "65536"},
		{name: "an operation that says nothing", spec: `rules: [{to: [{operation: {}}]}]`, scope: policy.Namespace, problem: "without any field"},
		{name: "a condition that says nothing", spec: `rules: [{when: [{key: source.ip}]}]`, scope: policy.Namespace, problem: "without values"},
		{name: "a pattern with * in the middle", spec: `rules: [{from: [{source: {namespaces: ["a*b"]}}]}]`, scope: policy.Namespace, problem: `"a*b"`},
		{name: "an unknown restriction in a rule of ALLOW", spec: `rules: [{from: [{source: {namespaces: [a], moonPhases: [full]}}]}, {}]`,
			rules: anything, scope: policy.Namespace, problem: "rule 1: it cannot be read"},
		{name: "an unknown restriction in a rule of DENY", spec: `{action: DENY, rules: [{from: [{source: {moonPhases: [full]}}]}]}`, deny: true, rules: anything, scope: policy.Namespace, problem: "it denies everything"},
		{name: "rules of another type", spec: `{rules: all}`, scope: policy.Namespace, problem: "rules is not a list"},
		{name: "a rule that is null", spec: `{rules: [null]}`, scope: policy.Namespace, problem: "cannot be read"},
		{name: "CUSTOM denies what it would ask about", spec: `{action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {ports: ["80"]}}]}]}`, deny: true,
			rules: one(policy.Match{DestinationPorts: []uint16{80}}), scope: policy.Namespace, problem: "CUSTOM"},
		{name: "AUDIT changes nothing", spec: `{action: AUDIT, rules: [{}]}`, unbound: true, scope: policy.Namespace, problem: "AUDIT"},
		{name: "an unknown action denies all", spec: `{action: MAYBE, rules: [{}]}`, deny: true, rules: anything, scope: policy.Namespace, problem: `unknown action "MAYBE"`},
		{name: "targetRefs are for waypoints", spec: `{targetRefs: [{kind: Service, name: a}], rules: [{}]}`, unbound: true, scope: policy.Namespace},
		{name: "a targetRef is for a waypoint", spec: `{targetRef: {kind: Gateway, name: a}}`, unbound: true, scope: policy.Namespace},
		{name: "targetRefs that are empty", spec: `{targetRefs: [], rules: [{}]}`, rules: anything, scope: policy.Namespace},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := ConvertAuthorization("istio-system", object(t, tt.spec))
			if a.Bound == tt.unbound {
				t.Errorf("bound: %v", a.Bound)
			}
			if (a.Policy.Action == policy.Deny) != tt.deny {
				t.Errorf("action is %v", a.Policy.Action)
			}
			if a.Policy.Scope != tt.scope {
				t.Errorf("scope is %v, want %v", a.Policy.Scope, tt.scope)
			}
			if d := cmp.Diff(tt.selector, a.Selector); d != "" {
				t.Errorf("selector: %s", d)
			}
			if !tt.unbound {
				if d := cmp.Diff(tt.rules, a.Policy.Rules, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
					t.Errorf("rules, - want + got:\n%s", d)
				}
			}
			switch {
			case tt.problem == "" && len(a.Problems) > 0:
				t.Errorf("problems: %q, want none", a.Problems)
			case tt.problem != "" && (len(a.Problems) != 1 || !strings.Contains(a.Problems[0], tt.problem)):
				t.Errorf("problems: %q, want one about %q", a.Problems, tt.problem)
			}
			if _, err := policy.Compile(a.Policy); err != nil {
				t.Errorf("the policy does not compile: %v", err)
			}
		})
	}
}

// A policy of which not even the scope can be told restricts all that it may be
// meant for, and grants nothing to them.
func TestMalformedAuthorizationGrantsNothing(t *testing.T) {
	for name, spec := range map[string]string{
		"spec is a list":           `[]`,
		"spec is a string":         `allow`,
		"selector of another type": `{selector: all, rules: [{}]}`,
		"selector with more":       `{selector: {matchExpressions: [{key: a, operator: Exists}]}, rules: [{}]}`,
		"targetRefs of a type":     `{targetRefs: gateway, rules: [{}]}`,
		"an unknown field":         `{rules: [{}], except: [{from: [{source: {namespaces: [a]}}]}]}`,
		"a field in capitals":      `{Rules: [{}]}`,
		"provider without CUSTOM":  `{provider: {name: x}, rules: [{}]}`,
		"action is a number":       `{action: 0, rules: [{}]}`,
		"unknown fields in DENY":   `{action: DENY, rules: [], except: []}`,
	} {
		t.Run(name, func(t *testing.T) {
			a := ConvertAuthorization("istio-system", object(t, spec))
			if !a.Bound || len(a.Problems) == 0 {
				t.Fatalf("bound %v, problems %q; a malformed policy must bind and be reported", a.Bound, a.Problems)
			}
			if a.Policy.Scope == policy.WorkloadSelector {
				t.Errorf("it is limited to %v, which nobody wrote", a.Selector)
			}
			if check(t, a.Policy, connection()).Allowed {
				t.Error("it allows a connection")
			}
		})
	}
}

func TestRootNamespaceAndDryRun(t *testing.T) {
	o := object(t, `rules: [{}]`)
	o.Namespace = "istio-system"
	if a := ConvertAuthorization("istio-system", o); a.Policy.Scope != policy.Global {
		t.Errorf("scope %v in the root namespace, want Global", a.Policy.Scope)
	}
	o.DryRun = "true"
	if a := ConvertAuthorization("istio-system", o); !a.Policy.DryRun || len(a.Problems) > 0 {
		t.Errorf("dry run %v, problems %q", a.Policy.DryRun, a.Problems)
	}
	o.DryRun = "perhaps"
	if a := ConvertAuthorization("istio-system", o); a.Policy.DryRun || len(a.Problems) != 1 {
		t.Errorf("dry run %v, problems %q: what is not clearly a rehearsal is in force", a.Policy.DryRun, a.Problems)
	}
}

func connection() policy.Connection {
	return policy.Connection{
		Source:      spiffeid.RequireFromString("spiffe://cluster.local/ns/a/sa/b"),
		SourceAddr:  netip.MustParseAddr("10.0.0.1"),
		Destination: netip.MustParseAddrPort("10.0.0.2:80"),
	}
}

func check(t testing.TB, p policy.Policy, c policy.Connection) policy.Decision {
	t.Helper()
	compiled, err := policy.Compile(p)
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	return policy.NewSet(nil, nil, []*policy.Compiled{compiled}, nil).Check(c)
}
