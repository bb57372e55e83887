package backend

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/ingress/upstream"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// told is one line for each ancestor: "POLICY GATEWAY Accepted=… ResolvedRefs=…".
func told(x *Index, gateways func(types.NamespacedName) []types.NamespacedName) (lines []string, messages string) {
	for _, st := range x.PolicyStatuses(gateways) {
		for _, a := range st.Ancestors {
			line := fmt.Sprintf("%s %s", st.Policy.Name, a.Gateway.Name)
			for _, c := range a.Conditions {
				line += fmt.Sprintf(" %s=%s/%s", c.Type, c.Status, c.Reason)
				messages += c.Message + "\n"
				if c.ObservedGeneration != st.Generation {
					line += " of another generation"
				}
			}
			lines = append(lines, line)
		}
	}
	return lines, messages
}

func TestPolicyStatuses(t *testing.T) {
	const (
		web = `
kind: Service
metadata: {name: web}
spec: {ports: [{name: https, port: 443}, {name: admin, port: 8443}]}
---
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: CA}
`
		good = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs"
	)
	policy := func(name, created, target, validation string) string {
		return fmt.Sprintf(`
---
kind: BackendTLSPolicy
metadata: {name: %s, generation: 3, creationTimestamp: %q}
spec:
  targetRefs: %s
  validation: %s
`, name, created, target, validation)
	}
	const (
		older, newer = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
		whole        = `[{group: "", kind: Service, name: web}]`
		https        = `[{group: "", kind: Service, name: web, sectionName: https}]`
		valid        = `{hostname: web.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}`
	)
	for _, tt := range []struct {
		name string
		docs string
		want []string
		says string
	}{
		{name: "accepted", docs: web + policy("a", older, whole, valid), want: []string{"a edge " + good, "a inner " + good}},
		{name: "the system's certificates", docs: web + policy("a", older, whole, `{hostname: web.example.com, wellKnownCACertificates: System}`),
			want: []string{"a edge " + good, "a inner " + good}},
		{name: "a Secret", docs: web + "---\nkind: Secret\nmetadata: {name: ca}\nstringData: {ca.crt: CA}\n" +
			policy("a", older, whole, `{hostname: web.example.com, caCertificateRefs: [{group: "", kind: Secret, name: ca}]}`),
			want: []string{"a edge " + good, "a inner " + good}},
		{name: "the newer loses", docs: web + policy("a", newer, whole, valid) + policy("b", older, whole, valid),
			want: []string{"a edge Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs", "b edge " + good, "b inner " + good},
			says: "policy default/b, which is older or first by name, is about Service default/web too"},
		{name: "of one age the later by name loses", docs: web + policy("a", older, https, valid) + policy("b", older, https, valid),
			want: []string{"a edge " + good, "a inner " + good, "b edge Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs", "b inner Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs"},
			says: "port https of Service default/web"},
		{name: "a port and the whole do not conflict", docs: web + policy("a", older, whole, valid) + policy("b", newer, https, valid),
			want: []string{"a edge " + good, "a inner " + good, "b edge " + good, "b inner " + good}},
		{name: "losing one of two targets is losing",
			docs: web + policy("a", older, https, valid) + policy("b", newer, `[{group: "", kind: Service, name: web, sectionName: https}, {group: "", kind: Service, name: web, sectionName: admin}]`, valid),
			want: []string{"a edge " + good, "a inner " + good, "b edge Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs", "b inner Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs"},
			says: "this policy is in force for port admin of Service default/web"},
		{name: "no such ConfigMap", docs: web + policy("a", older, whole, `{hostname: web.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: absent}]}`),
			want: []string{"a edge Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef", "a inner Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef"},
			says: "there is no ConfigMap default/absent"},
		{name: "an empty ConfigMap", docs: web + "---\nkind: ConfigMap\nmetadata: {name: empty}\ndata: {}\n" + policy("a", older, whole, `{hostname: web.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: empty}]}`),
			want: []string{"a edge Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef", "a inner Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef"},
			says: "no ca.crt"},
		{name: "another kind", docs: web + policy("a", older, whole, `{hostname: web.example.com, caCertificateRefs: [{group: invalid.io, kind: InvalidKind, name: x}]}`),
			want: []string{"a edge Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidKind", "a inner Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidKind"}},
		{name: "one of two", docs: web + policy("a", older, whole, `{hostname: web.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}, {group: "", kind: ConfigMap, name: absent}]}`),
			want: []string{"a edge Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef", "a inner Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef"}},
		{name: "unknown well-known certificates", docs: web + policy("a", older, whole, `{hostname: web.example.com, wellKnownCACertificates: example.com/own}`),
			want: []string{"a edge Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs"},
			says: `"example.com/own" is not known`},
		{name: "nobody to trust", docs: web + policy("a", older, whole, `{hostname: web.example.com}`),
			want: []string{"a edge Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs"}},
		{name: "no hostname", docs: web + policy("a", older, whole, `{hostname: "", wellKnownCACertificates: System}`),
			want: []string{"a edge Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs"}},
		{name: "an address for a hostname", docs: web + policy("a", older, whole, `{hostname: 10.0.0.1, wellKnownCACertificates: System}`),
			want: []string{"a edge Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs"}},
		{name: "a name of an unknown type", docs: web + policy("a", older, whole, `{hostname: web.example.com, wellKnownCACertificates: System, subjectAltNames: [{type: Email}]}`),
			want: []string{"a edge Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs"}},
		{name: "no such Service", docs: policy("a", older, whole, `{hostname: web.example.com, wellKnownCACertificates: System}`),
			want: []string{"a edge Accepted=False/TargetNotFound ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/TargetNotFound ResolvedRefs=True/ResolvedRefs"}},
		{name: "no such port", docs: web + policy("a", older, `[{group: "", kind: Service, name: web, sectionName: absent}]`, valid),
			want: []string{"a edge Accepted=False/TargetNotFound ResolvedRefs=True/ResolvedRefs", "a inner Accepted=False/TargetNotFound ResolvedRefs=True/ResolvedRefs"},
			says: "no port named absent"},
		{name: "options", docs: web + strings.Replace(policy("a", older, whole, valid), "spec:", "spec:\n  options: {example.com/minimum: v1}", 1),
			want: []string{"a edge " + good, "a inner " + good}, says: "not heeded"},
		{name: "targets of other controllers", docs: web + policy("a", older, `[{group: example.com, kind: Backend, name: web}]`, valid)},
		{name: "no Gateway leads there", docs: web + policy("a", older, `[{group: "", kind: Service, name: unused}]`, valid)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := NewIndex(Options{})
			load(t, x, tt.docs)
			got, messages := told(x, func(s types.NamespacedName) []types.NamespacedName {
				if s == in("web") {
					return []types.NamespacedName{inner, edge, inner}
				}
				return nil
			})
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
			if !strings.Contains(messages, tt.says) {
				t.Errorf("messages do not say %q:\n%s", tt.says, messages)
			}
		})
	}
}

