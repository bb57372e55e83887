package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// connection is one from cluster.local/ns/shop/sa/web at 10.0.0.1 to
// 10.0.0.2:8080, changed by the options.
func connection(opts ...func(*Connection)) Connection {
	c := Connection{
		Source:      spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"),
		SourceAddr:  netip.MustParseAddr("10.0.0.1"),
		Destination: netip.MustParseAddrPort("10.0.0.2:8080"),
	}
	for _, o := range opts {
		o(&c)
	}
	return c
}

func as(id string) func(*Connection) {
	return func(c *Connection) { c.Source = spiffeid.RequireFromString(id) }
}
func plaintext(c *Connection) { c.Source = spiffeid.ID{} }
func from(addr string) func(*Connection) {
	return func(c *Connection) { c.SourceAddr = netip.MustParseAddr(addr) }
}
func to(dst string) func(*Connection) {
	return func(c *Connection) { c.Destination = netip.MustParseAddrPort(dst) }
}

func exact(s string) []StringMatch  { return []StringMatch{{Exact, s}} }
func prefix(s string) []StringMatch { return []StringMatch{{Prefix, s}} }
func suffix(s string) []StringMatch { return []StringMatch{{Suffix, s}} }

var presence = []StringMatch{{Kind: Presence}}

func cidrs(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestMatch(t *testing.T) {
	web := ServiceAccountMatch{"shop", "web"}
	tests := []struct {
		why  string
		m    Match
		c    Connection
		want bool
	}{
		{"a match with no fields never matches", Match{}, connection(), false},

		{"exact principal, compared without the scheme", Match{Principals: exact("cluster.local/ns/shop/sa/web")}, connection(), true},
		{"a principal may be written with its scheme", Match{Principals: exact("spiffe://cluster.local/ns/shop/sa/web")}, connection(), true},
		{"exact is the whole principal", Match{Principals: exact("cluster.local/ns/shop/sa/we")}, connection(), false},
		{"prefix principal", Match{Principals: prefix("cluster.local/ns/shop/")}, connection(), true},
		{"a prefix begins after the scheme", Match{Principals: prefix("spif")}, connection(), false},
		{"suffix principal", Match{Principals: suffix("/sa/web")}, connection(), true},
		{"suffix that is not one", Match{Principals: suffix("/sa/we")}, connection(), false},
		{"a suffix may be a whole ID with its scheme", Match{Principals: suffix("spiffe://cluster.local/ns/shop/sa/web")}, connection(), true},
		{"the scheme alone is no suffix", Match{Principals: suffix("spiffe://")}, connection(), false},
		{"the scheme alone is a prefix", Match{Principals: prefix("spiffe://")}, connection(), true},
		{"presence holds for any identity", Match{Principals: presence}, connection(as("spiffe://td/anything")), true},
		{"presence does not hold for nobody", Match{Principals: presence}, connection(plaintext), false},
		{"an empty exact value is not nobody", Match{Principals: exact("")}, connection(plaintext), false},
		{"an empty prefix is not nobody", Match{Principals: prefix("")}, connection(plaintext), false},
		{"another trust domain is another principal", Match{Principals: exact("cluster.local/ns/shop/sa/web")}, connection(as("spiffe://other/ns/shop/sa/web")), false},

		{"exact namespace", Match{Namespaces: exact("shop")}, connection(), true},
		{"namespace prefix", Match{Namespaces: prefix("sh")}, connection(), true},
		{"namespace suffix", Match{Namespaces: suffix("op")}, connection(), true},
		{"other namespace", Match{Namespaces: exact("shop2")}, connection(), false},
		{"nobody has no namespace", Match{Namespaces: presence}, connection(plaintext), false},
		{"nobody has no namespace, not even an empty one", Match{Namespaces: exact("")}, connection(plaintext), false},
		{"an identity of another shape has no namespace", Match{Namespaces: presence}, connection(as("spiffe://cluster.local/gateway")), false},

		{"service account", Match{ServiceAccounts: []ServiceAccountMatch{web}}, connection(), true},
		{"service account of any trust domain", Match{ServiceAccounts: []ServiceAccountMatch{web}}, connection(as("spiffe://other/ns/shop/sa/web")), true},
		{"service account of another namespace", Match{ServiceAccounts: []ServiceAccountMatch{web}}, connection(as("spiffe://cluster.local/ns/b/sa/web")), false},
		{"nobody has no service account", Match{ServiceAccounts: []ServiceAccountMatch{{}}}, connection(plaintext), false},

		{"source CIDR", Match{SourceIPs: cidrs("10.0.0.0/24")}, connection(), true},
		{"source outside the CIDR", Match{SourceIPs: cidrs("10.0.0.0/24")}, connection(from("10.0.1.1")), false},
		{"a mapped source is an IPv4 source", Match{SourceIPs: cidrs("10.0.0.0/24")}, connection(from("::ffff:10.0.0.9")), true},
		{"a mapped CIDR is an IPv4 CIDR", Match{SourceIPs: cidrs("::ffff:10.0.0.0/120")}, connection(), true},
		{"host bits of a CIDR do not count", Match{SourceIPs: cidrs("10.0.0.77/24")}, connection(), true},
		{"IPv6 source", Match{SourceIPs: cidrs("fd00::/64")}, connection(from("fd00::7")), true},
		{"all of IPv4 is not IPv6", Match{SourceIPs: cidrs("0.0.0.0/0")}, connection(from("fd00::7")), false},
		{"all of IPv6 is not IPv4", Match{SourceIPs: cidrs("::/0")}, connection(), false},
		{"a zone does not hide a link-local source", Match{SourceIPs: cidrs("fe80::/10")}, connection(from("fe80::1%eth0")), true},
		{"destination CIDR", Match{DestinationIPs: cidrs("10.0.0.2/32")}, connection(), true},
		{"destination outside the CIDR", Match{DestinationIPs: cidrs("10.0.0.3/32")}, connection(), false},

		{"destination port", Match{DestinationPorts: []uint16{80, 8080}}, connection(), true},
		{"other destination port", Match{DestinationPorts: []uint16{80}}, connection(), false},

		{"values of one kind are alternatives", Match{Namespaces: []StringMatch{{Exact, "a"}, {Prefix, "x"}, {Exact, "shop"}}}, connection(), true},
		{"kinds are a conjunction", Match{Namespaces: exact("shop"), DestinationPorts: []uint16{8080}}, connection(), true},
		{"kinds are a conjunction, one fails", Match{Namespaces: exact("shop"), DestinationPorts: []uint16{80}}, connection(), false},

		{"not principal", Match{NotPrincipals: exact("cluster.local/ns/shop/sa/web")}, connection(), false},
		{"not principal, another source", Match{NotPrincipals: exact("cluster.local/ns/shop/sa/web")}, connection(as("spiffe://cluster.local/ns/shop/sa/db")), true},
		{"not principal holds for nobody: strict mTLS", Match{NotPrincipals: presence}, connection(plaintext), true},
		{"not principal presence fails for anybody", Match{NotPrincipals: presence}, connection(), false},
		{"none of several", Match{NotNamespaces: []StringMatch{{Exact, "a"}, {Exact, "shop"}}}, connection(), false},
		{"not namespace holds for nobody", Match{NotNamespaces: presence}, connection(plaintext), true},
		{"not service account", Match{NotServiceAccounts: []ServiceAccountMatch{web}}, connection(), false},
		{"not service account, another source", Match{NotServiceAccounts: []ServiceAccountMatch{web}}, connection(as("spiffe://cluster.local/ns/shop/sa/db")), true},
		{"not source", Match{NotSourceIPs: cidrs("10.0.0.0/8")}, connection(), false},
		{"not source, other family", Match{NotSourceIPs: cidrs("10.0.0.0/8")}, connection(from("fd00::1")), true},
		{"not destination", Match{NotDestinationIPs: cidrs("10.0.0.2/32")}, connection(), false},
		{"not destination port", Match{NotDestinationPorts: []uint16{8080}}, connection(), false},
		{"not destination port, another", Match{NotDestinationPorts: []uint16{8080}}, connection(to("10.0.0.2:80")), true},
		{"a kind with both: in and not in", Match{Namespaces: prefix("shop"), NotNamespaces: exact("shop")}, connection(), false},
		{"a kind with both: in and outside", Match{Namespaces: prefix("shop"), NotNamespaces: exact("shop2")}, connection(), true},
	}
	for _, tt := range tests {
		// One match in one clause of one rule decides alone, so an ALLOW policy
		// shows whether it matches.
		p := Policy{Name: "p", Namespace: "shop", Rules: []Rule{{[]Clause{{[]Match{tt.m}}}}}}
		if got := set(t, p).Check(tt.c).Allowed; got != tt.want {
			t.Errorf("%s: matches = %v, want %v\n%+v", tt.why, got, tt.want, tt.m)
		}
		if got := slowMatch(tt.m, tt.c); got != tt.want {
			t.Errorf("%s: the slow evaluator says %v, want %v", tt.why, got, tt.want)
		}
	}
}

func set(t testing.TB, policies ...Policy) Set {
	t.Helper()
	var compiled []*Compiled
	for _, p := range policies {
		c, err := Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, c)
	}
	return NewSet(nil, compiled, nil, nil)
}

