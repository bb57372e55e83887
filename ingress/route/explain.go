package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Candidate is an entry that a request might have been for.
type Candidate[R any] struct {
	Entry   *Entry[R]
	Matched bool
	// Failed says of each condition that does not hold what the request has and
	// what the entry wants: `header env is "prod", wants "canary"`.
	Failed []string
	// Shadowed is the entry that takes precedence and has the same host and match,
	// so that no request whatever gets to this one. nil = none.
	Shadowed *Entry[R]
}

// elsewhere is how many entries with another path Explain tells of.
const elsewhere = 8

// Explain returns, in order of precedence, what Match chooses from: the entries of
// the request's host, and of the wildcards that it is under, whose path is the
// request's, whether the rest matches or not, and the few with another path that
// is closest to the request's. The first that Matched is what Match returns. It
// looks at all entries of these hosts.
func (t *Table[R]) Explain(r *Request) []Candidate[R] {
	if t == nil {
		return nil
	}
	var (
		found []Candidate[R]
		close = make(map[int]int) // of found, how much of its path an entry with another one shares
	)
	for h := range t.of(r.Host) {
		seen := make(map[string]*Entry[R])
		for i := range h.items {
			it := &h.items[i]
			c := Candidate[R]{Entry: it.Entry, Shadowed: seen[it.key()]}
			if c.Shadowed == nil {
				seen[it.key()] = it.Entry
			}
			if !it.matchesPath(r.Path) {
				c.Failed = append(c.Failed, it.wantsPath(r.Path))
				close[len(found)] = common(r.Path, it.path)
			}
			c.Failed = append(c.Failed, it.Match.failures(r)...)
			c.Matched = len(c.Failed) == 0
			found = append(found, c)
		}
	}
	others := slices.SortedFunc(maps.Keys(close), func(a, b int) int {
		return cmp.Or(cmp.Compare(close[b], close[a]), cmp.Compare(a, b))
	})
	drop := others[min(elsewhere, len(others)):]
	slices.Sort(drop)
	kept := found[:0]
	for i, c := range found {
		if len(drop) > 0 && drop[0] == i {
			drop = drop[1:]
			continue
		}
		kept = append(kept, c)
	}
	return kept
}

func (it *item[R]) matchesPath(path string) bool {
	switch m := &it.Match.Path; m.Kind {
	case PathExact:
		return path == it.path
	case PathMethod:
		return methodOf(path) == it.path
	case PathRegex:
		return m.Regex != nil && m.Regex.MatchString(path)
	}
	rest, ok := strings.CutPrefix(path, it.path)
	return it.path == "" || ok && it.path[0] == '/' && (rest == "" || rest[0] == '/')
}

func (it *item[R]) wantsPath(path string) string {
	switch m := &it.Match.Path; m.Kind {
	case PathExact:
		return fmt.Sprintf("path is %q, wants exactly %q", path, it.path)
	case PathMethod:
		return fmt.Sprintf("path is %q, wants method %q of any service", path, strings.TrimPrefix(it.path, "/"))
	case PathRegex:
		return fmt.Sprintf("path is %q, wants a match of %q", path, m.Value)
	}
	return fmt.Sprintf("path is %q, wants prefix %q", path, it.path)
}

// failures is what matches looks at, in words.
func (m *Match) failures(r *Request) (failed []string) {
	if m.Method != "" && m.Method != r.Method {
		failed = append(failed, fmt.Sprintf("method is %s, wants %s", r.Method, m.Method))
	}
	for i := range m.Headers {
		c := &m.Headers[i]
		if v, ok := r.header(c.Name); !ok || !c.matches(v) {
			failed = append(failed, c.wants("header "+strings.ToLower(c.Name), v, ok))
		}
	}
	for i := range m.Query {
		c := &m.Query[i]
		if v, ok := r.query(c.Name); !ok || !c.matches(v) {
			failed = append(failed, c.wants("query parameter "+c.Name, v, ok))
		}
	}
	return failed
}

func (m *ValueMatch) wants(what, v string, present bool) string {
	is := "absent"
	if present {
		is = fmt.Sprintf("%q", v)
	}
	wants := fmt.Sprintf("%q", m.Value)
	if m.Regex != nil {
		wants = fmt.Sprintf("a match of %q", m.Regex)
	}
	return fmt.Sprintf("%s is %s, wants %s", what, is, wants)
}

// key is the same for entries that match the same requests of their host, as far
// as can be told by their text.
func (it *item[R]) key() string {
	conditions := func(ms []ValueMatch) []string {
		var s []string
		for _, m := range ms {
			s = append(s, fmt.Sprintf("%q=%q~%q", m.Name, m.Value, regexText(m)))
		}
		slices.Sort(s)
		return slices.Compact(s)
	}
	path := it.path
	if it.Match.Path.Regex != nil {
		path = it.Match.Path.Regex.String()
	}
	return fmt.Sprintf("%d %q %q %q %q", it.Match.Path.Kind, path, it.Match.Method,
		conditions(it.Match.Headers), conditions(it.Match.Query))
}

func regexText(m ValueMatch) string {
	if m.Regex == nil {
		return ""
	}
	return m.Regex.String()
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