func TestPolicyInForce(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, `
kind: Service
metadata: {name: web}
spec: {ports: [{name: https, port: 443}, {name: admin, port: 8443}]}
---
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: CA}
---
kind: BackendTLSPolicy
metadata: {name: whole}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  validation:
    hostname: whole.example.com
    wellKnownCACertificates: System
    subjectAltNames: [{type: Hostname, hostname: "*.Example.com"}, {type: URI, uri: "spiffe://example.com/web"}]
---
kind: BackendTLSPolicy
metadata: {name: port}
spec:
  targetRefs: [{group: "", kind: Service, name: web, sectionName: admin}]
  validation: {hostname: admin.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}
`)
	tlsOf := func(port int32) *upstream.TLS {
		got, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", port))
		if p != nil {
			t.Fatal(p)
		}
		return x.Cluster(got.Cluster).TLS
	}
	if c := tlsOf(443); c.ServerName != "whole.example.com" || c.Roots != nil || !slices.Equal(c.SANs, []upstream.SAN{{DNS: "*.example.com"}, {URI: "spiffe://example.com/web"}}) {
		t.Errorf("the whole Service: %+v", c)
	}
	if c := tlsOf(8443); c.ServerName != "admin.example.com" || c.Roots == nil || c.SANs != nil {
		t.Errorf("the port with a policy of its own: %+v", c)
	}
	x.DeleteBackendTLSPolicy(in("port"))
	if c := tlsOf(8443); c.ServerName != "whole.example.com" {
		t.Errorf("after the port's policy is gone: %+v", c)
	}
	x.DeleteBackendTLSPolicy(in("whole"))
	if c := tlsOf(8443); c != nil {
		t.Errorf("after all policies are gone: %+v", c)
	}
}

