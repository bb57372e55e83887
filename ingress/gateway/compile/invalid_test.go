package compile

import (
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

// Most of this the definitions of the kinds do not let in; files pass by them.
func TestInvalidRules(t *testing.T) {
	const incompatible = "IncompatibleFilters"
	rewrite := func(path string) string {
		return `{filters: [{type: URLRewrite, urlRewrite: {path: ` + path + `}}], matches: [{path: {type: Exact, value: /x}}]}`
	}
	set := func(headers string) string {
		return `{filters: [{type: RequestHeaderModifier, requestHeaderModifier: ` + headers + `}]}`
	}
	mirror := func(share string) string {
		return `{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: v1, port: 80}, ` + share + `}}]}`
	}
	redirect := func(r string) string {
		return `{filters: [{type: RequestRedirect, requestRedirect: ` + r + `}]}`
	}
	cors := func(c string) string { return `{filters: [{type: CORS, cors: ` + c + `}]}` }

	for _, tt := range []struct {
		rule   string
		reason gatewayv1.RouteConditionReason // "" = UnsupportedValue
		says   string
		gone   bool // nothing matches it: its matches make no sense
	}{
		{rule: `{matches: [{path: {type: Glob, value: /x}}]}`, says: `matches[0]: path is of type "Glob"`, gone: true},
		{rule: `{matches: [{}, {path: {value: x}}]}`, says: "matches[1]: path \"x\": it does not begin with /", gone: true},
		{rule: `{matches: [{path: {value: //x}}]}`, says: "contains //", gone: true},
		{rule: `{matches: [{path: {value: /x/../y}}]}`, says: "segment", gone: true},
		{rule: `{matches: [{path: {value: /x/%2e%2E}}]}`, says: "segment", gone: true},
		{rule: `{matches: [{path: {value: /x%2fy}}]}`, says: "escaped slash", gone: true},
		{rule: `{matches: [{path: {value: /x%zz}}]}`, says: "not the path of a URL", gone: true},
		{rule: `{matches: [{path: {value: "/x y"}}]}`, says: "not the path of a URL", gone: true},
		{rule: `{matches: [{path: {value: "/x?y"}}]}`, says: "not the path of a URL", gone: true},
		{rule: `{matches: [{path: {type: RegularExpression, value: "/(?<=x)"}}]}`, says: "RE2", gone: true},
		{rule: `{matches: [{path: {type: RegularExpression, value: "a)(b"}}]}`, says: "RE2", gone: true},
		{rule: `{matches: [{method: BREW}]}`, says: `method "BREW"`, gone: true},
		{rule: `{matches: [{headers: [{name: ":path", value: x}]}]}`, says: `headers[0]: ":path"`, gone: true},
		{rule: `{matches: [{headers: [{name: a, value: x}, {name: b, type: Prefix, value: x}]}]}`, says: `headers[1]: it is of type "Prefix"`, gone: true},
		{rule: `{matches: [{headers: [{name: a, type: RegularExpression, value: "["}]}]}`, says: "headers[0]", gone: true},
		{rule: `{matches: [{queryParams: [{name: a, type: RegularExpression, value: "["}]}]}`, says: "queryParams[0]", gone: true},

		{rule: `{filters: [{type: Magic}]}`, says: `filters of type "Magic"`},
		{rule: `{filters: [{type: RequestMirror}]}`, says: "lacks the field"},
		{rule: `{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]}`, reason: incompatible, says: "filters[1]: CORS is there twice"},
		{rule: `{backendRefs: [{name: v1, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}]}]}`, reason: incompatible, says: "backendRefs[0].filters"},
		{rule: `{backendRefs: [{name: v1, port: 80}, {name: v1, port: 80, filters: [{type: Magic}]}]}`, says: "backendRefs[1].filters[0]"},
		{rule: rewrite(`{type: ReplacePrefixMatch, replacePrefixMatch: /y}`), says: "PathPrefix"},
		{rule: rewrite(`{type: ReplacePrefixMatch}`), says: "replacePrefixMatch"},
		{rule: rewrite(`{type: ReplaceFullPath}`), says: "replaceFullPath"},
		{rule: rewrite(`{type: ReplaceHalf}`), says: `"ReplaceHalf"`},
		{rule: rewrite("{type: ReplaceFullPath, replaceFullPath: \"/x\\r\\nSet-Cookie: a\"}"), says: "not the path of a URL"},
		{rule: `{filters: [{type: URLRewrite, urlRewrite: {hostname: "*.example.com"}}]}`, says: "not the name of a host"},
		{rule: redirect(`{scheme: ftp}`), says: `"ftp"`},
		{rule: redirect(`{statusCode: 304}`), says: "304"},
		{rule: redirect(`{port: 70000}`), says: "70000"},
		{rule: redirect("{hostname: \"a\\r\\nb\"}"), says: "not the name of a host"},
		{rule: set(`{set: [{name: "a b", value: x}]}`), says: "not the name"},
		{rule: set("{add: [{name: a, value: \"x\\r\\nb: c\"}]}"), says: "characters"},
		{rule: set(`{set: [{name: a, value: x}], add: [{name: A, value: y}]}`), says: "both set and add"},
		{rule: set(`{add: [{name: a, value: x}], remove: [a]}`), says: "both add and remove"},
		{rule: set(`{set: [{name: host, value: x}]}`), says: "URLRewrite"},
		{rule: set(`{set: [{name: content-length, value: "0"}]}`), says: "Content-Length belongs to the connection"},
		{rule: set(`{set: [{name: x-forwarded-client-cert, value: "URI=spiffe://x"}]}`), says: "tells who is at the ends"},
		{rule: set(`{remove: [transfer-encoding]}`), says: "Transfer-Encoding"},
		{rule: mirror(`percent: 101`), says: "101 of 100"},
		{rule: mirror(`percent: -1`), says: "-1 of 100"},
		{rule: mirror(`fraction: {numerator: 1, denominator: 0}`), says: "1 of 0"},
		{rule: mirror(`fraction: {numerator: 0, denominator: 0}`), says: "0 of 0"},
		{rule: mirror(`percent: 1, fraction: {numerator: 1}`), says: "exclude each other"},
		{rule: cors(`{allowOrigins: ["example.com"]}`), says: "allowOrigins"},
		{rule: cors(`{allowOrigins: ["ftp://example.com"]}`), says: "allowOrigins"},
		{rule: cors(`{allowOrigins: ["https://example.com/path"]}`), says: "allowOrigins"},
		{rule: cors(`{allowOrigins: ["https://example.com:0"]}`), says: "allowOrigins"},
		{rule: cors(`{allowMethods: ["GET, PUT"]}`), says: "allowMethods"},
		{rule: cors(`{exposeHeaders: ["a,b"]}`), says: "exposeHeaders"},
		{rule: cors(`{maxAge: -1}`), says: "negative"},
		{rule: `{timeouts: {request: 1d}}`, says: `"1d"`},
		{rule: `{timeouts: {request: 1.5s}}`, says: `"1.5s"`},
		{rule: `{timeouts: {request: 1s, backendRequest: 2s}}`, says: "longer"},
		{rule: `{retry: {codes: [200]}}`, says: "200"},
		{rule: `{retry: {attempts: -1}}`, says: "negative"},
		{rule: `{retry: {backoff: soon}}`, says: "soon"},
		{rule: `{sessionPersistence: {type: Magic}}`, says: "Magic"},
		{rule: `{sessionPersistence: {sessionName: "a=b;c"}}`, says: "a=b;c"},
		{rule: `{sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}}`, says: "absoluteTimeout"},
		{rule: `{sessionPersistence: {cookieConfig: {lifetimeType: Long}}}`, says: "Long"},
		{rule: `{sessionPersistence: {type: Header, cookieConfig: {lifetimeType: Session}}}`, says: "for the type Cookie"},
	} {
		x := index(t)
		c := compileYAML(t, x, `{kind: HTTPRoute, metadata: {name: r}, spec: {rules: [`+tt.rule+`]}}`)
		if tt.reason == "" {
			tt.reason = gatewayv1.RouteReasonUnsupportedValue
		}
		if c.Accepted.True || c.Accepted.Reason != tt.reason || !strings.Contains(c.Accepted.Message, tt.says) || !strings.Contains(c.Accepted.Message, "rules[0]") {
			t.Errorf("%s: Accepted is %+v, want false, %s, that says %q of rules[0]", tt.rule, c.Accepted, tt.reason, tt.says)
		}
		if (len(c.Entries) == 0) != tt.gone {
			t.Errorf("%s: %d entries", tt.rule, len(c.Entries))
		}
		for _, e := range c.Entries {
			if e.Value.Filters.Invalid == "" || len(e.Value.Backends) != 0 {
				t.Errorf("%s: it is forwarded: %+v", tt.rule, e.Value)
			}
		}
	}
}

func TestInvalidGRPCRules(t *testing.T) {
	for _, tt := range []struct{ rule, says string }{
		{`{matches: [{method: {}}]}`, "neither service nor method"},
		{`{matches: [{method: {service: a/b}}]}`, `method.service "a/b"`},
		{`{matches: [{method: {method: a.b}}]}`, `method.method "a.b"`},
		{`{matches: [{method: {type: RegularExpression, service: "("}}]}`, "RE2"},
		{`{matches: [{method: {type: RegularExpression, service: "a)|(b", method: c}}]}`, "RE2"},
		{`{matches: [{method: {type: Prefix, service: a}}]}`, `"Prefix"`},
		{`{matches: [{headers: [{name: a, type: Prefix, value: x}]}]}`, "headers[0]"},
		{`{filters: [{type: CORS}]}`, "CORS is no filter of GRPCRoute"},
		{`{filters: [{type: RequestRedirect}]}`, "no filter of GRPCRoute"},
	} {
		c := compileYAML(t, index(t), `{kind: GRPCRoute, metadata: {name: r}, spec: {rules: [`+tt.rule+`]}}`)
		if c.Accepted.True || c.Accepted.Reason != gatewayv1.RouteReasonUnsupportedValue || !strings.Contains(c.Accepted.Message, tt.says) {
			t.Errorf("%s: Accepted is %+v, want one that says %q", tt.rule, c.Accepted, tt.says)
		}
	}
}

func TestGRPCRouteWithoutRulesIsAccepted(t *testing.T) {
	c := compileYAML(t, index(t), `{kind: GRPCRoute, metadata: {name: r}, spec: {}}`)
	if !c.Accepted.True || len(c.Entries) != 0 || c.PartiallyInvalid != nil {
		t.Errorf("got %+v", c)
	}
}

func TestMessagesFitInAStatus(t *testing.T) {
	refs := strings.Repeat(`{name: `+strings.Repeat("é", 60)+`, port: 80},`, 1000)
	c := compileYAML(t, index(t), `{kind: HTTPRoute, metadata: {name: r}, spec: {rules: [{backendRefs: [`+refs+`]}]}}`)
	if n := len(c.ResolvedRefs.Message); n > maxMessage || n < maxMessage-10 || !strings.HasSuffix(c.ResolvedRefs.Message, "...") {
		t.Errorf("the message has %d bytes", n)
	}
}

// Routes are written by whoever may write one in their own namespace.
func FuzzHTTPRoute(f *testing.F) {
	f.Add(`{hostnames: [a], rules: [{matches: [{path: {type: RegularExpression, value: "/a|b"}}], filters: [{type: CORS, cors: {allowOrigins: ["https://*.a"]}}]}]}`)
	f.Add(`{rules: [{timeouts: {request: 1h}, retry: {codes: [500]}, backendRefs: [{name: v1, port: 80, weight: -1}]}]}`)
	f.Add(`{rules: [{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: ""}}}]}]}`)
	x := index(f)
	f.Fuzz(func(t *testing.T, text string) {
		var r gatewayv1.HTTPRoute
		if err := yaml.Unmarshal([]byte(text), &r.Spec); err != nil {
			return
		}
		checkFuzzed(t, HTTPRoute(&r, x.For(backendFrom("HTTPRoute"))), max(1, len(r.Spec.Rules)))
		var g gatewayv1.GRPCRoute
		if err := yaml.Unmarshal([]byte(text), &g.Spec); err != nil {
			return
		}
		checkFuzzed(t, GRPCRoute(&g, x.For(backendFrom("GRPCRoute"))), len(g.Spec.Rules))
	})
}
