package authz

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	securityv1 "istio.io/api/security/v1beta1"

	"github.com/adit-mesh/adit/agent/policy"
)

// rule translates one rule. In an ALLOW policy anything that is not understood
// makes the whole rule false, which is false in turn here. In a DENY policy it
// is as if the restriction were not there.
func (c *converter) rule(r *securityv1.Rule) (policy.Rule, bool) {
	p := &ruleParser{namespace: c.namespace}
	var out policy.Rule
	add := func(matches []policy.Match, unconditional bool) {
		if !unconditional {
			out.Clauses = append(out.Clauses, policy.Clause{Matches: matches})
		}
	}
	if len(r.To) > 0 {
		var matches []policy.Match
		all := false
		for _, to := range r.To {
			m := p.operation(to.GetOperation())
			all = all || isEmpty(&m)
			matches = append(matches, m)
		}
		add(matches, all)
	}
	if len(r.From) > 0 {
		var matches []policy.Match
		all := false
		for _, from := range r.From {
			m := p.source(from.GetSource())
			all = all || isEmpty(&m)
			matches = append(matches, m)
		}
		add(matches, all)
	}
	for _, when := range r.When {
		m := p.condition(when)
		add([]policy.Match{m}, isEmpty(&m))
	}
	if len(p.beyond) > 0 {
		c.problem("%s needs a layer 7 proxy: %s", strings.Join(p.beyond, ", "), c.without())
	}
	if len(p.invalid) > 0 {
		c.problem("%s: %s", strings.Join(p.invalid, ", "), c.without())
	}
	if c.allow && len(p.beyond)+len(p.invalid) > 0 {
		return policy.Rule{}, false
	}
	return out, true
}

func (c *converter) without() string {
	if c.allow {
		return "it allows nothing"
	}
	return "it denies as if this were not there"
}

// ruleParser reads the values of a rule into matches. What a match cannot hold
// is noted and left out.
type ruleParser struct {
	namespace string
	beyond    []string // names of fields beyond layer 4
	invalid   []string
}

func (p *ruleParser) bad(field, value, want string) {
	p.invalid = append(p.invalid, fmt.Sprintf("%s: %q is not %s", field, value, want))
}

// layer7 notes those of the fields that are set.
func (p *ruleParser) layer7(fields map[string][]string, order ...string) {
	for _, name := range order {
		if len(fields[name]) > 0 {
			p.beyond = append(p.beyond, name)
		}
	}
}

func (p *ruleParser) operation(op *securityv1.Operation) policy.Match {
	p.layer7(map[string][]string{
		"hosts": op.GetHosts(), "notHosts": op.GetNotHosts(),
		"methods": op.GetMethods(), "notMethods": op.GetNotMethods(),
		"paths": op.GetPaths(), "notPaths": op.GetNotPaths(),
	}, "hosts", "notHosts", "methods", "notMethods", "paths", "notPaths")
	m := policy.Match{
		DestinationPorts:    either(p, "ports", op.GetPorts(), p.port),
		NotDestinationPorts: noneOf(p, "notPorts", op.GetNotPorts(), p.port),
	}
	if isEmpty(&m) && len(p.beyond)+len(p.invalid) == 0 {
		p.invalid = append(p.invalid, "an operation without any field")
	}
	return m
}

func (p *ruleParser) source(s *securityv1.Source) policy.Match {
	p.layer7(map[string][]string{
		"remoteIpBlocks": s.GetRemoteIpBlocks(), "notRemoteIpBlocks": s.GetNotRemoteIpBlocks(),
		"requestPrincipals": s.GetRequestPrincipals(), "notRequestPrincipals": s.GetNotRequestPrincipals(),
	}, "remoteIpBlocks", "notRemoteIpBlocks", "requestPrincipals", "notRequestPrincipals")
	m := policy.Match{
		SourceIPs:          either(p, "ipBlocks", s.GetIpBlocks(), p.prefix),
		NotSourceIPs:       noneOf(p, "notIpBlocks", s.GetNotIpBlocks(), p.prefix),
		Namespaces:         either(p, "namespaces", s.GetNamespaces(), p.pattern),
		NotNamespaces:      noneOf(p, "notNamespaces", s.GetNotNamespaces(), p.pattern),
		ServiceAccounts:    either(p, "serviceAccounts", s.GetServiceAccounts(), p.account),
		NotServiceAccounts: noneOf(p, "notServiceAccounts", s.GetNotServiceAccounts(), p.account),
		Principals:         either(p, "principals", s.GetPrincipals(), p.pattern),
		NotPrincipals:      noneOf(p, "notPrincipals", s.GetNotPrincipals(), p.pattern),
	}
	// A principal begins with its trust domain. Two conditions on principals
	// that must both hold cannot be one match.
	switch {
	case len(s.GetTrustDomains()) == 0:
	case len(m.Principals) > 0:
		p.invalid = append(p.invalid, "trustDomains beside principals cannot be checked; write the trust domain into the principals")
	default:
		m.Principals = either(p, "trustDomains", s.GetTrustDomains(), p.trustDomain)
	}
	m.NotPrincipals = append(m.NotPrincipals, noneOf(p, "notTrustDomains", s.GetNotTrustDomains(), p.trustDomain)...)
	if isEmpty(&m) && len(p.beyond)+len(p.invalid) == 0 {
		p.invalid = append(p.invalid, "a source without any field")
	}
	return m
}

