package policy

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Small pools make collisions, and so matches, likely.
var (
	someIDs = []string{
		"", // nobody
		"spiffe://cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/a/sa/y", "spiffe://cluster.local/ns/b/sa/x",
		"spiffe://cluster.local/ns/ab/sa/xy", "spiffe://other.td/ns/a/sa/x", "spiffe://cluster.local/gateway",
	}
	someStrings = []string{
		"", "a", "b", "ab", "x", "sa/x", "cluster.local", "cluster.local/ns/a/sa/x", "spiffe://cluster.local/ns/a/sa/x",
		"spiffe://", "spiffe://cluster.local/ns", "gateway",
	}
	someAddrs = []string{
		"10.0.0.1", "10.0.0.2", "10.0.1.1", "192.168.0.1", "::ffff:10.0.0.1", "fd00::1", "fd00::2", "fd01::1", "fe80::1%eth0",
	}
	somePrefixes = []string{
		"0.0.0.0/0", "::/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.7/24", "10.0.0.1/32", "::ffff:10.0.0.0/104",
		"fd00::/16", "fd00::1/128", "fe80::/10", "192.168.0.0/16",
	}
	somePorts = []uint16{80, 443, 8080, 15008}
)

// source of randomness: a generator, or the bytes of a fuzzer.
type source func(n int) int

func pick[T any](r source, from []T) T { return from[r(len(from))] }

func list[T any](r source, gen func() T) []T {
	if r(3) > 0 { // most kinds of a match are absent
		return nil
	}
	out := make([]T, r(3)+1)
	for i := range out {
		out[i] = gen()
	}
	return out
}

func randomMatch(r source) Match {
	str := func() StringMatch { return StringMatch{Kind: Exact + MatchKind(r(4)), Value: pick(r, someStrings)} }
	sa := func() ServiceAccountMatch { return ServiceAccountMatch{pick(r, someStrings), pick(r, someStrings)} }
	cidr := func() netip.Prefix { return netip.MustParsePrefix(pick(r, somePrefixes)) }
	port := func() uint16 { return pick(r, somePorts) }
	return Match{
		Namespaces: list(r, str), NotNamespaces: list(r, str),
		ServiceAccounts: list(r, sa), NotServiceAccounts: list(r, sa),
		Principals: list(r, str), NotPrincipals: list(r, str),
		SourceIPs: list(r, cidr), NotSourceIPs: list(r, cidr),
		DestinationIPs: list(r, cidr), NotDestinationIPs: list(r, cidr),
		DestinationPorts: list(r, port), NotDestinationPorts: list(r, port),
	}
}

func randomPolicy(r source) Policy {
	p := Policy{Name: pick(r, []string{"p", "q", "r"}), Namespace: pick(r, someStrings), Action: Action(r(2)), DryRun: r(5) == 0}
	for range r(3) {
		var rule Rule
		for range r(3) {
			var c Clause
			for range r(3) {
				c.Matches = append(c.Matches, randomMatch(r))
			}
			rule.Clauses = append(rule.Clauses, c)
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

func randomConnection(r source) Connection {
	c := Connection{
		SourceAddr:  netip.MustParseAddr(pick(r, someAddrs)),
		Destination: netip.AddrPortFrom(netip.MustParseAddr(pick(r, someAddrs)), pick(r, somePorts)),
	}
	if id := pick(r, someIDs); id != "" {
		c.Source = spiffeid.RequireFromString(id)
	}
	return c
}

// checkAgainstSlow builds a random set and compares the two evaluators.
func checkAgainstSlow(t *testing.T, r source) {
	t.Helper()
	var all []Policy
	var groups [3][]*Compiled
	for range r(4) {
		p := randomPolicy(r)
		c, err := Compile(p)
		if err != nil {
			t.Fatalf("Compile(%+v): %v", p, err)
		}
		all = append(all, p)
		g := r(3)
		groups[g] = append(groups[g], c)
	}
	var missing []string
	if r(10) == 0 {
		missing = []string{"a/absent"}
	}
	set := NewSet(groups[0], groups[1], groups[2], missing)
	for range 4 {
		c := randomConnection(r)
		d := set.Check(c)
		if want := slowAllowed(all, missing, c); d.Allowed != want {
			t.Fatalf("Check = %+v, want allowed %v\nconnection %+v\npolicies %+v\nmissing %v", d, want, c, all, missing)
		}
		if d.Reason == "" {
			t.Fatalf("decision without a reason: %+v", d)
		}
	}
}

func TestFastCheckAgreesWithSlow(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	for range 30_000 {
		checkAgainstSlow(t, rng.IntN)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("\x02\x01\x00\x01\x02\x00\x03\x01\x00\x00\x01\x02\x03"))
	f.Fuzz(func(t *testing.T, data []byte) {
		checkAgainstSlow(t, func(n int) int {
			if len(data) == 0 {
				return 0
			}
			b := int(data[0])
			data = data[1:]
			return b % n
		})
	})
}
