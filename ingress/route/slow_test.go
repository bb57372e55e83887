package route

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// slow is the obvious matcher: everything that matches, sorted by precedence as
// it is written in the documents of HTTPRoute and GRPCRoute.
func slow(entries []Entry[int], r *Request) *Entry[int] {
	var matching []*Entry[int]
	for i := range entries {
		if slowMatches(&entries[i], r) {
			matching = append(matching, &entries[i])
		}
	}
	slices.SortStableFunc(matching, func(a, b *Entry[int]) int {
		for _, greater := range []func(e *Entry[int]) int64{
			func(e *Entry[int]) int64 { // characters in a hostname that is no wildcard
				if strings.HasPrefix(e.Host, "*") {
					return 0
				}
				return int64(len(e.Host))
			},
			func(e *Entry[int]) int64 { return int64(len(e.Host)) },
			func(e *Entry[int]) int64 {
				switch {
				case e.Match.Path.Kind == PathExact:
					return 5
				case e.Match.Path.Kind == PathRegex:
					return 4
				case e.Match.Path.Kind == PathPrefix && strings.Trim(e.Match.Path.Value, "/") != "":
					return 3
				case e.Match.Path.Kind == PathMethod:
					return 2
				}
				return 1
			},
			func(e *Entry[int]) int64 { return int64(len(slowPath(e))) },
			func(e *Entry[int]) int64 {
				if e.Match.Method != "" {
					return 1
				}
				return 0
			},
			func(e *Entry[int]) int64 { return int64(len(e.Match.Headers)) },
			func(e *Entry[int]) int64 { return int64(len(e.Match.Query)) },
			func(e *Entry[int]) int64 { return -e.Created.UnixNano() },
		} {
			if d := greater(b) - greater(a); d != 0 {
				return int(d / max(d, -d))
			}
		}
		if c := strings.Compare(a.Owner.Namespace+"/"+a.Owner.Name, b.Owner.Namespace+"/"+b.Owner.Name); c != 0 {
			return c
		}
		if c := strings.Compare(a.Owner.Kind, b.Owner.Kind); c != 0 {
			return c
		}
		if a.Rule != b.Rule {
			return a.Rule - b.Rule
		}
		return a.Index - b.Index
	})
	if len(matching) == 0 {
		return nil
	}
	return matching[0]
}

func slowPath(e *Entry[int]) string {
	if e.Match.Path.Kind == PathPrefix {
		return strings.TrimSuffix(e.Match.Path.Value, "/")
	}
	return e.Match.Path.Value
}

func slowMatches(e *Entry[int], r *Request) bool {
	switch {
	case e.Host == "":
	case strings.HasPrefix(e.Host, "*"):
		if len(r.Host) < len(e.Host) || !strings.HasSuffix(r.Host, e.Host[1:]) {
			return false
		}
	case e.Host != r.Host:
		return false
	}
	m := &e.Match
	switch m.Path.Kind {
	case PathExact:
		if r.Path != m.Path.Value {
			return false
		}
	case PathPrefix:
		want, has := strings.Split(slowPath(e), "/"), strings.Split(r.Path, "/")
		if slowPath(e) != "" && (len(has) < len(want) || !slices.Equal(want, has[:len(want)])) {
			return false
		}
	case PathRegex:
		if !m.Path.Regex.MatchString(r.Path) {
			return false
		}
	case PathMethod:
		has := strings.Split(r.Path, "/")
		if len(has) != 3 || has[1] == "" || has[2] == "" || m.Path.Value != "/"+has[2] {
			return false
		}
	}
	if m.Method != "" && m.Method != r.Method {
		return false
	}
	for _, h := range m.Headers {
		vs, ok := r.Header[h.Name]
		if !ok || !slowValue(h, strings.Join(vs, ",")) {
			return false
		}
	}
	query, _ := url.ParseQuery(r.RawQuery)
	for _, q := range m.Query {
		vs, ok := query[q.Name]
		if !ok || !slowValue(q, vs[0]) {
			return false
		}
	}
	return true
}

func slowValue(m ValueMatch, v string) bool {
	if m.Regex != nil {
		return m.Regex.MatchString(v)
	}
	return m.Value == v
}

// dice makes choices out of a fuzzer's bytes; when these run out, always the first.
type dice struct{ b []byte }

func (d *dice) roll(n int) int {
	if len(d.b) == 0 {
		return 0
	}
	v := int(d.b[0]) % n
	d.b = d.b[1:]
	return v
}

func pick[T any](d *dice, of ...T) T { return of[d.roll(len(of))] }

func (d *dice) path() string {
	p := ""
	for range d.roll(4) {
		p += "/" + pick(d, "a", "b", "ab", "", "%2F", "a.b")
	}
	if p == "" {
		p = "/"
	}
	return p
}

