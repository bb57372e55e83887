package mesh

import (
	"hash/maphash"
	"iter"
	"math/bits"
)

// pmap is a persistent map: a hash array mapped trie in which an update copies
// the few nodes on the way to the key and shares the rest. A copy of a pmap is
// a snapshot that costs nothing and that no later update changes, which is
// what lets readers go on without a lock while a writer works.
type pmap[K comparable, V any] struct {
	root *node[K, V]
	n    int
}

// edit marks the nodes made during one series of updates. They are not yet
// visible to anybody else and may be changed in place.
type edit struct{ _ byte } // not empty: distinct edits need distinct addresses

type node[K comparable, V any] struct {
	owner  *edit
	bitmap uint32 // which of the 32 branches are in use
	slots  []slot[K, V]
}

// slot is a branch: a deeper node, or one entry.
type slot[K comparable, V any] struct {
	child *node[K, V]
	key   K
	val   V
}

const (
	trieBits  = 5
	trieMask  = 1<<trieBits - 1
	trieDepth = (64 + trieBits - 1) / trieBits // below it, hashes are equal: slots are a list
)

var trieSeed = maphash.MakeSeed()

func hash[K comparable](k K) uint64 { return maphash.Comparable(trieSeed, k) }

// branch says which bit of a node's bitmap a hash takes at a depth, and where
// in slots that branch is or would be.
func (n *node[K, V]) branch(h uint64, depth int) (bit uint32, at int) {
	bit = 1 << (h >> (depth * trieBits) & trieMask)
	return bit, bits.OnesCount32(n.bitmap & (bit - 1))
}

func (m pmap[K, V]) len() int { return m.n }

func (m pmap[K, V]) get(k K) (v V, ok bool) {
	n := m.root
	h := hash(k)
	for depth := 0; n != nil; depth++ {
		if depth >= trieDepth {
			if i := n.find(k); i >= 0 {
				return n.slots[i].val, true
			}
			return v, false
		}
		bit, at := n.branch(h, depth)
		if n.bitmap&bit == 0 {
			return v, false
		}
		s := &n.slots[at]
		if s.child == nil {
			if s.key == k {
				return s.val, true
			}
			return v, false
		}
		n = s.child
	}
	return v, false
}

// find is the lookup below trieDepth.
func (n *node[K, V]) find(k K) int {
	for i := range n.slots {
		if n.slots[i].key == k {
			return i
		}
	}
	return -1
}

// set makes k stand for v in m; copies of m taken before are not affected.
func (m *pmap[K, V]) set(e *edit, k K, v V) {
	root, added := m.root.set(e, hash(k), 0, k, v)
	m.root = root
	if added {
		m.n++
	}
}

func (n *node[K, V]) set(e *edit, h uint64, depth int, k K, v V) (*node[K, V], bool) {
	if n == nil {
		n = &node[K, V]{owner: e}
	}
	if depth >= trieDepth {
		n = n.owned(e)
		if i := n.find(k); i >= 0 {
			n.slots[i].val = v
			return n, false
		}
		n.slots = append(n.slots, slot[K, V]{key: k, val: v})
		return n, true
	}
	bit, at := n.branch(h, depth)
	n = n.owned(e)
	if n.bitmap&bit == 0 {
		n.bitmap |= bit
		n.slots = append(n.slots, slot[K, V]{})
		copy(n.slots[at+1:], n.slots[at:])
		n.slots[at] = slot[K, V]{key: k, val: v}
		return n, true
	}
	s := &n.slots[at]
	if s.child != nil {
		child, added := s.child.set(e, h, depth+1, k, v)
		s.child = child
		return n, added
	}
	if s.key == k {
		s.val = v
		return n, false
	}
	// Two entries for one branch: both move one level down.
	child, _ := (*node[K, V])(nil).set(e, hash(s.key), depth+1, s.key, s.val)
	child, _ = child.set(e, h, depth+1, k, v)
	n.slots[at] = slot[K, V]{child: child}
	return n, true
}

// owned is n itself if e made it, else a copy that e may change.
func (n *node[K, V]) owned(e *edit) *node[K, V] {
	if n.owner == e {
		return n
	}
	// One spare slot: most copies are made to insert.
	slots := make([]slot[K, V], len(n.slots), len(n.slots)+1)
	copy(slots, n.slots)
	return &node[K, V]{owner: e, bitmap: n.bitmap, slots: slots}
}

// delete removes k from m; copies of m taken before are not affected.
func (m *pmap[K, V]) delete(e *edit, k K) {
	root, removed := m.root.delete(e, hash(k), 0, k)
	m.root = root
	if removed {
		m.n--
	}
}

// delete returns nil for a node that has become empty.
func (n *node[K, V]) delete(e *edit, h uint64, depth int, k K) (*node[K, V], bool) {
	if n == nil {
		return nil, false
	}
	var bit uint32
	var at int
	if depth >= trieDepth {
		if at = n.find(k); at < 0 {
			return n, false
		}
	} else {
		bit, at = n.branch(h, depth)
		if n.bitmap&bit == 0 {
			return n, false
		}
		if child := n.slots[at].child; child != nil {
			next, removed := child.delete(e, h, depth+1, k)
			if !removed {
				return n, false
			}
			if next != nil {
				n = n.owned(e)
				n.slots[at].child = next
				// A single entry goes back up, so that a map that has shrunk
				// is as flat as one that never was large.
				if len(next.slots) == 1 && next.slots[0].child == nil {
					n.slots[at] = next.slots[0]
				}
				return n, true
			}
		} else if n.slots[at].key != k {
			return n, false
		}
	}
	if len(n.slots) == 1 {
		return nil, true
	}
	n = n.owned(e)
	n.bitmap &^= bit
	copy(n.slots[at:], n.slots[at+1:])
	n.slots[len(n.slots)-1] = slot[K, V]{}
	n.slots = n.slots[:len(n.slots)-1]
	return n, true
}

// all goes through the entries in no particular order.
func (m pmap[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { m.root.all(yield) }
}

func (n *node[K, V]) all(yield func(K, V) bool) bool {
	if n == nil {
		return true
	}
	for i := range n.slots {
		s := &n.slots[i]
		if s.child != nil {
			if !s.child.all(yield) {
				return false
			}
		} else if !yield(s.key, s.val) {
			return false
		}
	}
	return true
}