// The older of two policies counts even if it is invalid: the other would trust
// whom the older does not.
func TestInvalidPolicyIsNotReplacedByANewerOne(t *testing.T) {
	x := NewIndex(Options{})
	load(t, x, `
kind: Service
metadata: {name: web}
spec: {ports: [{port: 443}]}
---
kind: BackendTLSPolicy
metadata: {name: a}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  validation: {hostname: a.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: absent}]}
---
kind: BackendTLSPolicy
metadata: {name: b}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  validation: {hostname: b.example.com, wellKnownCACertificates: System}
`)
	if got, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", 443)); p == nil {
		t.Errorf("it resolves to %v", got)
	}
}

// Whatever a policy says, it never leads to a backend that is not verified.
func FuzzBackendTLSPolicy(f *testing.F) {
	f.Add(`{targetRefs: [{kind: Service, name: web}], validation: {hostname: a, caCertificateRefs: [{kind: ConfigMap, name: ca}]}}`)
	f.Add(`{targetRefs: [{kind: Service, name: web, sectionName: https}], validation: {hostname: a, wellKnownCACertificates: System, subjectAltNames: [{type: URI, uri: "a:b"}]}}`)
	f.Fuzz(func(t *testing.T, spec string) {
		o := &gatewayv1.BackendTLSPolicy{}
		o.Namespace, o.Name = "default", "policy"
		if err := yaml.Unmarshal([]byte(spec), &o.Spec); err != nil {
			return
		}
		x := NewIndex(Options{})
		load(t, x, `
kind: Service
metadata: {name: web}
spec: {ports: [{name: https, port: 443}]}
---
kind: ConfigMap
metadata: {name: ca}
data: {ca.crt: CA}
`)
		before, _ := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", 443))
		x.SetBackendTLSPolicy(o)
		statuses, _ := told(x, func(types.NamespacedName) []types.NamespacedName { return []types.NamespacedName{edge} })
		got, p := x.Resolve(From{Kind: "HTTPRoute", Namespace: "default"}, ref("", "web", 443))
		c := x.Cluster(before.Cluster).TLS
		if len(statuses) == 0 {
			return // of no Service
		}
		accepted := strings.Contains(statuses[0], "Accepted=True")
		switch {
		case p != nil:
			if accepted || c == nil || c.Invalid == "" {
				t.Fatalf("%s: %+v, but TLS is %+v", statuses[0], p, c)
			}
		case c == nil:
			if accepted && slices.ContainsFunc(x.policies[in("policy")].targets(), func(t target) bool { return t.service == in("web") }) {
				t.Fatalf("%s, but %v is plaintext", statuses[0], got)
			}
		case c.Invalid != "" || c.ServerName == "" || c.Roots == nil && len(o.Spec.Validation.CACertificateRefs) > 0:
			t.Fatalf("TLS is %+v", c)
		}
	})
}
