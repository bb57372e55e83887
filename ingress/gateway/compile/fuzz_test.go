package compile

import (
	"regexp"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/route"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func backendFrom(kind gatewayv1.Kind) backend.From {
	return backend.From{Kind: kind, Namespace: "default"}
}

func checkFuzzed(t *testing.T, c Compiled, rules int) {
	t.Helper()
	served := make(map[int]bool)
	for _, e := range c.Entries {
		if e.Rule >= rules || e.Value == nil {
			t.Fatalf("entry of rule %d of %d: %+v", e.Rule, rules, e)
		}
		served[e.Rule] = true
		p := e.Match.Path
		if (p.Kind == route.PathRegex) != (p.Regex != nil) {
			t.Fatalf("path %+v", p)
		}
		if p.Kind == route.PathExact || p.Kind == route.PathPrefix {
			if n, ok := route.Normalise(p.Value); !ok || n != p.Value {
				t.Fatalf("no request is ever matched with path %q, but with %q", p.Value, n)
			}
		}
		for _, b := range e.Value.Backends {
			if b.Weight < 0 || (b.Cluster == "") != (b.Status == 500) {
				t.Fatalf("backend %+v", b)
			}
		}
	}
	if c.Accepted.True && c.PartiallyInvalid == nil && len(served) != rules {
		t.Fatalf("%d rules of %d have entries, and the conditions do not tell: %+v", len(served), rules, c)
	}
	if !c.Accepted.True && c.PartiallyInvalid != nil {
		t.Fatalf("both invalid and partially invalid: %+v", c)
	}
	for _, cond := range []*Condition{&c.Accepted, &c.ResolvedRefs, c.PartiallyInvalid} {
		if cond != nil && (cond.Reason == "" || len(cond.Message) > maxMessage) {
			t.Fatalf("condition %+v", cond)
		}
	}
}

// An expression matches the whole of a value or nothing of it.
func FuzzPattern(f *testing.F) {
	for _, s := range [][2]string{{"a|b", "ab"}, {"(?m)^a$", "a\nb"}, {`\Qa`, "a"}, {"(?i)A", "a"}, {"a)(b", "ab"}, {`a\`, `a\`}, {"(?s).", "\n"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, expr, value string) {
		re, why := pattern(expr)
		if why != nil {
			return
		}
		if !re.MatchString(value) {
			return
		}
		own := regexp.MustCompile(expr)
		own.Longest()
		if loc := own.FindStringIndex(value); loc == nil {
			t.Fatalf("%q matches %q, which it does not by itself", expr, value)
		}
		if strings.Contains(value, "\x00") {
			return
		}
		if re.MatchString(value+"\x00suffix") && !own.MatchString(value+"\x00suffix") {
			t.Fatalf("%q is not anchored", expr)
		}
	})
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://*.example.com:8443", "https://a.b.example.com:8443")
	f.Add("http://*", "http://[::1]")
	f.Fuzz(func(t *testing.T, pattern, value string) {
		o, why := origin(pattern)
		if why != nil {
			return
		}
		if (o.Exact == "") == (o.Regex == nil) {
			t.Fatalf("%q: %+v", pattern, o)
		}
		if o.Regex != nil && o.Regex.MatchString(value) && strings.ContainsAny(strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(value), "https://"), "http://"), "/?#@") {
			t.Fatalf("%q lets %q in, which is more than an origin", pattern, value)
		}
	})
}
