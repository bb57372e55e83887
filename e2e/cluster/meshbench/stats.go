package main

import (
	"math"
	"slices"
	"time"
)

// percentile by the nearest rank; p is in [0, 1]. NaN if there are no values.
// For an even count the median is the mean of the middle two.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if mid := len(s) / 2; p == 0.5 && len(s)%2 == 0 {
		return (s[mid-1] + s[mid]) / 2
	}
	rank := int(math.Ceil(p*float64(len(s)))) - 1
	return s[min(max(rank, 0), len(s)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func mebibytes(n uint64) float64 { return float64(n) / (1 << 20) }
