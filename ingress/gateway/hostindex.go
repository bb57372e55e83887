package gateway

import (
	"iter"
	"strings"
)

// hostIndex finds a route of which a hostname intersects with another one, at a
// cost that does not grow with the number of hostnames.
type hostIndex struct {
	any   *routeState            // has a route for every name
	first *routeState            // any route at all
	names map[string]*routeState // hostnames as they are, wildcards included
	below map[string]*routeState // suffix: a hostname that ends in it
}

func newHostIndex() *hostIndex {
	return &hostIndex{names: make(map[string]*routeState), below: make(map[string]*routeState)}
}

// add enters the hostnames of a route. Where two have the same, the first stays.
func (x *hostIndex) add(hosts []string, r *routeState) {
	for _, host := range hosts {
		if x.first == nil {
			x.first = r
		}
		if host == "" {
			if x.any == nil {
				x.any = r
			}
			continue
		}
		keep(x.names, host, r)
		for suffix := range parents(host) {
			keep(x.below, suffix, r)
		}
	}
}

func keep(m map[string]*routeState, key string, r *routeState) {
	if m[key] == nil {
		m[key] = r
	}
}

// overlapping is a route that has a name in common with hosts. nil: none has.
func (x *hostIndex) overlapping(hosts []string) *routeState {
	for _, host := range hosts {
		if x.any != nil {
			return x.any
		}
		if host == "" {
			if x.first != nil {
				return x.first
			}
			continue
		}
		if r := x.names[host]; r != nil {
			return r
		}
		for suffix := range parents(host) {
			if r := x.names["*"+suffix]; r != nil {
				return r
			}
		}
		if suffix, ok := strings.CutPrefix(host, "*"); ok {
			if r := x.below[suffix]; r != nil {
				return r
			}
		}
	}
	return nil
}

// parents are the suffixes ".b.c" and ".c" of "a.b.c", under which a wildcard
// matches it. "*.b.c" has only ".c": its own suffix is its name.
func parents(host string) iter.Seq[string] {
	name := strings.TrimPrefix(host, "*.")
	return func(yield func(string) bool) {
		name := name
		for i := strings.IndexByte(name, '.'); i >= 0; i = strings.IndexByte(name, '.') {
			if !yield(name[i:]) {
				return
			}
			name = name[i+1:]
		}
	}
}
