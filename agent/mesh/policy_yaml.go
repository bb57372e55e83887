package mesh

import (
	"net/netip"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/adit-mesh/adit/agent/policy"
)

func (p *worldParser) policy(a at) policy.Policy {
	var out policy.Policy
	got := p.object(a, []string{"name", "namespace", "scope", "action", "dryRun", "rules"})
	for _, e := range got {
		v := e.value
		switch e.key {
		case "name":
			if out.Name = p.str(v); strings.Contains(out.Name, "/") {
				p.errorf(v, "%s has a slash; the namespace goes into namespace", quote(out.Name))
			}
		case "namespace":
			out.Namespace = p.str(v)
		case "scope":
			out.Scope = enum(p, v, enumNames[policy.Scope]{
				{"Global", policy.Global}, {"Namespace", policy.Namespace}, {"WorkloadSelector", policy.WorkloadSelector}})
		case "action":
			out.Action = enum(p, v, enumNames[policy.Action]{{"Allow", policy.Allow}, {"Deny", policy.Deny}})
		case "dryRun":
			out.DryRun = p.boolean(v)
		case "rules":
			for _, item := range p.list(v) {
				out.Rules = append(out.Rules, p.rule(item))
			}
		}
	}
	if !p.require(a, got, "name", "namespace", "scope", "action", "rules") {
		return out
	}
	if out.Name == "" {
		p.errorf(at{a.node, a.field("name")}, "is empty; decisions are reported under this name")
		return out
	}
	p.unique(a, "policy", out.Key(), "give each policy its own name")
	return out
}

// A rule is a list of clauses, a clause a list of matches.
func (p *worldParser) rule(a at) policy.Rule {
	var r policy.Rule
	for _, clause := range p.list(a) {
		var c policy.Clause
		for _, match := range p.list(clause) {
			c.Matches = append(c.Matches, p.match(match))
		}
		r.Clauses = append(r.Clauses, c)
	}
	return r
}

var matchFields = []string{
	"namespaces", "notNamespaces", "serviceAccounts", "notServiceAccounts", "principals", "notPrincipals",
	"sourceIps", "notSourceIps", "destinationIps", "notDestinationIps", "destinationPorts", "notDestinationPorts",
}

func (p *worldParser) match(a at) policy.Match {
	var m policy.Match
	for _, e := range p.object(a, matchFields) {
		v := e.value
		switch e.key {
		case "namespaces":
			m.Namespaces = p.stringMatches(v)
		case "notNamespaces":
			m.NotNamespaces = p.stringMatches(v)
		case "serviceAccounts":
			m.ServiceAccounts = p.serviceAccounts(v)
		case "notServiceAccounts":
			m.NotServiceAccounts = p.serviceAccounts(v)
		case "principals":
			m.Principals = p.stringMatches(v)
		case "notPrincipals":
			m.NotPrincipals = p.stringMatches(v)
		case "sourceIps":
			m.SourceIPs = p.cidrs(v)
		case "notSourceIps":
			m.NotSourceIPs = p.cidrs(v)
		case "destinationIps":
			m.DestinationIPs = p.cidrs(v)
		case "notDestinationIps":
			m.NotDestinationIPs = p.cidrs(v)
		case "destinationPorts":
			m.DestinationPorts = p.portList(v)
		case "notDestinationPorts":
			m.NotDestinationPorts = p.portList(v)
		}
	}
	return m
}

func (p *worldParser) stringMatches(a at) []policy.StringMatch {
	var out []policy.StringMatch
	for _, item := range p.list(a) {
		if m, ok := p.stringMatch(item); ok {
			out = append(out, m)
		}
	}
	return out
}

const stringMatchAdvice = "write exact: value, prefix: value, suffix: value or presence: []"

// stringMatch reads {Exact: value}, which is also how YAML writers of the
// protobuf spell it (exact), or the tagged form !Exact value that serde
// writes. Presence takes no value.
func (p *worldParser) stringMatch(a at) (policy.StringMatch, bool) {
	none := policy.StringMatch{}
	if !p.visit(a) {
		return none, false
	}
	n, tag := p.resolve(a)
	kindAt, value := a, at{n, a.path}
	name := tag
	if tag == "" {
		if s, ok := n.(*ast.StringNode); ok && fold(s.Value) == "presence" {
			return policy.StringMatch{Kind: policy.Presence}, true
		}
		switch n.(type) {
		case *ast.MappingNode, *ast.MappingValueNode:
		default:
			p.errorf(a, "is %s, without a way to compare; %s", kindOf(n), stringMatchAdvice)
			return none, false
		}
		entries := p.entries(a)
		if len(entries) != 1 {
			p.errorf(a, "has %d keys; one match is one comparison: %s", len(entries), stringMatchAdvice)
			return none, false
		}
		name, kindAt, value = entries[0].key, entries[0].keyAt, entries[0].value
	}
	kinds := map[string]policy.MatchKind{
		"exact": policy.Exact, "prefix": policy.Prefix, "suffix": policy.Suffix, "presence": policy.Presence,
	}
	kind, ok := kinds[fold(name)]
	if !ok {
		p.errorf(kindAt, "unknown comparison %s; %s", quote(name), stringMatchAdvice)
		return none, false
	}
	if kind == policy.Presence {
		v, _ := p.resolve(value)
		switch v := v.(type) {
		case *ast.SequenceNode:
			ok = len(v.Values) == 0
		case *ast.MappingNode:
			ok = len(v.Values) == 0
		default:
			ok = isNull(v)
		}
		if !ok {
			p.errorf(value, "presence takes no value; write presence: []")
		}
		return policy.StringMatch{Kind: kind}, ok
	}
	s := p.str(value)
	if s == "" {
		p.errorf(value, "compares with nothing; %s", stringMatchAdvice)
		return none, false
	}
	return policy.StringMatch{Kind: kind, Value: s}, true
}

func (p *worldParser) serviceAccounts(a at) []policy.ServiceAccountMatch {
	var out []policy.ServiceAccountMatch
	for _, item := range p.list(a) {
		var m policy.ServiceAccountMatch
		got := p.object(item, []string{"namespace", "serviceAccount"})
		for _, e := range got {
			switch e.key {
			case "namespace":
				m.Namespace = p.str(e.value)
			case "serviceAccount":
				m.ServiceAccount = p.str(e.value)
			}
		}
		p.require(item, got, "namespace", "serviceAccount")
		out = append(out, m)
	}
	return out
}

// cidrs reads networks such as 10.0.0.0/8; a bare address is a network of one.
func (p *worldParser) cidrs(a at) []netip.Prefix {
	var out []netip.Prefix
	for _, item := range p.list(a) {
		s := p.str(item)
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			addr, aerr := netip.ParseAddr(s)
			if aerr != nil || addr.Zone() != "" {
				if s != "" {
					p.errorf(item, "%s is not a CIDR; write it like 10.0.0.0/8 or fd00::/64", quote(s))
				}
				continue
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		out = append(out, prefix)
	}
	return out
}

func (p *worldParser) portList(a at) []uint16 {
	var out []uint16
	for _, item := range p.list(a) {
		out = append(out, p.port(item))
	}
	return out
}
