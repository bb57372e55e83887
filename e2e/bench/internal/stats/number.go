package stats

import (
	"math"
	"strconv"
)

// Value is nil where there is nothing that JSON could hold, and rounded otherwise.
func Value(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	v = Round(v)
	return &v
}

// Round keeps four significant digits: more would be noise.
func Round(v float64) float64 {
	if v == 0 {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// Number shows three significant digits, and all before the point.
func Number(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