func (d *dice) conditions(names, values []string) (ms []ValueMatch) {
	for i := range d.roll(3) {
		m := ValueMatch{Name: names[(i+d.roll(len(names)))%len(names)]}
		if slices.ContainsFunc(ms, func(o ValueMatch) bool { return o.Name == m.Name }) {
			continue // an object has a name once
		}
		if d.roll(5) == 4 {
			m.Regex = regexp.MustCompile("^(?:" + pick(d, "x.*", "[xy]", ".*") + ")$")
		} else {
			m.Value = pick(d, values...)
		}
		ms = append(ms, m)
	}
	return ms
}

var (
	testHeaders = []string{"Env", "X-Tenant"}
	testQuery   = []string{"q", "a b"}
	testValues  = []string{"x", "y", "", "x,y", "z", "1", "2", "3", "4", "5", "6", "7"}
)

func (d *dice) entry(owner, i int) Entry[int] {
	e := Entry[int]{
		Host:    pick(d, "", "a.test", "*.test", "b.a.test", "*.a.test", "test"),
		Created: time.Unix(int64(d.roll(2)), 0),
		Owner: Owner{
			Kind:      pick(d, "HTTPRoute", "GRPCRoute"),
			Namespace: pick(d, "n", "n-n"),
			Name:      string(rune('a' + owner)),
		},
		Rule:  i,
		Value: owner<<16 | i,
	}
	e.Match.Path.Kind = pick(d, PathPrefix, PathExact, PathRegex, PathMethod)
	switch e.Match.Path.Kind {
	case PathPrefix, PathExact:
		e.Match.Path.Value = d.path()
	case PathMethod:
		e.Match.Path.Value = "/" + pick(d, "a", "b")
	case PathRegex:
		v := pick(d, "/a.*", "/a/b", "/(a|b)/?.*", "/a/(?:b|ab)", ".*", "(?i)/A/.*", "/a/?b?", "/a/b|/b")
		e.Match.Path.Value = v
		e.Match.Path.Regex = regexp.MustCompile("^(?:" + v + ")$")
	}
	e.Match.Method = pick(d, "", "GET", "POST")
	e.Match.Headers = d.conditions(testHeaders, testValues)
	e.Match.Query = d.conditions(testQuery, testValues)
	return e
}

func (d *dice) request() *Request {
	r := &Request{
		Host:   pick(d, "a.test", "test", "b.a.test", "c.b.a.test", "x.test", ".test", "other", ""),
		Path:   d.path(),
		Method: pick(d, "GET", "POST"),
		Header: map[string][]string{},
		RawQuery: pick(d, "", "q=x", "q=y&a+b=x", "a%20b=y&q=%78", "q=%zz&q=x", "q", "&&=&q=z", "q=x&q=y",
			"q="+pick(d, testValues...)),
	}
	for _, h := range testHeaders {
		for range d.roll(3) {
			r.Header[h] = append(r.Header[h], pick(d, testValues...))
		}
	}
	return r
}

// FuzzMatch holds the index against slow, and tables that grew against tables that
// were made at once.
func FuzzMatch(f *testing.F) {
	for seed := range byte(20) {
		b := make([]byte, 3000)
		x := uint32(seed) + 1
		for i := range b {
			x = x*1664525 + 1013904223
			b[i] = byte(x >> 24)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b}
		grown := NewBuilder[int]()
		owned := map[int][]Entry[int]{}
		for round := range 1 + d.roll(6) {
			owner := d.roll(5)
			var es []Entry[int]
			for i := range d.roll(40) {
				es = append(es, d.entry(owner, round<<8|i))
			}
			owned[owner] = es
			if len(es) == 0 {
				grown.Delete(string(rune('a' + owner)))
			} else {
				grown.Set(string(rune('a'+owner)), es)
			}
			if d.roll(2) == 0 {
				grown.Table()
			}
		}
		fresh := NewBuilder[int]()
		var all []Entry[int]
		for owner := range 5 {
			all = append(all, owned[owner]...)
			fresh.Set(string(rune('a'+owner)), owned[owner])
		}
		for range 20 {
			r := d.request()
			want := slow(all, r)
			for name, table := range map[string]*Table[int]{"fresh": fresh.Table(), "grown": grown.Table()} {
				got, ok := table.Match(r)
				if ok != (want != nil) || ok && got.Value != want.Value {
					t.Fatalf("the %s table's answer to %+v is\n%+v, the obvious one\n%+v", name, r, got, want)
				}
				checkExplained(t, table, r, got)
			}
		}
	})
}

func checkExplained(t *testing.T, table *Table[int], r *Request, want *Entry[int]) {
	t.Helper()
	var first *Entry[int]
	for _, c := range table.Explain(r) {
		if c.Matched != slowMatches(c.Entry, r) {
			t.Fatalf("%+v is said to match %+v: %v %v", c.Entry, r, c.Matched, c.Failed)
		}
		if c.Matched && first == nil {
			first = c.Entry
			if c.Shadowed != nil {
				t.Fatalf("the entry that %+v is for is said to be shadowed by %+v", r, c.Shadowed)
			}
		}
	}
	if first != want {
		t.Fatalf("the first explained match of %+v is %+v, Match says %+v", r, first, want)
	}
}
