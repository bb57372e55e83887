package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
)

// Connection is what a policy can see of a connection.
type Connection struct {
	// Source is the verified identity of the peer. The zero ID is nobody: a
	// plaintext connection. Nobody matches no namespace, principal or service
	// account, not even one given as an empty string.
	Source spiffeid.ID
	// SourceAddr is the address of the peer as the workload sees it.
	SourceAddr netip.Addr
	// Destination is the workload's own address and port, after a service
	// port has been resolved.
	Destination netip.AddrPort
}

// subject is a Connection taken apart, once for all the policies of a Set.
type subject struct {
	principal          string // without the scheme; "" = nobody
	namespace, account string // "" = nobody, or an ID of another shape
	src, dst           netip.Addr
	port               uint16
}

func newSubject(c Connection) subject {
	// Sockets that serve both families report IPv4 peers as mapped. A zone
	// does no harm: it is not part of a prefix.
	s := subject{
		src:  c.SourceAddr.Unmap(),
		dst:  c.Destination.Addr().Unmap(),
		port: c.Destination.Port(),
	}
	if !c.Source.IsZero() {
		s.principal = strings.TrimPrefix(c.Source.String(), "spiffe://")
		s.namespace, s.account, _ = identity.ParseWorkloadID(c.Source)
	}
	return s
}

// match returns the number, from 1, of the first rule that matches.
func (c *Compiled) match(s *subject) (rule int, ok bool) {
	for i, r := range c.rules {
		if r.match(s) {
			return i + 1, true
		}
	}
	return 0, false
}

func (r compiledRule) match(s *subject) bool {
	for _, clause := range r {
		if !matchClause(clause, s) {
			return false
		}
	}
	return true
}

func matchClause(clause []compiledMatch, s *subject) bool {
	for i := range clause {
		if clause[i].match(s) {
			return true
		}
	}
	return len(clause) == 0
}

func (m *compiledMatch) match(s *subject) bool {
	if m.never {
		return false
	}
	// Cheapest first; the kinds are a conjunction, so the order is free.
	if len(m.destinationPorts) > 0 && !hasPort(m.destinationPorts, s.port) {
		return false
	}
	if hasPort(m.notDestinationPorts, s.port) {
		return false
	}
	if m.namespaces.n > 0 && !m.namespaces.has(s.namespace) || m.notNamespaces.has(s.namespace) {
		return false
	}
	if len(m.accounts) > 0 && !m.accounts.has(s.namespace, s.account) || m.notAccounts.has(s.namespace, s.account) {
		return false
	}
	if m.principals.n > 0 && !m.principals.has(s.principal) || m.notPrincipals.has(s.principal) {
		return false
	}
	if m.sources.n > 0 && !m.sources.has(s.src) || m.notSources.has(s.src) {
		return false
	}
	if m.destinations.n > 0 && !m.destinations.has(s.dst) || m.notDestinations.has(s.dst) {
		return false
	}
	return true
}

func hasPort(sorted []uint16, port uint16) bool {
	_, ok := slices.BinarySearch(sorted, port)
	return ok
}