func (p *ruleParser) condition(c *securityv1.Condition) policy.Match {
	var m policy.Match
	key, yes, no := c.GetKey(), c.GetValues(), c.GetNotValues()
	switch key {
	case "source.namespace":
		m.Namespaces, m.NotNamespaces = either(p, key, yes, p.pattern), noneOf(p, key, no, p.pattern)
	case "source.principal":
		m.Principals, m.NotPrincipals = either(p, key, yes, p.pattern), noneOf(p, key, no, p.pattern)
	case "source.ip":
		m.SourceIPs, m.NotSourceIPs = either(p, key, yes, p.prefix), noneOf(p, key, no, p.prefix)
	case "destination.ip":
		m.DestinationIPs, m.NotDestinationIPs = either(p, key, yes, p.prefix), noneOf(p, key, no, p.prefix)
	case "destination.port":
		m.DestinationPorts, m.NotDestinationPorts = either(p, key, yes, p.port), noneOf(p, key, no, p.port)
	default:
		p.beyond = append(p.beyond, "condition "+strconv.Quote(key))
		return m
	}
	if len(yes)+len(no) == 0 {
		p.invalid = append(p.invalid, fmt.Sprintf("condition %q without values", key))
	}
	return m
}

// either reads values of which one must hold. If one of them cannot be read it
// might hold, so the others restrict nothing.
func either[T any](p *ruleParser, field string, values []string, parse func(field, value string) (T, bool)) []T {
	out := make([]T, 0, len(values))
	all := true
	for _, v := range values {
		t, ok := parse(field, v)
		if all = all && ok; ok {
			out = append(out, t)
		}
	}
	if !all || len(out) == 0 {
		return nil
	}
	return out
}

// noneOf reads values of which none may hold. One that cannot be read might
// not, so it is left out.
func noneOf[T any](p *ruleParser, field string, values []string, parse func(field, value string) (T, bool)) []T {
	var out []T
	for _, v := range values {
		if t, ok := parse(field, v); ok {
			out = append(out, t)
		}
	}
	return out
}

func (p *ruleParser) port(field, v string) (uint16, bool) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		p.bad(field, v, "a port")
		return 0, false
	}
	return uint16(n), true
}

func (p *ruleParser) prefix(field, v string) (netip.Prefix, bool) {
	if strings.Contains(v, "/") {
		pre, err := netip.ParsePrefix(v)
		if err != nil {
			p.bad(field, v, "an address or a CIDR")
			return netip.Prefix{}, false
		}
		return pre.Masked(), true
	}
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" {
		p.bad(field, v, "an address or a CIDR")
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

// pattern reads Istio's comparisons: *, a prefix or suffix marked by *, or
// equality.
func (p *ruleParser) pattern(field, v string) (policy.StringMatch, bool) {
	rest, suffix := strings.CutPrefix(v, "*")
	rest, prefix := strings.CutSuffix(rest, "*")
	if v == "" || strings.Contains(rest, "*") || suffix && prefix {
		p.bad(field, v, "a name, or one that begins or ends with *")
		return policy.StringMatch{}, false
	}
	switch {
	case v == "*":
		return policy.StringMatch{Kind: policy.Presence}, true
	case suffix:
		return policy.StringMatch{Kind: policy.Suffix, Value: rest}, true
	case prefix:
		return policy.StringMatch{Kind: policy.Prefix, Value: rest}, true
	}
	return policy.StringMatch{Kind: policy.Exact, Value: v}, true
}

// trustDomain is a pattern of principals of a trust domain.
func (p *ruleParser) trustDomain(field, v string) (policy.StringMatch, bool) {
	m, ok := p.pattern(field, v)
	if !ok {
		return m, false
	}
	if m.Kind == policy.Suffix || strings.Contains(v, "/") {
		p.bad(field, v, "a trust domain, or the beginning of one")
		return m, false
	}
	if m.Kind == policy.Exact {
		m = policy.StringMatch{Kind: policy.Prefix, Value: m.Value + "/"}
	}
	return m, true
}

// account reads namespace/name, or a name in the policy's own namespace.
func (p *ruleParser) account(field, v string) (policy.ServiceAccountMatch, bool) {
	ns, name, ok := strings.Cut(v, "/")
	if !ok {
		ns, name = p.namespace, v
	}
	if ns == "" || name == "" || strings.ContainsAny(name, "/*") || strings.Contains(ns, "*") {
		p.bad(field, v, "a service account, as namespace/name")
		return policy.ServiceAccountMatch{}, false
	}
	return policy.ServiceAccountMatch{Namespace: ns, ServiceAccount: name}, true
}

// isEmpty reports whether a match restricts nothing. policy takes such a match
// for false.
func isEmpty(m *policy.Match) bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+
		len(m.ServiceAccounts)+len(m.NotServiceAccounts)+
		len(m.Principals)+len(m.NotPrincipals)+
		len(m.SourceIPs)+len(m.NotSourceIPs)+
		len(m.DestinationIPs)+len(m.NotDestinationIPs)+
		len(m.DestinationPorts)+len(m.NotDestinationPorts) == 0
}
