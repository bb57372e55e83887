package policy

import (
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
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

// Decision says whether a connection may go on, and why.
type Decision struct {
	Allowed bool
	// Policy is the "namespace/name" of the policy that decided. It is empty
	// when no single policy did.
	Policy string
	// Reason is for the operator who asks why.
	Reason string
	// DryRun reports the policies that are not enforced: those that matched,
	// and the ALLOW policies whose enforcement would refuse the connection.
	DryRun []DryRun
}

// DryRun is what a policy would have done had it been enforced.
type DryRun struct {
	Policy  string // "namespace/name"
	Action  Action
	Matched bool // false: an ALLOW policy that would have let it fall to refusal
	Reason  string
}
