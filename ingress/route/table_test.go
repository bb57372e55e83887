package route

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"testing"
	"time"
)

func regex(pattern string) PathMatch {
	return PathMatch{Kind: PathRegex, Value: pattern, Regex: regexp.MustCompile("^(?:" + pattern + ")$")}
}

func exact(p string) PathMatch  { return PathMatch{Kind: PathExact, Value: p} }
func prefix(p string) PathMatch { return PathMatch{Value: p} }

// table has one entry for each match, whose value is its name.
func table(t testing.TB, entries map[string]Entry[string]) *Table[string] {
	t.Helper()
	b := NewBuilder[string]()
	for name, e := range entries {
		e.Value = name
		b.Set(name, []Entry[string]{e})
	}
	return b.Table()
}

func matched(t *Table[string], r *Request) string {
	e, ok := t.Match(r)
	if !ok {
		return "none"
	}
	return e.Value
}

func TestHosts(t *testing.T) {
	tab := table(t, map[string]Entry[string]{
		"exact":     {Host: "a.example.com", Match: Match{Path: prefix("/exact")}},
		"wild":      {Host: "*.example.com", Match: Match{Path: prefix("/wild")}},
		"wild wild": {Host: "*.b.example.com", Match: Match{Path: prefix("/")}},
		"any":       {Match: Match{Path: prefix("/any")}},
		"any long":  {Match: Match{Path: exact("/exact/but/any")}},
	})
	for _, c := range []struct{ host, path, want, why string }{
		{"a.example.com", "/exact", "exact", "the host itself"},
		{"a.example.com", "/exact/but/any", "exact", "a host goes before a path"},
		{"a.example.com", "/wild", "wild", "the exact host has no rule for the path"},
		{"a.example.com", "/any", "any", "no less specific host has one either"},
		{"a.example.com", "/else", "none", "nobody has a rule for the path"},
		{"z.example.com", "/wild", "wild", "one label"},
		{"y.z.example.com", "/wild", "wild", "many labels"},
		{"example.com", "/wild", "none", "a wildcard is at least one label"},
		{".example.com", "/wild", "none", "and not an empty one"},
		{"badexample.com", "/wild", "none", "labels are whole"},
		{"x.b.example.com", "/wild", "wild wild", "the longer wildcard"},
		{"b.example.com", "/wild", "wild", "is not of itself"},
		{"x.b.example.com", "/any", "wild wild", "it matches all"},
		{"", "/any", "any", "no host"},
		{"..........", "/any", "any", "nonsense"},
	} {
		if got := matched(tab, &Request{Host: c.host, Path: c.path}); got != c.want {
			t.Errorf("%s: %s%s is for %s, want %s", c.why, c.host, c.path, got, c.want)
		}
	}
	want := []string{"", "*.b.example.com", "*.example.com", "a.example.com"}
	if got := tab.Hosts(); !slices.Equal(got, want) {
		t.Errorf("hosts %q, want %q", got, want)
	}
	var all []string
	for e := range tab.All() {
		all = append(all, e.Value)
	}
	if want := []string{"any long", "any", "wild wild", "wild", "exact"}; !slices.Equal(all, want) {
		t.Errorf("entries %q, want %q", all, want)
	}
}

func TestNilAndZeroTablesMatchNothing(t *testing.T) {
	r := &Request{Host: "a", Path: "/", Method: "GET"}
	for _, tab := range []*Table[string]{nil, {}, NewBuilder[string]().Table()} {
		if e, ok := tab.Match(r); ok || len(tab.Explain(r)) > 0 || len(tab.Hosts()) > 0 || len(slices.Collect(tab.All())) > 0 {
			t.Errorf("an empty table matched %v", e)
		}
	}
}

