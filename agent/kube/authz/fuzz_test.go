package authz

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/policy"
)

// tri is what can be said of a rule without knowing layer 7.
type tri int

const (
	no tri = iota
	maybe
	yes
)

func truth(b bool) tri {
	if b {
		return yes
	}
	return no
}

func anyOf(list []any, f func(any) tri) tri {
	out := no
	for _, v := range list {
		out = max(out, f(v))
	}
	return out
}

func not(t tri) tri { return yes - t }

// slow evaluates a rule as its documentation reads, on the JSON itself.
type slow struct {
	c  policy.Connection
	ns string
}

func (s slow) rule(v any) tri {
	m, ok := v.(map[string]any)
	if !ok {
		return maybe
	}
	out := yes
	for name, v := range m {
		list, ok := v.([]any)
		switch {
		case v == nil, ok && len(list) == 0:
		case !ok:
			out = min(out, maybe)
		case name == "to":
			out = min(out, anyOf(list, func(v any) tri { return s.fields(inner(v, "operation")) }))
		case name == "from":
			out = min(out, anyOf(list, func(v any) tri { return s.fields(inner(v, "source")) }))
		case name == "when":
			for _, v := range list {
				out = min(out, s.when(v))
			}
		default:
			out = min(out, maybe)
		}
	}
	return out
}

// inner is the only field of an object; nil if it is not so.
func inner(v any, name string) any {
	m, ok := v.(map[string]any)
	if !ok || len(m) != 1 {
		return nil
	}
	return m[name]
}

func (s slow) fields(v any) tri {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return maybe
	}
	out, any := yes, false
	for name, v := range m {
		if v == nil {
			continue
		}
		list, ok := v.([]anything)
		if !ok {
			return maybe
		}
		if len(list) == 0 {
			continue
		}
		any = true
		out = min(out, s.field(name, list))
	}
	if !any {
		return maybe
	}
	return out
}

type anything = any

func (s slow) field(name string, list []any) tri {
	camel := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(name), "not"), "_", "")
	out := anyOf(list, func(v any) tri {
		text, ok := v.(string)
		if !ok {
			return maybe
		}
		return s.value(camel, text)
	})
	if strings.HasPrefix(strings.ToLower(name), "not") {
		return not(out)
	}
	return out
}

func (s slow) value(field, v string) tri {
	id := strings.TrimPrefix(s.c.Source.String(), "spiffe://")
	td, rest, _ := strings.Cut(id, "/ns/")
	ns, sa, _ := strings.Cut(rest, "/sa/")
	switch field {
	case "ports", "destination.port":
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return maybe
		}
		return truth(uint16(n) == s.c.Destination.Port())
	case "ipblocks", "source.ip":
		return in(v, s.c.SourceAddr)
	case "destination.ip":
		return in(v, s.c.Destination.Addr())
	case "principals", "source.principal":
		return like(strings.TrimPrefix(v, "spiffe://"), v, id)
	case "namespaces", "source.namespace":
		return like(v, v, ns)
	case "trustdomains":
		if strings.Contains(v, "/") || strings.HasPrefix(v, "*") && v != "*" {
			return maybe
		}
		return like(v, v, td)
	case "serviceaccounts":
		n, a, ok := strings.Cut(v, "/")
		if !ok {
			n, a = s.ns, v
		}
		if n == "" || a == "" || strings.ContainsAny(v, "*") || strings.Contains(a, "/") {
			return maybe
		}
		return truth(n == ns && a == sa)
	}
	return maybe
}

func in(v string, a netip.Addr) tri {
	if p, err := netip.ParsePrefix(v); err == nil {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return truth(p.Contains(a))
	}
	b, err := netip.ParseAddr(v)
	if err != nil || b.Zone() != "" {
		return maybe
	}
	return truth(a == b.Unmap())
}

func like(pattern, written, v string) tri {
	if written == "" || strings.Count(written, "*") > 1 || strings.Contains(strings.Trim(written, "*"), "*") {
		return maybe
	}
	switch {
	case v == "":
		return no // nobody is nobody's match
	case written == "*":
		return yes
	case strings.HasPrefix(written, "*"):
		return truth(strings.HasSuffix(v, strings.TrimPrefix(written[1:], "spiffe://")) && written[1:] != "spiffe://")
	case strings.HasSuffix(pattern, "*"):
		return truth(strings.HasPrefix(v, strings.TrimSuffix(pattern, "*")))
	}
	return truth(v == pattern)
}

func (s slow) when(v any) tri {
	m, ok := v.(map[string]any)
	if !ok {
		return maybe
	}
	key, _ := m["key"].(string)
	out, any := yes, false
	for name, v := range m {
		list, ok := v.([]anything)
		switch {
		case name == "key", v == nil, ok && len(list) == 0:
			continue
		case !ok || name != "values" && name != "notValues" && name != "not_values":
			out = min(out, maybe)
			continue
		}
		any = true
		switch key {
		case "source.ip", "source.namespace", "source.principal", "destination.ip", "destination.port":
		default:
			return maybe
		}
		t := anyOf(list, func(v anything) tri {
			text, ok := v.(string)
			if !ok {
				return maybe
			}
			return s.value(key, text)
		})
		if name != "values" {
			t = not(t)
		}
		out = min(out, t)
	}
	if !any {
		return maybe
	}
	return out
}

