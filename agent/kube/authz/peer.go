package authz

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	securityv1 "istio.io/api/security/v1beta1"
	typev1 "istio.io/api/type/v1beta1"

	"github.com/adit-mesh/adit/agent/policy"
)

// Mode is what a PeerAuthentication says of plaintext.
type Mode uint8

const (
	Unset      Mode = iota // as what it inherits from
	Permissive             // DISABLE is the same: nobody is refused for having an identity
	Strict
)

// Peer is a PeerAuthentication.
type Peer struct {
	Namespace, Name string
	// Selector are the labels of the workloads that it applies to. Empty = all of
	// the namespace, or of the mesh in the root namespace.
	Selector map[string]string
	Mode     Mode
	// Ports are modes of single ports of the workload. Only with a Selector.
	Ports map[uint16]Mode
	// Malformed says that not even the modes can be told. Whatever else applies to
	// the workloads that it may select, they refuse plaintext.
	Malformed bool
	// Problems say what was taken for something stricter than written.
	Problems []string
}

// StaticStrict is the name, in the root namespace, of the policy that refuses
// plaintext on all ports. No Kubernetes object can have it.
const StaticStrict = "istio_converted_static_strict"

// ConvertPeer reads a PeerAuthentication. What it cannot read it takes for
// STRICT.
func ConvertPeer(o Object) Peer {
	p := Peer{Namespace: o.Namespace, Name: o.Name}
	problem := func(format string, args ...any) { p.Problems = append(p.Problems, fmt.Sprintf(format, args...)) }
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(orEmpty(o.Spec), &fields); err != nil {
		problem("the spec is not an object: taken as STRICT")
		p.Mode, p.Malformed = Strict, true
		return p
	}
	for name := range fields {
		switch name {
		case "selector", "mtls", "portLevelMtls":
		default:
			problem("the spec has fields that this version does not know: taken as STRICT")
			p.Mode, p.Malformed = Strict, true
			return p
		}
	}
	var labels typev1.WorkloadSelector
	if err := strict(fields["selector"], &labels); err != nil {
		problem("the selector cannot be read (%v): taken as STRICT for all it could mean", err)
		p.Mode, p.Malformed = Strict, true
		return p
	}
	p.Selector = labels.MatchLabels
	p.Mode = p.mode(fields["mtls"], "mtls")
	if isNull(fields["portLevelMtls"]) {
		return p
	}
	ports := map[string]json.RawMessage{}
	if err := json.Unmarshal(fields["portLevelMtls"], &ports); err != nil {
		problem("portLevelMtls cannot be read: taken as STRICT on all ports")
		p.Mode, p.Malformed = Strict, true
		return p
	}
	if len(p.Selector) == 0 {
		problem("portLevelMtls needs a selector: left out")
		return p
	}
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		n, err := strconv.ParseUint(name, 10, 16)
		if err != nil || n == 0 {
			if p.mode(ports[name], "portLevelMtls "+name) == Strict {
				problem("portLevelMtls: %q is not a port: taken as STRICT on all ports", name)
				p.Mode, p.Malformed = Strict, true
				return p
			}
			problem("portLevelMtls: %q is not a port: left out", name)
			continue
		}
		if m := p.mode(ports[name], "portLevelMtls "+name); m != Unset {
			if p.Ports == nil {
				p.Ports = map[uint16]Mode{}
			}
			p.Ports[uint16(n)] = m
		}
	}
	return p
}

func (p *Peer) mode(raw json.RawMessage, field string) Mode {
	var m securityv1.PeerAuthentication_MutualTLS
	if err := strict(raw, &m); err != nil {
		p.Problems = append(p.Problems, fmt.Sprintf("%s cannot be read (%v): taken as STRICT", field, err))
		return Strict
	}
	switch m.Mode {
	case securityv1.PeerAuthentication_MutualTLS_UNSET:
		return Unset
	case securityv1.PeerAuthentication_MutualTLS_PERMISSIVE, securityv1.PeerAuthentication_MutualTLS_DISABLE:
		return Permissive
	case securityv1.PeerAuthentication_MutualTLS_STRICT:
		return Strict
	}
	p.Problems = append(p.Problems, fmt.Sprintf("%s: unknown mode %d: taken as STRICT", field, m.Mode))
	return Strict
}

// Inherit is the mode of a workload: that of the PeerAuthentication which
// selects it, else its namespace's, else the mesh's. Each may be nil.
func Inherit(mesh, namespace, workload *Peer) Mode {
	for _, p := range [...]*Peer{workload, namespace, mesh} {
		if p != nil && p.Mode != Unset {
			return p.Mode
		}
	}
	return Permissive
}

// PortPolicy is the policy of a PeerAuthentication whose ports differ from mode,
// which the workloads that it selects have otherwise. false means that no port
// differs.
func (p *Peer) PortPolicy(mode Mode) (policy.Policy, bool) {
	var differ []uint16
	for port, m := range p.Ports {
		if m != mode {
			differ = append(differ, port)
		}
	}
	if len(differ) == 0 {
		return policy.Policy{}, false
	}
	slices.Sort(differ)
	match := nobody()
	if mode == Strict {
		match.NotDestinationPorts = differ
	} else {
		match.DestinationPorts = differ
	}
	return denial(p.Namespace, "converted_peer_authentication_"+p.Name, match), true
}

// StaticStrictPolicy refuses plaintext on all ports.
func StaticStrictPolicy(root string) policy.Policy { return denial(root, StaticStrict, nobody()) }

// nobody matches sources without an identity.
func nobody() policy.Match {
	return policy.Match{NotPrincipals: []policy.StringMatch{{Kind: policy.Presence}}}
}

func denial(namespace, name string, m policy.Match) policy.Policy {
	return policy.Policy{
		Name: name, Namespace: namespace, Scope: policy.WorkloadSelector, Action: policy.Deny,
		Rules: []policy.Rule{{Clauses: []policy.Clause{{Matches: []policy.Match{m}}}}},
	}
}