func TestPaths(t *testing.T) {
	for _, c := range []struct {
		match PathMatch
		yes   []string
		no    []string
	}{
		{PathMatch{}, []string{"/", "/a", "*", ""}, nil},
		{prefix("/"), []string{"/", "/a", "//"}, nil},
		{prefix("/abc"), []string{"/abc", "/abc/", "/abc/def", "/abc//x"}, []string{"/abcd", "/ab", "/", "//abc", "/ABC", "*"}},
		{prefix("/abc/"), []string{"/abc", "/abc/", "/abc/def"}, []string{"/abcd"}},
		{prefix("/a/b"), []string{"/a/b", "/a/b/c"}, []string{"/a", "/a/", "/a/bc", "/a//b"}},
		{prefix("/a%2fb"), []string{"/a%2Fb/c"}, []string{"/a/b/c"}},
		{prefix("/%61"), []string{"/a", "/a/"}, []string{"/%2561"}},
		{prefix("abc"), nil, []string{"/abc", "abc", "/"}},
		{exact("/abc"), []string{"/abc"}, []string{"/abc/", "/ab", "/abc/d", "/"}},
		{exact("/abc/"), []string{"/abc/"}, []string{"/abc"}},
		{exact("/~x"), []string{"/~x"}, []string{"/"}},
		{regex("/a[0-9]+"), []string{"/a1", "/a22"}, []string{"/a", "/a1/", "/ba1"}},
		{regex("/v/x.*|/w"), []string{"/v/x", "/v/xyz/1", "/w"}, []string{"/v/", "/w/", "/v/y"}},
		{regex("(?i)/V/x"), []string{"/v/X"}, []string{"/v"}},
		{PathMatch{Kind: PathRegex, Value: "x", Regex: regexp.MustCompile("b/c$")}, []string{"/a/b/c"}, []string{"/a/b"}},
		{PathMatch{Kind: PathMethod, Value: "/Get"}, []string{"/svc/Get", "/a.b.C/Get"}, []string{"/Get", "/svc/Got", "/a/b/Get", "/svc/Get/", "//Get"}},
	} {
		tab := table(t, map[string]Entry[string]{"it": {Match: Match{Path: c.match}}})
		for _, p := range c.yes {
			if matched(tab, &Request{Path: p}) != "it" {
				t.Errorf("kind %d %q does not match %q", c.match.Kind, c.match.Value, p)
			}
		}
		for _, p := range c.no {
			if matched(tab, &Request{Path: p}) == "it" {
				t.Errorf("kind %d %q matches %q", c.match.Kind, c.match.Value, p)
			}
		}
	}
}

// TestPrecedence has pairs of which the first goes before the second, for a
// request that both match.
func TestPrecedence(t *testing.T) {
	get := &Request{
		Host: "h", Path: "/svc/Get", Method: "GET", RawQuery: "a=1&b=2",
		Header: http.Header{"A": {"1"}, "B": {"2"}},
	}
	h := func(n int) (ms []ValueMatch) {
		return []ValueMatch{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}[:n]
	}
	q := func(n int) (ms []ValueMatch) {
		return []ValueMatch{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}}[:n]
	}
	old, young := time.Unix(1, 0), time.Unix(2, 0)
	for _, c := range []struct {
		why           string
		first, second Entry[string]
	}{
		{"an exact path goes before all else",
			Entry[string]{Match: Match{Path: exact("/svc/Get")}},
			Entry[string]{Match: Match{Path: prefix("/svc/Get"), Method: "GET", Headers: h(2), Query: q(2)}, Created: old}},
		{"an exact path goes before a longer regular expression",
			Entry[string]{Match: Match{Path: exact("/svc/Get")}}, Entry[string]{Match: Match{Path: regex("/svc/Get.*")}}},
		{"a regular expression goes before a prefix",
			Entry[string]{Match: Match{Path: regex(".*")}}, Entry[string]{Match: Match{Path: prefix("/svc/Get")}}},
		{"a longer regular expression goes first",
			Entry[string]{Match: Match{Path: regex("/.*[Gg].*")}}, Entry[string]{Match: Match{Path: regex("/svc/.*")}}},
		{"a longer prefix goes before a method",
			Entry[string]{Match: Match{Path: prefix("/svc")}}, Entry[string]{Match: Match{Method: "GET", Headers: h(2)}}},
		{"a slash at the end makes no prefix longer",
			Entry[string]{Match: Match{Path: prefix("/svc"), Method: "GET"}}, Entry[string]{Match: Match{Path: prefix("/svc/")}}},
		{"a service of gRPC goes before a method of it",
			Entry[string]{Match: Match{Path: prefix("/svc")}}, Entry[string]{Match: Match{Path: PathMatch{Kind: PathMethod, Value: "/Get"}}}},
		{"a method of gRPC goes before nothing at all",
			Entry[string]{Match: Match{Path: PathMatch{Kind: PathMethod, Value: "/Get"}}}, Entry[string]{Match: Match{Headers: h(2)}}},
		{"a method goes before headers",
			Entry[string]{Match: Match{Method: "GET"}}, Entry[string]{Match: Match{Headers: h(2)}}},
		{"more headers go before fewer",
			Entry[string]{Match: Match{Headers: h(2)}}, Entry[string]{Match: Match{Headers: h(1), Query: q(2)}}},
		{"more parameters go before fewer",
			Entry[string]{Match: Match{Query: q(2)}}, Entry[string]{Match: Match{Query: q(1)}, Created: old}},
		{"the older goes first",
			Entry[string]{Created: old, Owner: Owner{Name: "z"}}, Entry[string]{Created: young, Owner: Owner{Name: "a"}}},
		{"then the alphabet of namespace/name",
			Entry[string]{Owner: Owner{Namespace: "a-b", Name: "c"}}, Entry[string]{Owner: Owner{Namespace: "a", Name: "c"}}},
		{"then the first rule",
			Entry[string]{Rule: 1, Index: 9}, Entry[string]{Rule: 2}},
		{"then the first match",
			Entry[string]{Index: 1}, Entry[string]{Index: 2}},
	} {
		c.first.Value, c.second.Value = "first", "second"
		for _, es := range [][]Entry[string]{{c.first, c.second}, {c.second, c.first}} {
			b := NewBuilder[string]()
			b.Set("k", es)
			if got := matched(b.Table(), get); got != "first" {
				t.Errorf("%s: got the %s", c.why, got)
			}
		}
	}
}

