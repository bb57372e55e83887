package stats

import (
	"math"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{
		{nil, math.NaN()},
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		got := Median(tc.values)
		if got != tc.want && !(math.IsNaN(got) && math.IsNaN(tc.want)) {
			t.Errorf("Median(%v) = %v, want %v", tc.values, got, tc.want)
		}
	}
	values := []float64{2, 1}
	Median(values)
	if !slices.Equal(values, []float64{2, 1}) {
		t.Error("median reordered its argument, which is in the order of rounds")
	}
}

func TestPercentile(t *testing.T) {
	sorted := make([]uint32, 100)
	for i := range sorted {
		sorted[i] = uint32(i + 1)
	}
	for p, want := range map[float64]float64{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := Percentile(sorted, p); got != want {
			t.Errorf("percentile %v of 1…100 = %v, want %v", p, got, want)
		}
	}
	if got := Percentile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("percentile of nothing = %v, want NaN", got)
	}
}

func TestSpread(t *testing.T) {
	if got := Spread([]float64{0.9, 1, 1.2}); math.Abs(got-0.3) > 1e-9 {
		t.Errorf("spread = %v, want 0.3: largest less smallest over the median", got)
	}
	if got := Spread([]float64{1}); got != 0 {
		t.Errorf("spread of one round = %v, want 0", got)
	}
}

func TestRatios(t *testing.T) {
	nan := math.NaN()
	for _, tc := range []struct {
		name         string
		ours, theirs Series
		lower        bool
		want         []float64
	}{
		{"throughput: ours over theirs", Series{6, 4}, Series{3, 4}, false, []float64{2, 1}},
		{"latency: theirs over ours, so that larger is better", Series{10, 20}, Series{20, 10}, true, []float64{2, 0.5}},
		{"a round that one of them lacks has no ratio", Series{1, nan, 3}, Series{nan, 1, 3}, false, []float64{1}},
		{"a rival that stopped is not infinitely slower", Series{5}, Series{0}, false, nil},
		{"a rival measured in fewer rounds", Series{1, 2, 3}, Series{1}, false, []float64{1}},
	} {
		if got := Ratios(tc.ours, tc.theirs, tc.lower); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// The median of ratios is not the ratio of medians: a machine that was slow for one round must not decide.
func TestRatiosArePerRound(t *testing.T) {
	ours, theirs := Series{10, 1, 10}, Series{5, 0.5, 20}
	if got := Median(Ratios(ours, theirs, false)); got != 2 {
		t.Errorf("median of per-round ratios = %v, want 2", got)
	}
}
