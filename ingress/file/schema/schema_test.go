package schema

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	kjson "sigs.k8s.io/json"
)

func TestEveryKindIsHere(t *testing.T) {
	for _, kind := range []string{
		"GatewayClass", "Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute",
		"ReferenceGrant", "BackendTLSPolicy",
	} {
		s := For(kind, "v1")
		if s == nil {
			t.Errorf("no schema of %s v1", kind)
			continue
		}
		if s.Namespaced() == (kind == "GatewayClass") {
			t.Errorf("%s: namespaced %v", kind, s.Namespaced())
		}
		if s.Properties["spec"] == nil {
			t.Errorf("%s has no spec", kind)
		}
	}
	if For("HTTPRoute", "v7") != nil || Known("Ingress") || !Known("TLSRoute") {
		t.Error("unknown kinds or versions are known")
	}
}

func tree(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// What kubectl shows of an object that was applied with less.
func TestDefaults(t *testing.T) {
	for _, c := range []struct{ name, kind, in, want string }{
		{
			"a route",
			"HTTPRoute",
			`{"spec":{"parentRefs":[{"name":"eg"}],"rules":[{"backendRefs":[{"name":"backend","port":3000}]}]}}`,
			`{"spec":{"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"eg"}],
			  "rules":[{"backendRefs":[{"group":"","kind":"Service","name":"backend","port":3000,"weight":1}],
			  "matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]}}`,
		},
		{
			"a match without a path, and a header",
			"HTTPRoute",
			`{"spec":{"rules":[{"matches":[{"headers":[{"name":"env","value":"canary"}]}]}]}}`,
			`{"spec":{"rules":[{"matches":[{"headers":[{"name":"env","type":"Exact","value":"canary"}],"path":{"type":"PathPrefix","value":"/"}}]}]}}`,
		},
		{
			"a route without rules",
			"HTTPRoute", `{"spec":{}}`,
			`{"spec":{"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]}}`,
		},
		{
			"a redirect",
			"HTTPRoute",
			`{"spec":{"rules":[{"matches":[],"filters":[{"type":"RequestRedirect","requestRedirect":{"scheme":"https"}}]}]}}`,
			`{"spec":{"rules":[{"matches":[],"filters":[{"type":"RequestRedirect","requestRedirect":{"scheme":"https","statusCode":302}}]}]}}`,
		},
		{
			"a Gateway",
			"Gateway",
			`{"spec":{"gatewayClassName":"eg","listeners":[{"name":"https","protocol":"HTTPS","port":443,"tls":{"certificateRefs":[{"name":"c"}]}}]}}`,
			`{"spec":{"gatewayClassName":"eg","listeners":[{"name":"https","protocol":"HTTPS","port":443,
			  "allowedRoutes":{"namespaces":{"from":"Same"}},
			  "tls":{"mode":"Terminate","certificateRefs":[{"group":"","kind":"Secret","name":"c"}]}}]}}`,
		},
		{
			"null is nothing said",
			"HTTPRoute", `{"spec":{"rules":null,"hostnames":["a.example"]}}`,
			`{"spec":{"hostnames":["a.example"],"rules":[{"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := tree(t, c.in)
			if bad := For(c.kind, "v1").Apply(got); len(bad) > 0 {
				t.Errorf("refused: %v", bad)
			}
			if diff := cmp.Diff(tree(t, c.want), got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
			// Defaults are of one object alone, and applying them again does nothing.
			before, err := json.Marshal(got)
			if err != nil {
				t.Fatal(err)
			}
			For(c.kind, "v1").Apply(got)
			if after, _ := json.Marshal(got); string(after) != string(before) {
				t.Errorf("a second time gives %s", after)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ name, kind, in, field, message string }{
		{"an unknown field", "HTTPRoute", `{"spec":{"hostname":["a"]}}`, "spec.hostname", "no such field"},
		{"a field in another case", "HTTPRoute", `{"spec":{"parentrefs":[]}}`, "spec.parentrefs", "is it parentRefs?"},
		{"an unknown field at the top", "HTTPRoute", `{"spce":{}}`, "spce", "no such field"},
		{"no class", "Gateway", `{"spec":{"listeners":[{"name":"a","port":80,"protocol":"HTTP"}]}}`, "spec.gatewayClassName", "required"},
		{"no spec", "Gateway", `{}`, "spec", "required"},
		{"no such port", "Gateway", `{"spec":{"gatewayClassName":"a","listeners":[{"name":"a","port":70000,"protocol":"HTTP"}]}}`, "spec.listeners[0].port", "more than 65535"},
		{"a port as text", "Gateway", `{"spec":{"gatewayClassName":"a","listeners":[{"name":"a","port":"80","protocol":"HTTP"}]}}`, "spec.listeners[0].port", "is a string, want a whole number"},
		{"two listeners of one name", "Gateway", `{"spec":{"gatewayClassName":"a","listeners":[{"name":"a","port":80,"protocol":"HTTP"},{"name":"a","port":81,"protocol":"HTTP"}]}}`,
			"spec.listeners[1]", `is the same as entry 0: name "a"`},
		{"a word that is none of the allowed", "HTTPRoute", `{"spec":{"rules":[{"matches":[{"path":{"type":"Prefix","value":"/"}}]}]}}`,
			"spec.rules[0].matches[0].path.type", `must be one of "Exact", "PathPrefix", "RegularExpression"`},
		{"a pattern", "HTTPRoute", `{"spec":{"hostnames":["a_b.example"]}}`, "spec.hostnames[0]", "does not match"},
		{"too many", "HTTPRoute", `{"spec":{"hostnames":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"]}}`, "spec.hostnames", "more than 16"},
		{"an address that is none", "Gateway", `{"spec":{"gatewayClassName":"a","addresses":[{"value":"10.0.0.1.2"}],"listeners":[{"name":"a","port":80,"protocol":"HTTP"}]}}`,
			"spec.addresses[0]", "none of the forms"},
		{"an object for a list", "HTTPRoute", `{"spec":{"rules":{"matches":[]}}}`, "spec.rules", "is a mapping, want a list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := For(c.kind, "v1").Apply(tree(t, c.in))
			if !slices.ContainsFunc(bad, func(p Problem) bool { return p.Field() == c.field && strings.Contains(p.Message, c.message) }) {
				t.Errorf("problems %v; want one of %s that says %q", bad, c.field, c.message)
			}
		})
	}
}

// An address may be a name of another type.
func TestAddressForms(t *testing.T) {
	for _, address := range []string{`{"value":"192.0.2.1"}`, `{"value":"2001:db8::1"}`, `{"type":"Hostname","value":"a.example"}`, `{"type":"IPAddress"}`} {
		obj := tree(t, `{"spec":{"gatewayClassName":"a","addresses":[`+address+`],"listeners":[{"name":"a","port":80,"protocol":"HTTP"}]}}`)
		if bad := For("Gateway", "v1").Apply(obj); len(bad) > 0 {
			t.Errorf("%s is refused: %v", address, bad)
		}
	}
}
