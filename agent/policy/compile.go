package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Compiled is a policy made ready for checking. It is immutable and may serve
// any number of Sets.
type Compiled struct {
	policy Policy
	rules  []compiledRule
}

// Policy is what c was compiled from. Its slices must not be changed.
func (c *Compiled) Policy() Policy { return c.policy }

// Key is the policy's "namespace/name".
func (c *Compiled) Key() string { return c.policy.Key() }

// A rule is a conjunction of clauses, a clause a disjunction of matches.
type compiledRule [][]compiledMatch

type compiledMatch struct {
	never bool // no value at all

	namespaces, notNamespaces             stringSet
	principals, notPrincipals             stringSet
	accounts, notAccounts                 accountSet
	sources, notSources                   prefixSet
	destinations, notDestinations         prefixSet
	destinationPorts, notDestinationPorts []uint16 // sorted
}

// Compile checks p and makes it ready. The caller must not change p's slices
// afterwards. Values that can never be meant (an invalid CIDR, a comparison
// without a kind, an unknown scope or action) are errors: dropping them would
// widen an ALLOW or narrow a DENY.
func Compile(p Policy) (*Compiled, error) {
	var errs []error
	if p.Name == "" {
		errs = append(errs, errors.New("name is empty"))
	}
	if p.Scope > WorkloadSelector {
		errs = append(errs, fmt.Errorf("unknown scope %d", p.Scope))
	}
	if p.Action > Deny {
		errs = append(errs, fmt.Errorf("unknown action %d", p.Action))
	}
	c := &Compiled{policy: p}
	for i, r := range p.Rules {
		rule := make(compiledRule, 0, len(r.Clauses))
		for j, clause := range r.Clauses {
			matches := make([]compiledMatch, 0, len(clause.Matches))
			for k := range clause.Matches {
				m, err := compileMatch(&clause.Matches[k])
				if err != nil {
					errs = append(errs, fmt.Errorf("rule %d, clause %d, match %d: %w", i+1, j+1, k+1, err))
				}
				matches = append(matches, m)
			}
			rule = append(rule, matches)
		}
		c.rules = append(c.rules, rule)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("policy %s: %w", p.Key(), errors.Join(errs...))
	}
	return c, nil
}

func compileMatch(m *Match) (compiledMatch, error) {
	var errs []error
	strs := func(field string, values []StringMatch, value func(string) string) stringSet {
		s, err := newStringSet(values, value)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
		return s
	}
	prefixes := func(field string, values []netip.Prefix) prefixSet {
		s, err := newPrefixSet(values)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
		return s
	}
	same := func(s string) string { return s }
	c := compiledMatch{
		namespaces:          strs("namespaces", m.Namespaces, same),
		notNamespaces:       strs("notNamespaces", m.NotNamespaces, same),
		principals:          strs("principals", m.Principals, principal),
		notPrincipals:       strs("notPrincipals", m.NotPrincipals, principal),
		accounts:            newAccountSet(m.ServiceAccounts),
		notAccounts:         newAccountSet(m.NotServiceAccounts),
		sources:             prefixes("sourceIps", m.SourceIPs),
		notSources:          prefixes("notSourceIps", m.NotSourceIPs),
		destinations:        prefixes("destinationIps", m.DestinationIPs),
		notDestinations:     prefixes("notDestinationIps", m.NotDestinationIPs),
		destinationPorts:    sortedPorts(m.DestinationPorts),
		notDestinationPorts: sortedPorts(m.NotDestinationPorts),
	}
	c.never = c.namespaces.n+c.notNamespaces.n+c.principals.n+c.notPrincipals.n+
		len(c.accounts)+len(c.notAccounts)+
		c.sources.n+c.notSources.n+c.destinations.n+c.notDestinations.n+
		len(c.destinationPorts)+len(c.notDestinationPorts) == 0
	return c, errors.Join(errs...)
}

// principal drops the scheme, so that a policy may name a SPIFFE ID with or
// without it.
func principal(s string) string { return strings.TrimPrefix(s, "spiffe://") }

func sortedPorts(ports []uint16) []uint16 {
	ports = slices.Clone(ports)
	slices.Sort(ports)
	return ports
}

// stringSet is an alternative of string comparisons.
type stringSet struct {
	n                  int // of values given
	exact              map[string]struct{}
	prefixes, suffixes []string
	presence           bool
}

func newStringSet(values []StringMatch, value func(string) string) (stringSet, error) {
	s := stringSet{n: len(values)}
	for _, v := range values {
		switch v.Kind {
		case Exact:
			if s.exact == nil {
				s.exact = make(map[string]struct{}, len(values))
			}
			s.exact[value(v.Value)] = struct{}{}
		case Prefix:
			s.prefixes = append(s.prefixes, value(v.Value))
		case Suffix:
			// The bare scheme ends no SPIFFE ID; without it, it would end all.
			s.suffixes = append(s.suffixes, cmp.Or(value(v.Value), v.Value))
		case Presence:
			s.presence = true
		default:
			return s, fmt.Errorf("%q has no kind of comparison; want exact, prefix, suffix or presence", v.Value)
		}
	}
	return s, nil
}

// has reports whether a value holds for v. Nothing holds for the empty string:
// it stands for what the source does not have.
func (s *stringSet) has(v string) bool {
	if v == "" || s.n == 0 {
		return false
	}
	if s.presence {
		return true
	}
	if _, ok := s.exact[v]; ok {
		return true
	}
	for _, p := range s.prefixes {
		if strings.HasPrefix(v, p) {
			return true
		}
	}
	for _, p := range s.suffixes {
		if strings.HasSuffix(v, p) {
			return true
		}
	}
	return false
}

type accountSet map[ServiceAccountMatch]struct{}

func newAccountSet(values []ServiceAccountMatch) accountSet {
	if len(values) == 0 {
		return nil
	}
	s := make(accountSet, len(values))
	for _, v := range values {
		s[v] = struct{}{}
	}
	return s
}

func (s accountSet) has(namespace, account string) bool {
	if namespace == "" || account == "" {
		return false
	}
	_, ok := s[ServiceAccountMatch{namespace, account}]
	return ok
}

// prefixSet finds whether an address is in one of many CIDRs with one map
// lookup for each distinct prefix length, not one comparison for each CIDR.
type prefixSet struct {
	n            int
	bits4, bits6 []int // distinct prefix lengths
	prefixes     map[netip.Prefix]struct{}
}

func newPrefixSet(values []netip.Prefix) (prefixSet, error) {
	s := prefixSet{n: len(values)}
	if s.n == 0 {
		return s, nil
	}
	s.prefixes = make(map[netip.Prefix]struct{}, len(values))
	for _, p := range values {
		if !p.IsValid() {
			return s, fmt.Errorf("invalid CIDR %s", p)
		}
		// An address is compared unmapped, so its CIDR must be too.
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		p = p.Masked()
		s.prefixes[p] = struct{}{}
		bits := &s.bits6
		if p.Addr().Is4() {
			bits = &s.bits4
		}
		if !slices.Contains(*bits, p.Bits()) {
			*bits = append(*bits, p.Bits())
		}
	}
	return s, nil
}

func (s *prefixSet) has(a netip.Addr) bool {
	if s.n == 0 {
		return false
	}
	bits := s.bits6
	if a.Is4() {
		bits = s.bits4
	}
	for _, b := range bits {
		p, err := a.Prefix(b)
		if err != nil {
			return false
		}
		if _, ok := s.prefixes[p]; ok {
			return true
		}
	}
	return false
}
