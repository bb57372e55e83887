package route

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Builder makes tables of what owners have, and each from the one before it. It
// is not for concurrent use; the tables are.
type Builder[R any] struct {
	owners map[string][]Entry[R]
	// dirty has the hosts of which something changed since table was built, and
	// for each the owners that had something of it, with which of their entries
	// are its now.
	dirty map[string]map[string][]int
	table *Table[R]

	built int // hosts that were indexed so far
}

// NewBuilder returns a Builder without entries.
func NewBuilder[R any]() *Builder[R] {
	return &Builder[R]{
		owners: make(map[string][]Entry[R]),
		dirty:  make(map[string]map[string][]int),
		table:  new(Table[R]),
	}
}

// Set replaces all that an owner has. The key is the caller's name for it. The
// entries are copied. Entries equal to those before change nothing; values are
// compared if their type can be.
func (b *Builder[R]) Set(key string, entries []Entry[R]) {
	if slices.EqualFunc(b.owners[key], entries, same[R]) {
		return
	}
	for _, e := range b.owners[key] {
		b.touched(e.Host)[key] = nil
	}
	if len(entries) == 0 {
		delete(b.owners, key)
		return
	}
	b.owners[key] = slices.Clone(entries)
	for i, e := range entries {
		owners := b.touched(e.Host)
		owners[key] = append(owners[key], i)
	}
}

// Delete removes all that an owner has.
func (b *Builder[R]) Delete(key string) { b.Set(key, nil) }

func (b *Builder[R]) touched(host string) map[string][]int {
	owners := b.dirty[host]
	if owners == nil {
		owners = make(map[string][]int)
		b.dirty[host] = owners
	}
	return owners
}

// Table returns the table of what is set: the same one as before if nothing
// changed. Only hosts of which an entry changed are indexed anew; the others are
// shared with the table before.
func (b *Builder[R]) Table() *Table[R] {
	if len(b.dirty) == 0 {
		return b.table
	}
	t := *b.table
	exact, wildcard := false, false
	for name, owners := range b.dirty {
		h := b.host(name, owners)
		switch suffix, wild := strings.CutPrefix(name, "*"); {
		case name == "":
			t.any = h
		case wild:
			if !wildcard {
				t.wildcard, wildcard = clone(t.wildcard), true
			}
			put(t.wildcard, suffix, h)
		default:
			if !exact {
				t.exact, exact = clone(t.exact), true
			}
			put(t.exact, name, h)
		}
	}
	if wildcard {
		t.longest = 0
		for suffix := range t.wildcard {
			t.longest = max(t.longest, len(suffix))
		}
	}
	clear(b.dirty)
	b.table = &t
	return b.table
}

// host indexes the entries of one host anew, of which those of some owners have
// changed. nil = there are none.
func (b *Builder[R]) host(name string, owners map[string][]int) *host[R] {
	var changed []*rule[R]
	for key, places := range owners {
		for _, i := range places {
			changed = append(changed, newRule(&b.owners[key][i], key, i))
		}
	}
	slices.SortFunc(changed, precedes[R])
	rules := changed
	if was := b.table.named(name); was != nil {
		rules = make([]*rule[R], 0, len(was.items)+len(changed))
		for i := range was.items {
			r := was.items[i].rule
			if _, gone := owners[r.key]; gone {
				continue
			}
			for len(changed) > 0 && precedes(changed[0], r) < 0 {
				rules, changed = append(rules, changed[0]), changed[1:]
			}
			rules = append(rules, r)
		}
		rules = append(rules, changed...)
	}
	if len(rules) == 0 {
		return nil
	}
	b.built++
	return newHost(rules)
}

func clone[R any](m map[string]*host[R]) map[string]*host[R] {
	if m == nil {
		return make(map[string]*host[R])
	}
	return maps.Clone(m)
}

func put[R any](m map[string]*host[R], name string, h *host[R]) {
	if h == nil {
		delete(m, name)
	} else {
		m[name] = h
	}
}

// same says that nothing can tell two entries apart.
func same[R any](a, b Entry[R]) bool {
	return a.Host == b.Host && a.Created.Equal(b.Created) && a.Owner == b.Owner &&
		a.Rule == b.Rule && a.Index == b.Index &&
		sameMatch(&a.Match, &b.Match) && sameValue(a.Value, b.Value)
}

func sameMatch(a, b *Match) bool {
	return a.Path.Kind == b.Path.Kind && a.Path.Value == b.Path.Value &&
		sameRegex(a.Path.Regex, b.Path.Regex) && a.Method == b.Method &&
		slices.EqualFunc(a.Headers, b.Headers, sameCondition) &&
		slices.EqualFunc(a.Query, b.Query, sameCondition)
}

func sameCondition(a, b ValueMatch) bool {
	return a.Name == b.Name && a.Value == b.Value && sameRegex(a.Regex, b.Regex)
}

func sameRegex(a, b *regexp.Regexp) bool {
	return a == b || a != nil && b != nil && a.String() == b.String()
}

func sameValue(a, b any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}