// The levels above a match: yes and no are matches that hold and do not.
func TestRules(t *testing.T) {
	yes := Match{NotDestinationPorts: []uint16{1}}
	no := Match{DestinationPorts: []uint16{1}}
	clause := func(m ...Match) Clause { return Clause{m} }
	rule := func(c ...Clause) Rule { return Rule{c} }
	tests := []struct {
		why   string
		rules []Rule
		want  bool
	}{
		{"no rules never match", nil, false},
		{"a rule without clauses matches", []Rule{rule()}, true},
		{"a clause without matches matches", []Rule{rule(clause())}, true},
		{"a clause of one empty match never matches", []Rule{rule(clause(Match{}))}, false},
		{"an empty match beside one that holds", []Rule{rule(clause(Match{}, yes))}, true},
		{"rules are alternatives", []Rule{rule(clause(no)), rule(clause(yes))}, true},
		{"no rule holds", []Rule{rule(clause(no)), rule(clause(no))}, false},
		{"clauses are a conjunction", []Rule{rule(clause(yes), clause(yes))}, true},
		{"clauses are a conjunction, one fails", []Rule{rule(clause(yes), clause(no))}, false},
		{"an empty clause does not save a failing one", []Rule{rule(clause(), clause(no))}, false},
		{"matches are alternatives", []Rule{rule(clause(no, yes))}, true},
		{"no match of a clause holds", []Rule{rule(clause(no, no))}, false},
	}
	for _, tt := range tests {
		p := Policy{Name: "p", Namespace: "shop", Rules: tt.rules}
		if got := set(t, p).Check(connection()).Allowed; got != tt.want {
			t.Errorf("%s: matches = %v, want %v", tt.why, got, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	matching := []Rule{{[]Clause{{[]Match{{DestinationPorts: []uint16{1}}}}}}, {}} // the second rule
	failing := []Rule{{[]Clause{{[]Match{{DestinationPorts: []uint16{1}}}}}}}
	pol := func(name string, a Action, rules []Rule) Policy {
		return Policy{Name: name, Namespace: "shop", Action: a, Rules: rules}
	}
	dry := func(p Policy) Policy { p.DryRun = true; return p }

	tests := []struct {
		why     string
		listed  []Policy
		missing []string
		want    Decision
	}{
		{"no policy allows", nil, nil, Decision{Allowed: true, Reason: "no policy applies to this workload"}},
		{"only DENY policies that do not match allow",
			[]Policy{pol("d", Deny, failing)}, nil,
			Decision{Allowed: true, Reason: "no DENY policy matches and no ALLOW policy applies"}},
		{"a DENY match refuses",
			[]Policy{pol("d", Deny, matching)}, nil,
			Decision{Policy: "shop/d", Reason: "denied by policy shop/d, rule 2"}},
		{"a DENY match wins over an ALLOW match",
			[]Policy{pol("a", Allow, matching), pol("d", Deny, matching)}, nil,
			Decision{Policy: "shop/d", Reason: "denied by policy shop/d, rule 2"}},
		{"an ALLOW match allows",
			[]Policy{pol("b", Allow, failing), pol("a", Allow, matching)}, nil,
			Decision{Allowed: true, Policy: "shop/a", Reason: "allowed by policy shop/a, rule 2"}},
		{"one ALLOW policy that does not match refuses, and is named",
			[]Policy{pol("a", Allow, failing)}, nil,
			Decision{Policy: "shop/a", Reason: "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/web to port 8080; tried shop/a"}},
		{"an ALLOW policy without rules refuses",
			[]Policy{pol("a", Allow, nil)}, nil,
			Decision{Policy: "shop/a", Reason: "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/web to port 8080; tried shop/a"}},
		{"many ALLOW policies: the first are named",
			[]Policy{pol("a", Allow, nil), pol("b", Allow, nil), pol("c", Allow, nil), pol("d", Allow, nil), pol("e", Allow, nil)}, nil,
			Decision{Reason: "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/web to port 8080; tried shop/a, shop/b, shop/c and 2 more"}},
		{"a policy that has not arrived refuses what others would allow",
			[]Policy{pol("a", Allow, matching)}, []string{"shop/late"},
			Decision{Policy: "shop/late", Reason: "policy shop/late applies to this workload but has not arrived; refusing until it does"}},
		{"a policy that has not arrived refuses alone",
			nil, []string{"shop/late", "shop/later"},
			Decision{Policy: "shop/late", Reason: "policy shop/late, shop/later applies to this workload but has not arrived; refusing until it does"}},
		{"a DENY match says more than a policy that has not arrived",
			[]Policy{pol("d", Deny, matching)}, []string{"shop/late"},
			Decision{Policy: "shop/d", Reason: "denied by policy shop/d, rule 2"}},

		{"a dry-run DENY is reported, not enforced",
			[]Policy{dry(pol("d", Deny, matching))}, nil,
			Decision{Allowed: true, Reason: "no DENY policy matches and no ALLOW policy applies",
				DryRun: []DryRun{{"shop/d", Deny, true, "dry run: would be denied by policy shop/d, rule 2"}}}},
		{"a dry-run DENY that does not match says nothing",
			[]Policy{dry(pol("d", Deny, failing))}, nil,
			Decision{Allowed: true, Reason: "no DENY policy matches and no ALLOW policy applies"}},
		{"a dry-run ALLOW that does not match would refuse, but does not",
			[]Policy{dry(pol("a", Allow, failing))}, nil,
			Decision{Allowed: true, Reason: "no DENY policy matches and no ALLOW policy applies",
				DryRun: []DryRun{{"shop/a", Allow, false, "dry run: would be refused, no ALLOW policy matches; tried shop/a"}}}},
		{"a dry-run ALLOW does not allow",
			[]Policy{pol("b", Allow, failing), dry(pol("a", Allow, matching))}, nil,
			Decision{Policy: "shop/b", Reason: "no ALLOW policy matches source spiffe://cluster.local/ns/shop/sa/web to port 8080; tried shop/b",
				DryRun: []DryRun{{"shop/a", Allow, true, "dry run: would be allowed by policy shop/a, rule 2"}}}},
		{"a dry-run ALLOW beside an enforced one that matches would change nothing",
			[]Policy{pol("b", Allow, matching), dry(pol("a", Allow, failing))}, nil,
			Decision{Allowed: true, Policy: "shop/b", Reason: "allowed by policy shop/b, rule 2"}},
		{"dry-run ALLOW policies are alternatives too",
			[]Policy{dry(pol("a", Allow, failing)), dry(pol("b", Allow, matching))}, nil,
			Decision{Allowed: true, Reason: "no DENY policy matches and no ALLOW policy applies",
				DryRun: []DryRun{{"shop/b", Allow, true, "dry run: would be allowed by policy shop/b, rule 2"}}}},
	}
	for _, tt := range tests {
		// Which group a policy is in makes no difference.
		for group := range 3 {
			var groups [3][]*Compiled
			for _, p := range tt.listed {
				c, err := Compile(p)
				if err != nil {
					t.Fatal(err)
				}
				groups[group] = append(groups[group], c)
			}
			got := NewSet(groups[0], groups[1], groups[2], tt.missing).Check(connection())
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s (group %d): decision (-want +got)\n%s", tt.why, group, diff)
			}
		}
	}
}

func TestCheckRefusesWhatItCannotJudge(t *testing.T) {
	if d := RefuseAll("not known").Check(connection()); d.Allowed || d.Reason != "not known" {
		t.Errorf("RefuseAll: decision = %+v, want a refusal with its reason", d)
	}
	// notSourceIps would hold for an address that nobody knows.
	s := set(t, Policy{Name: "p", Rules: []Rule{{[]Clause{{[]Match{{NotSourceIPs: cidrs("10.0.0.0/8")}}}}}}})
	for _, c := range []Connection{
		connection(func(c *Connection) { c.SourceAddr = netip.Addr{} }),
		connection(func(c *Connection) { c.Destination = netip.AddrPort{} }),
	} {
		if d := s.Check(c); d.Allowed {
			t.Errorf("Check(%+v) = %+v; an unknown address must refuse", c, d)
		}
	}
	d := s.Check(connection(plaintext))
	if !strings.Contains(d.Reason, "without identity (plaintext)") {
		t.Errorf("reason = %q, want it to say that the source has no identity", d.Reason)
	}
}

func TestCompileRefusesMistakes(t *testing.T) {
	with := func(m Match) Policy {
		return Policy{Name: "p", Namespace: "n", Rules: []Rule{{}, {[]Clause{{[]Match{m}}}}}}
	}
	tests := []struct {
		p    Policy
		want string
	}{
		{Policy{Namespace: "n"}, "policy n/: name is empty"},
		{Policy{Name: "p", Scope: 7}, "unknown scope 7"},
		{Policy{Name: "p", Action: 9}, "unknown action 9"},
		{with(Match{SourceIPs: []netip.Prefix{{}}}), "rule 2, clause 1, match 1: sourceIps: invalid CIDR"},
		{with(Match{NotDestinationIPs: []netip.Prefix{{}}}), "notDestinationIps: invalid CIDR"},
		{with(Match{Principals: []StringMatch{{Value: "x"}}}), `principals: "x" has no kind of comparison`},
		{with(Match{NotNamespaces: []StringMatch{{Kind: 99}}}), "notNamespaces:"},
	}
	for _, tt := range tests {
		_, err := Compile(tt.p)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Compile(%+v) error = %v, want %q", tt.p, err, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	got := fmt.Sprint(Global, Namespace, WorkloadSelector, Scope(9), Allow, Deny, Action(9), Exact, Prefix, Suffix, Presence, MatchKind(9))
	want := "Global Namespace WorkloadSelector Scope(9) ALLOW DENY Action(9) exact prefix suffix presence MatchKind(9)"
	if got != want {
		t.Errorf("names = %q, want %q", got, want)
	}
}

// A large policy set, as in ztunnel's bench: none of 10,000 rules matches.
func BenchmarkCheck(b *testing.B) {
	var policies []Policy
	for i := range 1000 {
		p := Policy{Name: fmt.Sprint("p", i), Namespace: "shop"}
		for j := range 10 {
			p.Rules = append(p.Rules, Rule{[]Clause{{[]Match{{
				Principals:       exact(fmt.Sprintf("cluster.local/ns/n%d/sa/s%d", i, j)),
				DestinationPorts: []uint16{8080},
			}}}}})
		}
		policies = append(policies, p)
	}
	s := set(b, policies...)
	c := connection()
	b.ReportAllocs()
	for b.Loop() {
		s.Check(c)
	}
}

func BenchmarkCheckSmall(b *testing.B) {
	s := set(b, Policy{Name: "p", Namespace: "shop", Rules: []Rule{{[]Clause{{[]Match{{Principals: exact("cluster.local/ns/shop/sa/web")}}}}}}})
	c := connection()
	b.ReportAllocs()
	for b.Loop() {
		s.Check(c)
	}
}
