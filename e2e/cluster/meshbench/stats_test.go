package main

import (
	"math"
	"testing"
)

func TestPercentile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, test := range []struct {
		why    string
		values []float64
		p      float64
		want   float64
	}{
		{"one value is all of them", []float64{7}, 0.99, 7},
		{"the middle of three, unsorted", []float64{9, 1, 5}, 0.5, 5},
		{"the mean of the middle two", []float64{4, 1, 3, 2}, 0.5, 2.5},
		{"nearest rank", hundred, 0.99, 99},
		{"the largest", hundred, 1, 100},
	} {
		if got := percentile(test.values, test.p); got != test.want {
			t.Errorf("%s: %v", test.why, got)
		}
	}
	if got := percentile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("no values have the median %v", got)
	}
}
