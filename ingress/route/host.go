package route

import (
	"regexp/syntax"
	"strings"
)

// host is the entries of one host name.
type host[R any] struct {
	items   []item[R] // all, in order of precedence
	exact   map[string]*set[R]
	root    *node[R]
	methods map[string]*set[R] // PathMethod
	regexes bool               // there are any
}

// node is a prefix of whole segments.
type node[R any] struct {
	next map[string]*node[R] // by segment
	// up is the nearest node towards the root that has entries, nil above it.
	up     *node[R]
	prefix *set[R]
	// regexes are those that begin with the segments up to here.
	regexes []pattern[R]
}

// pattern is entries of the same regular expression that follow one another.
type pattern[R any] struct {
	first *item[R]
	set   *set[R]
}

// newHost indexes rules, which are in order of precedence.
func newHost[R any](rules []*rule[R]) *host[R] {
	h := &host[R]{root: &node[R]{}, items: make([]item[R], len(rules))}
	exact := make(map[string][]*item[R])
	methods := make(map[string][]*item[R])
	prefix := make(map[*node[R]][]*item[R])
	regexes := make(map[*node[R]][]*item[R])
	for rank, r := range rules {
		it := &h.items[rank]
		it.rule, it.rank = r, rank
		switch r.Match.Path.Kind {
		case PathExact:
			exact[r.path] = append(exact[r.path], it)
		case PathMethod:
			methods[r.path] = append(methods[r.path], it)
		case PathRegex:
			if r.Match.Path.Regex == nil {
				continue // matches nothing
			}
			n := h.root.make(r.under)
			regexes[n] = append(regexes[n], it)
			h.regexes = true
		default:
			if r.path != "" && r.path[0] != '/' {
				continue // matches nothing
			}
			n := h.root.make(r.under)
			prefix[n] = append(prefix[n], it)
		}
	}
	h.exact, h.methods = sets(exact), sets(methods)
	for n, items := range prefix {
		n.prefix = newSet(items)
	}
	for n, items := range regexes {
		for len(items) > 0 {
			same := 1
			for same < len(items) && samePattern(items[0], items[same]) {
				same++
			}
			n.regexes = append(n.regexes, pattern[R]{items[0], newSet(items[:same:same])})
			items = items[same:]
		}
	}
	h.root.link(nil)
	return h
}

func samePattern[R any](a, b *item[R]) bool {
	return a.Match.Path.Regex.String() == b.Match.Path.Regex.String()
}

func sets[R any](byPath map[string][]*item[R]) map[string]*set[R] {
	if len(byPath) == 0 {
		return nil
	}
	m := make(map[string]*set[R], len(byPath))
	for p, items := range byPath {
		m[p] = newSet(items)
	}
	return m
}

// make returns the node of a prefix that is "", or begins with a slash and does
// not end with one.
func (n *node[R]) make(prefix string) *node[R] {
	for prefix != "" {
		var seg string
		seg, prefix = cutSegment(prefix)
		next := n.next[seg]
		if next == nil {
			next = &node[R]{}
			if n.next == nil {
				n.next = make(map[string]*node[R])
			}
			n.next[seg] = next
		}
		n = next
	}
	return n
}

// cutSegment splits "/a/b" into "a" and "/b".
func cutSegment(path string) (seg, rest string) {
	path = path[1:]
	if i := strings.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

func (n *node[R]) link(up *node[R]) {
	n.up = up
	if n.prefix != nil || n.regexes != nil {
		up = n
	}
	for _, c := range n.next {
		c.link(up)
	}
}

// descend returns the deepest node that path begins with.
func (n *node[R]) descend(path string) *node[R] {
	for path != "" && path[0] == '/' && n.next != nil {
		seg, rest := cutSegment(path)
		next := n.next[seg]
		if next == nil {
			break
		}
		n, path = next, rest
	}
	return n
}

// find returns the first entry that matches, nil if none does.
func (h *host[R]) find(r *Request) *item[R] {
	if it := h.exact[r.Path].find(r, nil); it != nil {
		return it
	}
	deepest := h.root.descend(r.Path)
	if h.regexes {
		if it := deepest.findRegex(r); it != nil {
			return it
		}
	}
	for n := deepest; n != nil && n != h.root; n = n.up {
		if it := n.prefix.find(r, nil); it != nil {
			return it
		}
	}
	if h.methods != nil {
		if it := h.methods[methodOf(r.Path)].find(r, nil); it != nil {
			return it
		}
	}
	return h.root.prefix.find(r, nil)
}

func (n *node[R]) findRegex(r *Request) (found *item[R]) {
	for ; n != nil; n = n.up {
		for _, p := range n.regexes {
			if found != nil && p.first.rank >= found.rank {
				break
			}
			if !p.first.Match.Path.Regex.MatchString(r.Path) {
				continue
			}
			if it := p.set.find(r, found); it != nil {
				found = it
				break
			}
		}
	}
	return found
}

// methodOf returns the second of exactly two segments with its slash, "" if there
// are not two.
func methodOf(path string) string {
	if path == "" || path[0] != '/' {
		return ""
	}
	service, method := cutSegment(path)
	if service == "" || len(method) < 2 || strings.Contains(method[1:], "/") {
		return ""
	}
	return method
}

// literal returns the whole segments that everything that the pattern matches
// begins with, "" if it does not say.
func literal(pattern string) string {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	parts := flatten(re, nil)
	if len(parts) == 0 || parts[0].Op != syntax.OpBeginText {
		return ""
	}
	var b strings.Builder
	for _, p := range parts[1:] {
		if p.Op != syntax.OpLiteral || p.Flags&syntax.FoldCase != 0 {
			break
		}
		for _, c := range p.Rune {
			b.WriteRune(c)
		}
	}
	s := b.String()
	if s == "" || s[0] != '/' {
		return ""
	}
	// What follows the last slash may go on.
	return s[:strings.LastIndexByte(s, '/')]
}

// flatten lists what a pattern is made of, in the order in which it matches.
func flatten(re *syntax.Regexp, to []*syntax.Regexp) []*syntax.Regexp {
	switch re.Op {
	case syntax.OpConcat, syntax.OpCapture:
		for _, sub := range re.Sub {
			to = flatten(sub, to)
		}
		return to
	case syntax.OpEmptyMatch:
		return to
	}
	return append(to, re)
}
