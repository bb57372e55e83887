package route

import (
	"fmt"
	"testing"
)

func TestOnlyTouchedHostsAreBuiltAnew(t *testing.T) {
	b := NewBuilder[int]()
	for i := range 100 {
		b.Set(fmt.Sprint("owner", i), []Entry[int]{{Host: fmt.Sprintf("h%d.test", i), Value: i}, {Host: "*.test", Rule: i, Value: i}})
	}
	step := func(what string, hosts int) *Table[int] {
		t.Helper()
		before := b.built
		tab := b.Table()
		if n := b.built - before; n != hosts {
			t.Errorf("%s: %d hosts were indexed, want %d", what, n, hosts)
		}
		return tab
	}
	unchanged := func(what string) {
		t.Helper()
		if was := b.table; step(what, 0) != was {
			t.Errorf("%s: another table, want the same", what)
		}
	}
	first := step("the first time", 101)
	unchanged("no change")
	b.Set("owner5", []Entry[int]{{Host: "h5.test", Value: 5}, {Host: "*.test", Rule: 5, Value: 5}})
	unchanged("an equal entry")
	b.Set("owner5", []Entry[int]{{Host: "h5.test", Value: 500}, {Host: "*.test", Rule: 5, Value: 5}})
	second := step("another value", 2)
	if first.exact["h6.test"] != second.exact["h6.test"] {
		t.Error("an untouched host is not shared")
	}
	if e, _ := first.Match(&Request{Host: "h5.test", Path: "/"}); e.Value != 5 {
		t.Errorf("the table before changed: %v", e)
	}
	b.Delete("owner6")
	third := step("an owner less", 1)
	if e, _ := third.Match(&Request{Host: "h6.test", Path: "/"}); e == nil || e.Host != "*.test" {
		t.Errorf("a host without entries still answers with %v", e)
	}
	b.Delete("nobody")
	unchanged("deleting nobody")
	b.Set("any", []Entry[int]{{}})
	step("any host", 1)
	b.Set("any", nil)
	if tab := step("any host no more", 0); tab.any != nil {
		t.Error("any host is still there")
	}
}

func TestNothingIsKeptOfWhatIsGone(t *testing.T) {
	b := NewBuilder[int]()
	for i := range 50 {
		b.Set(fmt.Sprint(i), []Entry[int]{{Host: fmt.Sprint("h", i)}, {Host: "*.w"}, {}})
		b.Table()
	}
	for i := range 50 {
		b.Delete(fmt.Sprint(i))
	}
	tab := b.Table()
	if n := len(b.owners) + len(b.dirty) + len(tab.exact) + len(tab.wildcard) + len(tab.Hosts()); n != 0 {
		t.Errorf("%d things are left in %+v", n, b)
	}
}

func TestTheCallersSliceIsItsOwn(t *testing.T) {
	b := NewBuilder[int]()
	es := []Entry[int]{{Host: "a", Value: 1}}
	b.Set("k", es)
	es[0].Value = 2
	if e, _ := b.Table().Match(&Request{Host: "a", Path: "/"}); e.Value != 1 {
		t.Errorf("the table has the caller's later %v", e.Value)
	}
}
