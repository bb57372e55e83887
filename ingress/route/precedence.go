package route

import (
	"cmp"
	"strings"
)

// item is an entry with what the index needs of it.
type item[R any] struct {
	*Entry[R]
	path string // Match.Path.Value as requests spell it; of a prefix without its last slash
	rank int    // position in the order of precedence of its host
}

func newItem[R any](e *Entry[R]) *item[R] {
	return &item[R]{Entry: e, path: e.Match.Path.canonical()}
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
func (it *item[R]) class() int {
	switch it.Match.Path.Kind {
	case PathExact:
		return 0
	case PathRegex:
		return 1
	case PathMethod:
		return 3
	}
	if it.path == "" {
		return 4
	}
	return 2
}

// precedes orders the entries of one host as HTTPRouteRule.matches and
// GRPCRouteRule.matches say: negative if a goes first. Only entries of one owner
// that are equal in rule and match compare as 0.
func precedes[R any](a, b *item[R]) int {
	return cmp.Or(
		cmp.Compare(a.class(), b.class()),
		cmp.Compare(len(b.path), len(a.path)),
		setFirst(a.Match.Method, b.Match.Method),
		cmp.Compare(len(b.Match.Headers), len(a.Match.Headers)),
		cmp.Compare(len(b.Match.Query), len(a.Match.Query)),
		a.Created.Compare(b.Created),
		// "By alphabet" is said of the whole of "{namespace}/{name}", in which
		// "a-b/c" goes before "a/c".
		strings.Compare(a.Owner.Namespace+"/"+a.Owner.Name, b.Owner.Namespace+"/"+b.Owner.Name),
		strings.Compare(a.Owner.Kind, b.Owner.Kind),
		cmp.Compare(a.Rule, b.Rule),
		cmp.Compare(a.Index, b.Index),
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
