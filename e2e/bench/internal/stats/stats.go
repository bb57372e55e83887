package stats

import (
	"math"
	"slices"
)

// Median of values, NaN if there is none. The mean of the middle two for an even count.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// Spread is how far apart the rounds were: largest less smallest, as a share of the median. Zero for fewer than two values.
func Spread(values []float64) float64 {
	if len(values) < 2 {
		return 0
	}
	m := Median(values)
	if m == 0 || math.IsNaN(m) {
		return 0
	}
	return (slices.Max(values) - slices.Min(values)) / m
}

// Percentile of sorted, by the nearest rank; p is in [0, 1]. NaN if sorted is empty.
func Percentile(sorted []uint32, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p*float64(len(sorted)))) - 1
	return float64(sorted[min(max(rank, 0), len(sorted)-1)])
}

// A Series is one metric of one path: a value per round, NaN where the round has none.
type Series []float64

func (s Series) Present() []float64 {
	var values []float64
	for _, v := range s {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	return values
}

// Ratios compares ours with theirs round by round, such that larger is better for us.
// Rounds in which either is missing or the divisor is zero have no ratio.
func Ratios(ours, theirs Series, lowerIsBetter bool) []float64 {
	var out []float64
	for round := range min(len(ours), len(theirs)) {
		over, under := ours[round], theirs[round]
		if lowerIsBetter {
			over, under = under, over
		}
		r := over / under
		if under == 0 || math.IsNaN(r) || math.IsInf(r, 0) {
			continue
		}
		out = append(out, r)
	}
	return out
}
