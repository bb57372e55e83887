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
	// hosts has what each owner has of a host, and dirty the hosts of which that
	// changed since table was built.
	hosts map[string]map[string][]*Entry[R]
	dirty map[string]struct{}
	table *Table[R]

	built int // hosts that were indexed so far
}

// NewBuilder returns a Builder without entries.
func NewBuilder[R any]() *Builder[R] {
	return &Builder[R]{
		owners: make(map[string][]Entry[R]),
		hosts:  make(map[string]map[string][]*Entry[R]),
		dirty:  make(map[string]struct{}),
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
	b.forget(key)
	if len(entries) == 0 {
		return
	}
	entries = slices.Clone(entries)
	b.owners[key] = entries
	for i := range entries {
		host := entries[i].Host
		if b.hosts[host] == nil {
			b.hosts[host] = make(map[string][]*Entry[R])
		}
		b.hosts[host][key] = append(b.hosts[host][key], &entries[i])
		b.dirty[host] = struct{}{}
	}
}

// Delete removes all that an owner has.
func (b *Builder[R]) Delete(key string) { b.forget(key) }

func (b *Builder[R]) forget(key string) {
	for _, e := range b.owners[key] {
		delete(b.hosts[e.Host], key)
		if len(b.hosts[e.Host]) == 0 {
			delete(b.hosts, e.Host)
		}
		b.dirty[e.Host] = struct{}{}
	}
	delete(b.owners, key)
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
	for name := range b.dirty {
		switch suffix, wild := strings.CutPrefix(name, "*"); {
		case name == "":
			t.any = b.host(name)
		case wild:
			if !wildcard {
				t.wildcard, wildcard = clone(t.wildcard), true
			}
			put(t.wildcard, suffix, b.host(name))
		default:
			if !exact {
				t.exact, exact = clone(t.exact), true
			}
			put(t.exact, name, b.host(name))
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

// host indexes the entries of one host. nil = there are none.
func (b *Builder[R]) host(name string) *host[R] {
	owners := b.hosts[name]
	if len(owners) == 0 {
		return nil
	}
	b.built++
	// What precedence does not tell apart is in the order of the owners' keys.
	var entries []*Entry[R]
	for _, key := range slices.Sorted(maps.Keys(owners)) {
		entries = append(entries, owners[key]...)
	}
	return newHost(entries)
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
