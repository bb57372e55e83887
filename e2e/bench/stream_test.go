package bench

import (
	"slices"
	"strings"
	"testing"
)

func TestPatternCheckFindsFaults(t *testing.T) {
	const offset = 5*patternPeriod - 1000 // the chunk wraps around the period
	good := slices.Clone(patternAt(offset, loadChunk))
	if err := checkPattern(good, offset, true); err != nil {
		t.Fatalf("the pattern is not its own: %v", err)
	}
	for name, fault := range map[string]func([]byte) []byte{
		"lost":      func(b []byte) []byte { return b[1:] },
		"repeated":  func(b []byte) []byte { return append(b[:1:1], b[:loadChunk-1]...) },
		"exchanged": func(b []byte) []byte { return append(b[16<<10:32<<10:32<<10], b[:16<<10]...) },
	} {
		if err := checkPattern(fault(slices.Clone(good)), offset, false); err == nil {
			t.Errorf("bytes %s: the sample at the start of a read did not see it", name)
		}
	}
	flipped := slices.Clone(good)
	flipped[loadChunk-1] ^= 1
	err := checkPattern(flipped, offset, true)
	if err == nil || !strings.Contains(err.Error(), "offset 5372936") {
		t.Errorf("a bit changed in the last byte: got %v, want an error that names its offset", err)
	}
}

func TestRecordReplacesTheOneBefore(t *testing.T) {
	var rec record
	rec.add(0, 1)
	rec.add(1, 10)
	rec.add(0, 20)
	rec.add(2, 30)
	rec.add(2, 1<<40)
	if want := []uint32{30, 1<<32 - 1}; rec.number != 2 || !slices.Equal(rec.latencies, want) {
		t.Errorf("got record %d with %v, want record 2 with %v", rec.number, rec.latencies, want)
	}
}
