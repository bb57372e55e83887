package mesh

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// The trie is checked against the built-in map, with snapshots kept along the
// way to see that no later update reaches them.
func TestPersistentMapAgainstMap(t *testing.T) {
	type snapshot struct {
		m    pmap[string, int]
		want map[string]int
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var m pmap[string, int]
	want := map[string]int{}
	var kept []snapshot
	e := new(edit)
	for i := range 20_000 {
		k := fmt.Sprint(rng.IntN(3000))
		if rng.IntN(3) == 0 {
			m.delete(e, k)
			delete(want, k)
		} else {
			m.set(e, k, i)
			want[k] = i
		}
		if i%500 == 0 {
			kept = append(kept, snapshot{m, maps.Clone(want)})
			e = new(edit)
		}
	}
	kept = append(kept, snapshot{m, want})
	for i, s := range kept {
		if got := maps.Collect(s.m.all()); !maps.Equal(got, s.want) || s.m.len() != len(s.want) {
			t.Fatalf("snapshot %d changed under its reader: %d entries, want %d", i, s.m.len(), len(s.want))
		}
		for k, v := range s.want {
			if got, ok := s.m.get(k); !ok || got != v {
				t.Fatalf("snapshot %d: get(%q) = %d, %v; want %d", i, k, got, ok, v)
			}
		}
		if _, ok := s.m.get("absent"); ok {
			t.Fatal("an absent key was found")
		}
	}
	for k := range want {
		m.delete(e, k)
	}
	if m.root != nil || m.len() != 0 {
		t.Errorf("an emptied map keeps %d entries and root %v", m.len(), m.root)
	}
}

// Full hash collisions do not occur in practice, so the list below the last
// level is exercised by hand.
func TestPersistentMapCollisions(t *testing.T) {
	e := new(edit)
	var n *node[string, int]
	for i := range 5 {
		n, _ = n.set(e, 42, trieDepth, fmt.Sprint(i), i)
	}
	entries := func(n *node[string, int]) map[string]int {
		return maps.Collect(pmap[string, int]{root: n}.all())
	}
	if got := entries(n); len(got) != 5 {
		t.Fatalf("entries = %v, want five with one hash", got)
	}
	before := n
	e = new(edit)
	n, _ = n.set(e, 42, trieDepth, "3", 33)
	for _, k := range []string{"0", "1", "2", "4", "absent"} {
		n, _ = n.delete(e, 42, trieDepth, k)
	}
	if got := entries(n); !maps.Equal(got, map[string]int{"3": 33}) {
		t.Errorf("entries = %v, want only the changed one", got)
	}
	if got := entries(before); len(got) != 5 || got["3"] != 3 {
		t.Errorf("the snapshot changed: %v", got)
	}
}
