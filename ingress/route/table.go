package route

import (
	"iter"
	"slices"
	"strings"
)

// Table is the rules of one listener, indexed. It is immutable; the zero value and
// nil match nothing.
type Table[R any] struct {
	exact    map[string]*host[R]
	wildcard map[string]*host[R] // by what follows the asterisk: ".example.com"
	any      *host[R]
	longest  int // of the keys of wildcard
}

// Match returns the entry that a request is for: of the most specific host that
// has any that matches, the one that takes precedence. It does not allocate,
// except for repeated header fields and escaped query parameters that an entry
// looks at.
func (t *Table[R]) Match(r *Request) (*Entry[R], bool) {
	if t == nil {
		return nil, false
	}
	for h := range t.of(r.Host) {
		if it := h.find(r); it != nil {
			return it.Entry, true
		}
	}
	return nil, false
}

// of goes through what applies to a host, the most specific first.
func (t *Table[R]) of(name string) iter.Seq[*host[R]] {
	return func(yield func(*host[R]) bool) {
		if h := t.exact[name]; h != nil && !yield(h) {
			return
		}
		for at := t.nextWildcard(name, 0); at > 0; at = t.nextWildcard(name, at) {
			if h := t.wildcard[name[at:]]; h != nil && !yield(h) {
				return
			}
		}
		if t.any != nil {
			yield(t.any)
		}
	}
}

// nextWildcard returns where the next suffix of host begins that may be one of
// wildcard, 0 if none does. Suffixes that are longer than all of them are not even
// looked up: a stranger chooses how many dots there are.
func (t *Table[R]) nextWildcard(host string, after int) int {
	from := max(after+1, len(host)-t.longest)
	if from >= len(host) {
		return 0
	}
	i := strings.IndexByte(host[from:], '.')
	if i < 0 {
		return 0
	}
	return from + i
}

// All goes through the entries: hosts in order of the alphabet, and in order of
// precedence within a host.
func (t *Table[R]) All() iter.Seq[*Entry[R]] {
	return func(yield func(*Entry[R]) bool) {
		for _, name := range t.Hosts() {
			for _, it := range t.named(name).items {
				if !yield(it.rule.Entry) {
					return
				}
			}
		}
	}
}

func (t *Table[R]) named(name string) *host[R] {
	switch suffix, wild := strings.CutPrefix(name, "*"); {
	case name == "":
		return t.any
	case wild:
		return t.wildcard[suffix]
	}
	return t.exact[name]
}

// Hosts returns the host names that there are entries for, as in Entry.Host, in
// order of the alphabet.
func (t *Table[R]) Hosts() []string {
	if t == nil {
		return nil
	}
	var hs []string
	if t.any != nil {
		hs = append(hs, "")
	}
	for h := range t.exact {
		hs = append(hs, h)
	}
	for h := range t.wildcard {
		hs = append(hs, "*"+h)
	}
	slices.Sort(hs)
	return hs
}