func TestConditions(t *testing.T) {
	re := regexp.MustCompile("^(?:a.c)$")
	for _, c := range []struct {
		why    string
		match  Match
		header http.Header
		query  string
		host   string
		want   bool
	}{
		{"an absent field is not an empty one", Match{Headers: []ValueMatch{{Name: "X"}}}, nil, "", "", false},
		{"an empty field is", Match{Headers: []ValueMatch{{Name: "X"}}}, http.Header{"X": {""}}, "", "", true},
		{"case counts", Match{Headers: []ValueMatch{{Name: "X", Value: "a"}}}, http.Header{"X": {"A"}}, "", "", false},
		{"a repeated field is one", Match{Headers: []ValueMatch{{Name: "X", Value: "a,b"}}}, http.Header{"X": {"a", "b"}}, "", "", true},
		{"and not either", Match{Headers: []ValueMatch{{Name: "X", Value: "a"}}}, http.Header{"X": {"a", "b"}}, "", "", false},
		{"regular expression", Match{Headers: []ValueMatch{{Name: "X", Regex: re}}}, http.Header{"X": {"abc"}}, "", "", true},
		{"Host is no field", Match{Headers: []ValueMatch{{Name: "Host", Value: "h"}}}, nil, "", "h", true},
		{"a parameter without value", Match{Query: []ValueMatch{{Name: "q"}}}, nil, "q", "", true},
		{"the first of two", Match{Query: []ValueMatch{{Name: "q", Value: "1"}}}, nil, "q=1&q=2", "", true},
		{"not the second", Match{Query: []ValueMatch{{Name: "q", Value: "2"}}}, nil, "q=1&q=2", "", false},
		{"escaped", Match{Query: []ValueMatch{{Name: "q r", Value: "a b"}}}, nil, "q+r=a%20b", "", true},
		{"escaped, regular expression", Match{Query: []ValueMatch{{Name: "q", Regex: re}}}, nil, "q=%61+c", "", true},
		{"a name with escapes is unescaped first", Match{Query: []ValueMatch{{Name: "a%20b", Value: "1"}}}, nil, "a%20b=1", "", false},
	} {
		tab := table(t, map[string]Entry[string]{"it": {Match: c.match}})
		got := matched(tab, &Request{Host: c.host, Path: "/", Header: c.header, RawQuery: c.query}) == "it"
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.why, got, c.want)
		}
	}
}

func TestRulesThatDifferInOneValueAreFoundByIt(t *testing.T) {
	b := NewBuilder[string]()
	for i := range 100 {
		v := fmt.Sprint(i)
		b.Set("tenant "+v, []Entry[string]{
			{Value: "tenant " + v, Match: Match{Headers: []ValueMatch{{Name: "X-Tenant", Value: v}}}},
			{Value: "both " + v, Match: Match{Headers: []ValueMatch{{Name: "X-Tenant", Value: v}}, Query: []ValueMatch{{Name: "canary"}}}},
			{Value: "user " + v, Match: Match{Query: []ValueMatch{{Name: "user", Value: v}}}},
		})
	}
	b.Set("default", []Entry[string]{{Value: "default"}})
	tab := b.Table()
	for _, c := range []struct{ tenant, query, want string }{
		{"7", "", "tenant 7"}, {"7", "canary", "both 7"}, {"7", "user=8", "tenant 7"},
		{"", "user=8", "user 8"}, {"none", "user=8", "user 8"}, {"none", "user=none", "default"},
	} {
		r := &Request{Path: "/", Header: http.Header{"X-Tenant": {c.tenant}}, RawQuery: c.query}
		if got := matched(tab, r); got != c.want {
			t.Errorf("tenant %q query %q is for %s, want %s", c.tenant, c.query, got, c.want)
		}
	}
	if s := tab.any.root.prefix; s.on.name != "X-Tenant" || s.rest.on.name != "user" {
		t.Errorf("split on %v and then %v, want on what most entries ask for", s.on, s.rest.on)
	}
}

func TestExpressionsAreHungUnderTheirLiteralSegments(t *testing.T) {
	for pattern, want := range map[string]string{
		"^(?:/api/v1/.*)$":   "/api/v1",
		"^(?:/api/v[12]/x)$": "/api",
		"^/api/(a|b)$":       "/api",
		"^(?:/api)$":         "",
		"^(?:/a/b|/a/c)$":    "/a",
		"^(?:/a/b|/c)$":      "",
		"^(?:/a/b?)$":        "/a",
		"^(?:(?i)/a/b/)$":    "",
		"/a/b/c":             "",
		"^/a/b/|/c$":         "",
		"(?m)^/a/b/c$":       "",
		"(":                  "",
	} {
		if got := literal(pattern); got != want {
			t.Errorf("all that %s matches begins with %q, want %q", pattern, got, want)
		}
	}
}
