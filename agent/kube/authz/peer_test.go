package authz

import (
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/policy"
)

// refused lists the ports of 80 and 8080 on which plaintext is refused under a
// mesh, a namespace and a workload PeerAuthentication.
func refused(t *testing.T, mesh, namespace, workload string) (out []uint16) {
	t.Helper()
	read := func(spec string) *Peer {
		if spec == "" {
			return nil
		}
		p := ConvertPeer(object(t, spec))
		if len(p.Problems) > 0 {
			t.Fatalf("%s: %q", spec, p.Problems)
		}
		return &p
	}
	m, n, w := read(mesh), read(namespace), read(workload)
	mode := Inherit(m, n, w)
	var policies []policy.Policy
	ported := false
	if w != nil {
		var p policy.Policy
		if p, ported = w.PortPolicy(mode); ported {
			policies = append(policies, p)
		}
	}
	if mode == Strict && !ported {
		policies = append(policies, StaticStrictPolicy("istio-system"))
	}
	for _, port := range [...]uint16{80, 8080} {
		allowed := func(id spiffeid.ID) bool {
			ok := true
			for _, p := range policies {
				ok = ok && check(t, p, policy.Connection{
					Source: id, SourceAddr: netip.MustParseAddr("10.0.0.1"),
					Destination: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port),
				}).Allowed
			}
			return ok
		}
		if !allowed(connection().Source) {
			t.Errorf("port %d: a source with an identity is refused", port)
		}
		if !allowed(spiffeid.ID{}) {
			out = append(out, port)
		}
	}
	return out
}

func TestPeerAuthenticationPrecedence(t *testing.T) {
	const (
		strict     = `mtls: {mode: STRICT}`
		permissive = `mtls: {mode: PERMISSIVE}`
		disable    = `mtls: {mode: DISABLE}`
		unset      = `mtls: {mode: UNSET}`
	)
	selected := func(rest string) string { return `{selector: {matchLabels: {a: b}}, ` + rest + `}` }
	for _, tt := range []struct {
		name                      string
		mesh, namespace, workload string
		want                      []uint16
	}{
		{name: "nothing is PERMISSIVE"},
		{name: "mesh", mesh: strict, want: []uint16{80, 8080}},
		{name: "namespace over mesh", mesh: strict, namespace: permissive},
		{name: "DISABLE as PERMISSIVE", mesh: strict, namespace: disable},
		{name: "UNSET inherits", mesh: strict, namespace: unset, want: []uint16{80, 8080}},
		{name: "no mtls inherits", mesh: strict, namespace: `{}`, want: []uint16{80, 8080}},
		{name: "workload over namespace", namespace: strict, workload: selected(permissive)},
		{name: "workload STRICT", namespace: permissive, workload: selected(strict), want: []uint16{80, 8080}},
		{name: "workload UNSET", namespace: strict, workload: selected(unset), want: []uint16{80, 8080}},
		{name: "an exception of STRICT", workload: selected(`mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: PERMISSIVE}}`), want: []uint16{80}},
		{name: "an exception of an inherited STRICT", mesh: strict, workload: selected(`portLevelMtls: {8080: {mode: DISABLE}}`), want: []uint16{80}},
		{name: "a STRICT port", workload: selected(`mtls: {mode: PERMISSIVE}, portLevelMtls: {8080: {mode: STRICT}}`), want: []uint16{8080}},
		{name: "a STRICT port of what is PERMISSIVE by itself", workload: selected(`portLevelMtls: {8080: {mode: STRICT}}`), want: []uint16{8080}},
		{name: "ports as the rest", mesh: strict, workload: selected(`portLevelMtls: {8080: {mode: STRICT}}`), want: []uint16{80, 8080}},
		{name: "an UNSET port", mesh: strict, workload: selected(`portLevelMtls: {8080: {mode: UNSET}}`), want: []uint16{80, 8080}},
		{name: "both kinds of ports", workload: selected(`portLevelMtls: {80: {mode: STRICT}, 8080: {mode: PERMISSIVE}}`), want: []uint16{80}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := refused(t, tt.mesh, tt.namespace, tt.workload)
			if len(got) != len(tt.want) || len(got) > 0 && got[0] != tt.want[0] || len(got) > 1 && got[1] != tt.want[1] {
				t.Errorf("plaintext is refused on %v, want %v", got, tt.want)
			}
		})
	}
}

func TestMalformedPeerAuthenticationIsStrict(t *testing.T) {
	for name, spec := range map[string]string{
		"another type":       `strict`,
		"mtls of a type":     `{mtls: PERMISSIVE}`,
		"an unknown mode":    `{mtls: {mode: LENIENT}}`,
		"mtls with more":     `{mtls: {mode: PERMISSIVE, until: tomorrow}}`,
		"an unknown field":   `{mtls: {mode: PERMISSIVE}, ports: []}`,
		"selector of a type": `{selector: web, mtls: {mode: PERMISSIVE}}`,
		"ports of a type":    `{selector: {matchLabels: {a: b}}, mtls: {mode: PERMISSIVE}, portLevelMtls: []}`,
	} {
		p := ConvertPeer(object(t, spec))
		if p.Mode != Strict || len(p.Problems) == 0 {
			t.Errorf("%s: mode %v, problems %q; want STRICT, and said so", name, p.Mode, p.Problems)
		}
	}
	p := ConvertPeer(object(t, `{selector: {matchLabels: {a: b}}, portLevelMtls: {80: {mode: LENIENT}, http: {mode: STRICT}}}`))
	if p.Ports[80] != Strict || len(p.Ports) != 1 || len(p.Problems) != 2 {
		t.Errorf("ports %v, problems %q", p.Ports, p.Problems)
	}
	p = ConvertPeer(object(t, `{portLevelMtls: {80: {mode: PERMISSIVE}}}`))
	if len(p.Ports) != 0 || len(p.Problems) != 1 {
		t.Errorf("ports without a selector: %v, problems %q", p.Ports, p.Problems)
	}
}
