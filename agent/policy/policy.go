package policy

import (
	"fmt"
	"net/netip"
)

// Policy is one istio.security.Authorization.
type Policy struct {
	Name      string
	Namespace string
	Scope     Scope
	Action    Action
	// DryRun policies are evaluated and reported, never enforced.
	DryRun bool
	// Rules are alternatives. A policy without rules matches nothing, so an
	// ALLOW policy without rules refuses everything it applies to.
	Rules []Rule
}

// Key is the name by which workloads list a policy: "namespace/name".
func (p *Policy) Key() string { return p.Namespace + "/" + p.Name }

// Scope says which workloads a policy applies to.
type Scope uint8

const (
	// Global policies apply to every workload.
	Global Scope = iota
	// Namespace policies apply to the workloads of the policy's namespace; in
	// the root namespace, whose name is empty on the wire, to every workload.
	Namespace
	// WorkloadSelector policies apply to the workloads that list them.
	WorkloadSelector
)

func (s Scope) String() string {
	switch s {
	case Global:
		return "Global"
	case Namespace:
		return "Namespace"
	case WorkloadSelector:
		return "WorkloadSelector"
	}
	return fmt.Sprintf("Scope(%d)", uint8(s))
}

// Action is what a matching policy does.
type Action uint8

const (
	Allow Action = iota
	Deny
)

func (a Action) String() string {
	switch a {
	case Allow:
		return "ALLOW"
	case Deny:
		return "DENY"
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Rule matches when all of its clauses match. A rule without clauses matches.
type Rule struct {
	Clauses []Clause
}

// Clause matches when one of its matches does. A clause without matches
// matches.
type Clause struct {
	Matches []Match
}

// Match is a conjunction of kinds. Inside a kind the values are alternatives;
// a Not kind holds when none of its values does. A match without any value
// never matches.
type Match struct {
	Namespaces         []StringMatch
	NotNamespaces      []StringMatch
	ServiceAccounts    []ServiceAccountMatch
	NotServiceAccounts []ServiceAccountMatch
	// Principals compare with the SPIFFE ID without its "spiffe://" scheme.
	Principals          []StringMatch
	NotPrincipals       []StringMatch
	SourceIPs           []netip.Prefix
	NotSourceIPs        []netip.Prefix
	DestinationIPs      []netip.Prefix
	NotDestinationIPs   []netip.Prefix
	DestinationPorts    []uint16
	NotDestinationPorts []uint16
}

// StringMatch is one way to compare a string.
type StringMatch struct {
	Kind  MatchKind
	Value string // not used by Presence
}

// MatchKind is the way a StringMatch compares.
type MatchKind uint8

const (
	_ MatchKind = iota // the zero StringMatch is a mistake, not a match
	// Exact is equality.
	Exact
	// Prefix holds for strings that begin with the value.
	Prefix
	// Suffix holds for strings that end with the value.
	Suffix
	// Presence holds for any non-empty string.
	Presence
)

func (k MatchKind) String() string {
	switch k {
	case Exact:
		return "exact"
	case Prefix:
		return "prefix"
	case Suffix:
		return "suffix"
	case Presence:
		return "presence"
	}
	return fmt.Sprintf("MatchKind(%d)", uint8(k))
}

// ServiceAccountMatch names a service account of any trust domain.
type ServiceAccountMatch struct {
	Namespace      string
	ServiceAccount string
}

// Names instead of numbers where policies are dumped as JSON.

func (s Scope) MarshalText() ([]byte, error)     { return []byte(s.String()), nil }
func (a Action) MarshalText() ([]byte, error)    { return []byte(a.String()), nil }
func (k MatchKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
