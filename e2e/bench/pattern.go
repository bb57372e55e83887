package bench

import (
	"bytes"
	"fmt"
	"math/rand/v2"
)

const (
	// patternPeriod has no factor in common with any frame, record or buffer size, so that bytes lost, repeated or put in the
	// wrong place never fall on an equal part of the pattern.
	patternPeriod = 1<<20 - 3
	loadChunk     = 128 << 10 // what the load generators read and write at once
	sampleSize    = 64        // bytes compared at the start of each read while measuring
)

// pattern is what every bulk stream carries: the byte at offset n of a stream is pattern[n mod patternPeriod].
// It is longer than its period by a chunk, so that any chunk of a stream is one slice of it.
var pattern = func() []byte {
	r := rand.NewChaCha8([32]byte([]byte("adit bench: the same in all ends")))
	p := make([]byte, patternPeriod+loadChunk)
	r.Read(p[:patternPeriod])
	copy(p[patternPeriod:], p[:loadChunk])
	return p
}()

// patternAt is the n bytes that belong at offset of a stream; n is at most loadChunk.
func patternAt(offset int64, n int) []byte {
	start := int(offset % patternPeriod)
	return pattern[start : start+n]
}

// checkPattern compares what was read at offset with the pattern: the first sampleSize bytes, or all if whole.
func checkPattern(got []byte, offset int64, whole bool) error {
	if !whole && len(got) > sampleSize {
		got = got[:sampleSize]
	}
	want := patternAt(offset, len(got))
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			offset += int64(i)
			break
		}
	}
	return fmt.Errorf("stream carries wrong bytes from offset %d on", offset)
}
