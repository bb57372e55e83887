package gateway

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/adit-mesh/adit/ingress"
)

// someHosts are hostnames that are apart, equal, and within each other.
var someHosts = []string{"", "a", "test", "a.test", "b.test", "c.a.test", "d.c.a.test", "*.test", "*.a.test", "*.c.a.test", "xa.test", "*.other"}

func TestIntersect(t *testing.T) {
	for _, c := range []struct {
		a, b, want string
		ok         bool
	}{
		{"", "", "", true},
		{"", "a.test", "a.test", true},
		{"", "*.test", "*.test", true},
		{"a.test", "a.test", "a.test", true},
		{"a.test", "b.test", "", false},
		{"*.test", "a.test", "a.test", true},
		{"*.test", "b.a.test", "b.a.test", true},
		{"*.test", "test", "", false},
		{"*.test", ".test", "", false},
		{"*.test", "atest", "", false},
		{"*.test", "*.a.test", "*.a.test", true},
		{"*.test", "*.test", "*.test", true},
		{"*.test", "*.xtest", "", false},
		{"*.a.test", "*.b.test", "", false},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if got, ok := intersect(pair[0], pair[1]); got != c.want || ok != c.ok {
				t.Errorf("intersect(%q, %q) = %q, %t, want %q, %t", pair[0], pair[1], got, ok, c.want, c.ok)
			}
		}
	}
}

func TestIntersections(t *testing.T) {
	for _, c := range []struct {
		listener string
		route    []string
		want     []string
	}{
		{"", nil, []string{""}},
		{"a.test", nil, []string{"a.test"}},
		{"", []string{"a.test", "*.test"}, []string{"a.test", "*.test"}},
		{"*.test", []string{"a.test", "b.other", "*.a.test"}, []string{"a.test", "*.a.test"}},
		{"a.test", []string{"*.test", "a.test"}, []string{"a.test"}},
		{"a.test", []string{"b.test"}, nil},
	} {
		if got := intersections(c.listener, c.route); !slices.Equal(got, c.want) {
			t.Errorf("a listener for %q and a route for %q have %q in common, want %q", c.listener, c.route, got, c.want)
		}
	}
}

func draw(r *rand.Rand) []string {
	var hosts []string
	for range 1 + r.IntN(3) {
		hosts = append(hosts, someHosts[r.IntN(len(someHosts))])
	}
	return hosts
}

// TestHostIndex compares the index with looking at every pair.
func TestHostIndex(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		x := newHostIndex()
		var have []string
		for range r.IntN(5) {
			hosts := draw(r)
			have = append(have, hosts...)
			x.add(hosts, &routeState{})
		}
		asked := draw(r)
		want := overlapSlowly(have, asked)
		if got := x.overlapping(asked) != nil; got != want {
			t.Fatalf("seed %d: of %q, does any have a name in common with %q? %t, want %t", seed, have, asked, got, want)
		}
	}
}

func overlapSlowly(a, b []string) bool {
	for _, x := range a {
		for _, y := range b {
			if _, ok := intersect(x, y); ok {
				return true
			}
		}
	}
	return false
}

// TestMarkOverlap compares the marks with looking at every pair.
func TestMarkOverlap(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 4))
		var group []*listener
		names := make(map[*listener][]string)
		for range 2 + r.IntN(4) {
			l := &listener{tls: &ingress.TLSConfig{}}
			group = append(group, l)
			names[l] = draw(r)
		}
		markOverlap(group, func(l *listener) []string { return names[l] }, verdict{"Overlapping", ""})
		for i, l := range group {
			want := false
			for j, other := range group {
				want = want || i != j && overlapSlowly(names[l], names[other])
			}
			if got := !l.overlap.ok(); got != want {
				t.Fatalf("seed %d: listener %d, for %q, overlaps with others: %t, want %t", seed, i, names[l], got, want)
			}
		}
	}
}
