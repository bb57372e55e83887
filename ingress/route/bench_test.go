package route

import (
	"fmt"
	"net/http"
	"testing"
)

// shapes are tables of n routes, and a request for one of them each.
var shapes = []struct {
	name string
	make func(n int) (*Builder[int], *Request)
}{
	{"hosts", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: fmt.Sprintf("h%d.example.com", i), Match: Match{Path: prefix("/")}}
		}), &Request{Host: fmt.Sprintf("h%d.example.com", n/2), Path: "/api/v1/users"}
	}},
	{"wildcards", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: fmt.Sprintf("*.h%d.example.com", i), Match: Match{Path: prefix("/")}}
		}), &Request{Host: fmt.Sprintf("www.eu.h%d.example.com", n/2), Path: "/api/v1/users"}
	}},
	{"exact", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: "example.com", Match: Match{Path: exact(fmt.Sprintf("/api/v1/%d", i))}}
		}), &Request{Host: "example.com", Path: fmt.Sprintf("/api/v1/%d", n/2)}
	}},
	{"prefixes", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: "example.com", Match: Match{Path: prefix(fmt.Sprintf("/api/v1/%d", i))}}
		}), &Request{Host: "example.com", Path: fmt.Sprintf("/api/v1/%d/orders/7", n/2)}
	}},
	{"headers", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: "example.com", Match: Match{Headers: []ValueMatch{{Name: "X-Tenant", Value: fmt.Sprint(i)}}}}
		}), &Request{Host: "example.com", Path: "/api/v1/users", Header: http.Header{"X-Tenant": {fmt.Sprint(n - 1)}}}
	}},
	{"parameters", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: "example.com", Match: Match{Query: []ValueMatch{{Name: "tenant", Value: fmt.Sprint(i)}}}}
		}), &Request{Host: "example.com", Path: "/api/v1/users", RawQuery: fmt.Sprintf("a=b&tenant=%d", n-1)}
	}},
	{"expressions", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: "example.com", Match: Match{Path: regex(fmt.Sprintf("/svc%d/v[0-9]+/.*", i))}}
		}), &Request{Host: "example.com", Path: fmt.Sprintf("/svc%d/v1/users", n-1)}
	}},
	{"nothing", func(n int) (*Builder[int], *Request) {
		return routes(n, func(i int) Entry[int] {
			return Entry[int]{Host: fmt.Sprintf("h%d.example.com", i%100), Match: Match{Path: prefix(fmt.Sprintf("/api/v1/%d", i))}}
		}), &Request{Host: "h7.example.com", Path: "/api/v2/7"}
	}},
}

func routes(n int, entry func(i int) Entry[int]) *Builder[int] {
	b := NewBuilder[int]()
	for i := range n {
		e := entry(i)
		e.Owner = Owner{Kind: "HTTPRoute", Namespace: "default", Name: fmt.Sprintf("r%06d", i)}
		e.Value = i
		b.Set(e.Owner.Name, []Entry[int]{e})
	}
	return b
}

func TestMatchAllocatesNothing(t *testing.T) {
	for _, s := range shapes {
		b, r := s.make(100)
		tab := b.Table()
		if _, ok := tab.Match(r); ok != (s.name != "nothing") {
			t.Errorf("%s: matched: %v", s.name, ok)
		}
		if n := testing.AllocsPerRun(100, func() { tab.Match(r) }); n != 0 {
			t.Errorf("%s: %v allocations a match", s.name, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{10, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", s.name, n), func(b *testing.B) {
				builder, r := s.make(n)
				tab := builder.Table()
				b.ReportAllocs()
				for b.Loop() {
					tab.Match(r)
				}
			})
		}
	}
}

// BenchmarkChange is the change of one route, and the table that has it.
func BenchmarkChange(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{10, 1000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", s.name, n), func(b *testing.B) {
				builder, _ := s.make(n)
				builder.Table()
				e := builder.owners["r000003"][0]
				for b.Loop() {
					e.Value++
					builder.Set("r000003", []Entry[int]{e})
					builder.Table()
				}
			})
		}
	}
}

func BenchmarkNormalise(b *testing.B) {
	for _, p := range []string{"/api/v1/users/12345.json", "/a/b%2fc/../%7ed"} {
		b.Run(p, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Normalise(p)
			}
		})
	}
}
