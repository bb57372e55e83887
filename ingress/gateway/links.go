package gateway

import "maps"

// set is a set.
type set[T comparable] map[T]struct{}

func (s set[T]) add(v T)      { s[v] = struct{}{} }
func (s set[T]) has(v T) bool { _, ok := s[v]; return ok }

// links is who has to be looked at again when something changes. Nothing is left
// of a key that leads to nobody.
type links[K, V comparable] map[K]set[V]

func (l links[K, V]) add(k K, v V) {
	if l[k] == nil {
		l[k] = make(set[V])
	}
	l[k].add(v)
}

func (l links[K, V]) remove(k K, v V) {
	delete(l[k], v)
	if len(l[k]) == 0 {
		delete(l, k)
	}
}

// replace makes v be found under the keys of after instead of those of before.
func (l links[K, V]) replace(v V, before, after set[K]) {
	for k := range before {
		if !after.has(k) {
			l.remove(k, v)
		}
	}
	for k := range after {
		l.add(k, v)
	}
}

func (s set[T]) addAll(other set[T]) { maps.Copy(s, other) }
