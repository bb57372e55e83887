package capture

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
)

// set is a named set. Sets of addresses, and sets of ports, hold intervals.
type set struct {
	name     string
	kind     nftables.SetDatatype
	interval bool
	elements []element
	texts    []string
}

// element is a key of a set; in an interval set, where an interval starts, or the first key behind its end.
type element struct {
	key []byte
	end bool
}

// span is an interval of keys, both ends included, in network order.
type span struct {
	first, last []byte
}

func addrSet(name string, size int, prefixes []netip.Prefix) set {
	kind := nftables.TypeIPAddr
	if size == 16 {
		kind = nftables.TypeIP6Addr
	}
	var spans []span
	for _, p := range prefixes {
		if p.Addr().BitLen() != size*8 {
			continue
		}
		first, last := p.Addr().AsSlice(), p.Addr().AsSlice()
		for bit := p.Bits(); bit < size*8; bit++ {
			last[bit/8] |= 0x80 >> (bit % 8)
		}
		spans = append(spans, span{first: first, last: last})
	}
	return intervals(name, kind, spans, func(b []byte) string {
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	})
}

func portsSet(name string, ranges []PortRange) set {
	var spans []span
	for _, r := range ranges {
		spans = append(spans, span{first: big16(r.First), last: big16(r.Last)})
	}
	return intervals(name, nftables.TypeInetService, spans, func(b []byte) string {
		return portText(binary.BigEndian.Uint16(b))
	})
}

func portText(p uint16) string { return strconv.Itoa(int(p)) }

// intervals merges spans, because the kernel refuses ones that overlap, and encodes them: an element where an
// interval starts and one, marked as end, behind where it ends.
func intervals(name string, kind nftables.SetDatatype, spans []span, text func([]byte) string) set {
	s := set{name: name, kind: kind, interval: true}
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(slices.Compare(a.first, b.first), slices.Compare(a.last, b.last))
	})
	var merged []span
	for _, sp := range spans {
		if n := len(merged); n > 0 {
			prev := &merged[n-1]
			next, over := increment(prev.last)
			if over || slices.Compare(sp.first, next) <= 0 {
				if slices.Compare(sp.last, prev.last) > 0 {
					prev.last = sp.last
				}
				continue
			}
		}
		merged = append(merged, sp)
	}
	for i, sp := range merged {
		if zero := make([]byte, kind.Bytes); i == 0 && slices.Compare(sp.first, zero) > 0 {
			s.elements = append(s.elements, element{key: zero, end: true})
		}
		s.elements = append(s.elements, element{key: sp.first})
		// An interval that reaches the last key has no end: nothing is behind it.
		if end, over := increment(sp.last); !over {
			s.elements = append(s.elements, element{key: end, end: true})
		}
		t := text(sp.first)
		if !slices.Equal(sp.first, sp.last) {
			t += "-" + text(sp.last)
		}
		s.texts = append(s.texts, t)
	}
	return s
}

// increment returns the key after k; over means that there is none.
func increment(k []byte) (next []byte, over bool) {
	next = slices.Clone(k)
	for i := len(next) - 1; i >= 0; i-- {
		next[i]++
		if next[i] != 0 {
			return next, false
		}
	}
	return next, true
}

func linkSet(name string, links []string) set {
	s := set{name: name, kind: nftables.TypeIFName}
	links = slices.Clone(links)
	slices.Sort(links)
	for _, link := range slices.Compact(links) {
		key := make([]byte, 16)
		copy(key, link)
		s.elements = append(s.elements, element{key: key})
		s.texts = append(s.texts, fmt.Sprintf("%q", link))
	}
	return s
}

func (s set) text(b *strings.Builder) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.name, s.kind.Name)
	if s.interval {
		b.WriteString("\t\tflags interval\n")
	}
	if len(s.texts) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(s.texts, ", "))
	}
	b.WriteString("\t}\n\n")
}
