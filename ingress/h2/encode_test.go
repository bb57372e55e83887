package h2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// TestEncoder decodes random blocks with x/net's decoder, while the client changes
// the size of the table.
func TestEncoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var e encoder
	e.init()
	var got []hpack.HeaderField
	dec := hpack.NewDecoder(maxTableSize, func(f hpack.HeaderField) { got = append(got, f) })
	names := []string{"Server", "Date", "Set-Cookie", "Content-Type", "X-Unknown", "Content-Length", "Etag", "X-Other-Name"}
	indexed := 0
	for block := range 5000 {
		if r.IntN(50) == 0 {
			for range 1 + r.IntN(3) {
				size := []uint32{0, 31, 100, 500, 4096, 100_000}[r.IntN(6)]
				e.resize(size)
				dec.SetAllowedMaxDynamicTableSize(maxTableSize)
			}
		}
		f := getFields()
		for range r.IntN(12) {
			value := fmt.Sprint(r.IntN(1 + r.IntN(40)))
			if r.IntN(10) == 0 {
				value = strings.Repeat(value, r.IntN(3000))
			}
			f.add(names[r.IntN(len(names))], value)
		}
		status := []int{200, 204, 304, 404, 500, 299, 999}[r.IntN(7)]
		b := e.status(e.begin(nil), status)
		for _, x := range f.list {
			b = e.one(b, x.fieldName, x.value)
		}
		if len(b) > f.size+16 {
			t.Fatalf("block %d is %d bytes long, more than the %d announced", block, len(b), f.size+16)
		}
		got = nil
		if _, err := dec.Write(b); err != nil {
			t.Fatalf("block %d: %v", block, err)
		}
		if err := dec.Close(); err != nil {
			t.Fatalf("block %d: %v", block, err)
		}
		want := []hpack.HeaderField{{Name: ":status", Value: fmt.Sprint(status)}}
		for _, x := range f.list {
			want = append(want, hpack.HeaderField{Name: x.lower, Value: x.value, Sensitive: x.how == neverIndex})
		}
		if !slices.Equal(got, want) {
			t.Fatalf("block %d\n got %.500v\nwant %.500v", block, got, want)
		}
		if e.size > e.limit || e.n > maxEntries {
			t.Fatalf("the table holds %d bytes of %d", e.size, e.limit)
		}
		indexed += e.n
		putFields(f)
	}
	if indexed == 0 {
		t.Error("nothing was put into the table")
	}
}

// TestStaticNames compares the table of names with the decoder's.
func TestStaticNames(t *testing.T) {
	for name, index := range staticNames {
		var got string
		dec := hpack.NewDecoder(4096, func(f hpack.HeaderField) { got = f.Name })
		dec.Write(append(appendInt(nil, 0, 4, uint64(index)), 1, 'x'))
		if got != name {
			t.Errorf("index %d is %q, not %q", index, got, name)
		}
	}
}
