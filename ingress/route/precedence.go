package route

import (
	"cmp"
	"strings"
)

// rule is an entry with what the index needs of it. It is made once, and shared
// between tables.
type rule[R any] struct {
	*Entry[R]
	path  string // Match.Path.Value as requests spell it; of a prefix without its last slash
	under string // the segments that all paths begin with; "" also if these are not known
	owner string // namespace/name
	key   string // of the Builder
	place int    // among the entries of key
}

// item is a rule in a table.
type item[R any] struct {
	*rule[R]
	rank int // position in the order of precedence of its host
}

func newRule[R any](e *Entry[R], key string, place int) *rule[R] {
	r := &rule[R]{
		Entry: e, path: e.Match.Path.canonical(), key: key, place: place,
		owner: e.Owner.Namespace + "/" + e.Owner.Name,
	}
	switch e.Match.Path.Kind {
	case PathPrefix:
		r.under = r.path
	case PathRegex:
		if e.Match.Path.Regex != nil {
			r.under = literal(e.Match.Path.Regex.String())
		}
	}
	return r
}

func (m PathMatch) canonical() string {
	if m.Kind == PathRegex {
		return m.Value
	}
	v := m.Value
	if c, ok := canonicalEscapes(v); ok {
		v = c
	}
	if m.Kind == PathPrefix {
		v = strings.TrimSuffix(v, "/")
	}
	return v
}

// class is what of the path's kinds goes first. That of regular expressions is
// left to implementations, and says less than an exact path but more than a
// prefix.
func (r *rule[R]) class() int {
	switch r.Match.Path.Kind {
	case PathExact:
		return 0
	case PathRegex:
		return 1
	case PathMethod:
		return 3
	}
	if r.path == "" {
		return 4
	}
	return 2
}

// precedes orders the entries of one host as HTTPRouteRule.matches and
// GRPCRouteRule.matches say: negative if a goes first. What they do not tell apart
// is in the order in which the Builder was given it.
func precedes[R any](a, b *rule[R]) int {
	return cmp.Or(
		cmp.Compare(a.class(), b.class()),
		cmp.Compare(len(b.path), len(a.path)),
		setFirst(a.Match.Method, b.Match.Method),
		cmp.Compare(len(b.Match.Headers), len(a.Match.Headers)),
		cmp.Compare(len(b.Match.Query), len(a.Match.Query)),
		a.Created.Compare(b.Created),
		// "By alphabet" is said of the whole of "{namespace}/{name}", in which
		// "a-b/c" goes before "a/c".
		strings.Compare(a.owner, b.owner),
		strings.Compare(a.Owner.Kind, b.Owner.Kind),
		cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.Index, b.Index),
		strings.Compare(a.key, b.key),
		cmp.Compare(a.place, b.place),
	)
}

func setFirst(a, b string) int {
	switch {
	case a != "" && b == "":
		return -1
	case a == "" && b != "":
		return 1
	}
	return 0
}