// FuzzAuthorization: whatever is written, an ALLOW policy allows only what a
// rule of it certainly allows, and a DENY policy lets through only what no rule
// of it could deny.
func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{
		`{"rules":[{}]}`, `{"action":"DENY","rules":[{"to":[{"operation":{"methods":["GET"],"ports":["80"]}}]}]}`,
		`{"rules":[{"from":[{"source":{"notIpBlocks":["10.0.0.0/8","x"],"namespaces":["a"]}}],"when":[{"key":"destination.port","notValues":["81"]}]}]}`,
		`{"rules":[{"from":[{"source":{"principals":["*/sa/b"],"notTrustDomains":["x"],"serviceAccounts":["a/b"]}}]}]}`,
		`{"action":"DENY","rules":[{"from":[{"source":{"trustDomains":["cluster*"],"notNamespaces":["*"]}}]}]}`,
		`{"selector":{"matchLabels":{"a":"b"}},"rules":[{"when":[{"key":"request.headers[a]","values":["b"]}]}]}`,
		`{"action":"CUSTOM","provider":{"name":"x"},"rules":[{"to":[{"operation":{"ports":["80"],"paths":["/a"]}}]}]}`,
		`{"rules":[{"from":[{"source":{"not_ip_blocks":["10.0.0.1"]}}]}],"action":null}`, `[]`, `null`, `{"rules":null}`,
	} {
		f.Add([]byte(seed), true)
		f.Add([]byte(seed), false)
	}
	f.Fuzz(func(t *testing.T, spec []byte, identified bool) {
		var v any
		if json.Unmarshal(spec, &v) != nil {
			return
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return
		}
		neverWider(t, v, raw, identified)
	})
}

// neverWider compares what a policy lets through with what its rules say. One
// without problems must decide exactly as they say.
func neverWider(t *testing.T, spec any, raw []byte, identified bool) {
	t.Helper()
	a := ConvertAuthorization("root", Object{Namespace: "a", Name: "p", Spec: raw})
	if !a.Bound {
		return
	}
	c := connection()
	if !identified {
		c.Source = spiffeid.ID{}
	}
	m, _ := spec.(map[string]any)
	rules, _ := m["rules"].([]any)
	s := slow{c, "a"}
	got := anyOf(rules, s.rule)
	allowed := check(t, a.Policy, c).Allowed
	if len(a.Problems) == 0 && allowed != ((got == yes) == (a.Policy.Action == policy.Allow)) {
		t.Errorf("allowed is %v, and no problem is reported, though the rules match: %v\n%s\n%+v", allowed, got, raw, a.Policy.Rules)
	}
	if !allowed {
		return
	}
	switch action, _ := m["action"].(string); action {
	case "", "ALLOW":
		if got != yes {
			t.Errorf("allowed, though no rule certainly allows it\n%s\n%+v", raw, a.Policy.Rules)
		}
	case "DENY", "CUSTOM":
		if got != no {
			t.Errorf("let through, though a rule may deny it\n%s\n%+v", raw, a.Policy.Rules)
		}
	default:
		t.Errorf("allowed by action %q", action)
	}
}

// TestRandomAuthorizations is FuzzAuthorization with specs that look like
// policies, which a fuzzer of bytes seldom comes by.
func TestRandomAuthorizations(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	list := func(n int, f func() any) []any {
		out := []any{}
		for range r.IntN(n + 1) {
			out = append(out, f())
		}
		return out
	}
	names := func() any {
		return pick("a", "b", "*", "a*", "*a", "clu*", "*b", "", "**", "a*b", "a/b", "b/b", "cluster.local", "cluster.local/ns/a/sa/b", "spiffe://cluster.local/*", "*/sa/b")
	}
	addrs := func() any {
		return pick("10.0.0.1", "10.0.0.2", "10.0.0.0/8", "10.0.0.0/31", "::/0", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "x", "10.0.0.0/33", "fe80::1%eth0", "0.0.0.0/0")
	}
	ports := func() any { return pick("80", "81", "0", "65536", "http", "080", "-1", " 80") }
	object := func(n int, field func() (string, any)) map[string]any {
		out := map[string]any{}
		for range r.IntN(n + 1) {
			k, v := field()
			out[k] = v
		}
		return out
	}
	source := func() any {
		return map[string]any{"source": object(3, func() (string, any) {
			switch k := pick("principals", "notPrincipals", "namespaces", "notNamespaces", "ipBlocks", "notIpBlocks",
				"serviceAccounts", "notServiceAccounts", "trustDomains", "notTrustDomains", "remoteIpBlocks", "requestPrincipals", "moon"); k {
			case "ipBlocks", "notIpBlocks":
				return k, list(2, addrs)
			default:
				return k, list(2, names)
			}
		})}
	}
	operation := func() any {
		return map[string]any{"operation": object(2, func() (string, any) {
			return pick("ports", "notPorts", "ports", "methods", "notPaths"), list(2, ports)
		})}
	}
	condition := func() any {
		k := pick("source.ip", "destination.ip", "source.namespace", "source.principal", "destination.port", "request.headers[a]", "")
		f := names
		switch k {
		case "source.ip", "destination.ip":
			f = addrs
		case "destination.port":
			f = ports
		}
		return map[string]any{"key": k, pick("values", "notValues"): list(2, f)}
	}
	rule := func() any {
		return object(3, func() (string, any) {
			switch k := pick("from", "to", "when"); k {
			case "from":
				return k, list(2, source)
			case "to":
				return k, list(2, operation)
			default:
				return k, list(2, condition)
			}
		})
	}
	through := 0
	for i := range 50_000 {
		spec := map[string]any{"rules": list(2, rule)}
		if a := pick("ALLOW", "DENY", "CUSTOM", ""); a != "" {
			spec["action"] = a
		}
		raw, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		neverWider(t, spec, raw, i%3 != 0)
		if check(t, ConvertAuthorization("root", Object{Namespace: "a", Name: "p", Spec: raw}).Policy, connection()).Allowed {
			through++
		}
		if t.Failed() {
			return
		}
	}
	if through < 1000 {
		t.Errorf("only %d policies let anything through: this compares nothing", through)
	}
}
