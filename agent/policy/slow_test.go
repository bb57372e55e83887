package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// slowAllowed is the definition of Check, sentence by sentence and without any
// index; the fast one must agree with it.
func slowAllowed(policies []Policy, missing []string, c Connection) bool {
	var allow []Policy
	for _, p := range policies {
		if p.DryRun {
			continue
		}
		if p.Action == Deny && slowPolicy(p, c) {
			return false
		}
		if p.Action == Allow {
			allow = append(allow, p)
		}
	}
	if len(missing) > 0 {
		return false
	}
	return len(allow) == 0 || slices.ContainsFunc(allow, func(p Policy) bool { return slowPolicy(p, c) })
}

func slowPolicy(p Policy, c Connection) bool {
	return slices.ContainsFunc(p.Rules, func(r Rule) bool { return slowRule(r, c) })
}

func slowRule(r Rule, c Connection) bool {
	for _, clause := range r.Clauses {
		if len(clause.Matches) == 0 {
			continue
		}
		if !slices.ContainsFunc(clause.Matches, func(m Match) bool { return slowMatch(m, c) }) {
			return false
		}
	}
	return true
}

func slowMatch(m Match, c Connection) bool {
	id := ""
	if !c.Source.IsZero() {
		id = strings.TrimPrefix(c.Source.String(), "spiffe://")
	}
	ns, sa := slowWorkload(c.Source)
	src, dst := c.SourceAddr.Unmap().WithZone(""), c.Destination.Addr().Unmap().WithZone("")

	isPrincipal := func(s StringMatch) bool {
		if s.Kind != Suffix || s.Value != "spiffe://" {
			s.Value = strings.TrimPrefix(s.Value, "spiffe://")
		}
		return slowString(s, id)
	}
	isNamespace := func(s StringMatch) bool { return slowString(s, ns) }
	isAccount := func(a ServiceAccountMatch) bool {
		return ns != "" && a.Namespace == ns && a.ServiceAccount == sa
	}
	contains := func(a netip.Addr) func(netip.Prefix) bool {
		return func(p netip.Prefix) bool {
			if p.Addr().Is4In6() && p.Bits() >= 96 {
				p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
			}
			return p.Contains(a)
		}
	}
	isPort := func(p uint16) bool { return p == c.Destination.Port() }

	declared := 0
	holds := slowKind(&declared, m.Namespaces, m.NotNamespaces, isNamespace)
	holds = slowKind(&declared, m.Principals, m.NotPrincipals, isPrincipal) && holds
	holds = slowKind(&declared, m.ServiceAccounts, m.NotServiceAccounts, isAccount) && holds
	holds = slowKind(&declared, m.SourceIPs, m.NotSourceIPs, contains(src)) && holds
	holds = slowKind(&declared, m.DestinationIPs, m.NotDestinationIPs, contains(dst)) && holds
	holds = slowKind(&declared, m.DestinationPorts, m.NotDestinationPorts, isPort) && holds
	return declared > 0 && holds
}

func slowKind[T any](declared *int, any, none []T, is func(T) bool) bool {
	*declared += len(any) + len(none)
	return (len(any) == 0 || slices.ContainsFunc(any, is)) && !slices.ContainsFunc(none, is)
}

func slowString(s StringMatch, v string) bool {
	if v == "" {
		return false
	}
	switch s.Kind {
	case Exact:
		return v == s.Value
	case Prefix:
		return strings.HasPrefix(v, s.Value)
	case Suffix:
		return strings.HasSuffix(v, s.Value)
	case Presence:
		return true
	}
	return false
}

func slowWorkload(id spiffeid.ID) (namespace, account string) {
	parts := strings.Split(id.Path(), "/")
	if len(parts) == 5 && parts[1] == "ns" && parts[3] == "sa" {
		return parts[2], parts[4]
	}
	return "", ""
}
