package edge

// A target is what a metric of ours is held to. nil bounds hold nothing.
type target struct {
	vsCaddy, vsNginx *float64 // ratios, at least
	ours             *float64 // the value, at most
}

func bound(v float64) *float64 { return &v }

// A Verdict is one bound and whether it is met.
type Verdict struct {
	Case  string   `json:"case"`
	What  string   `json:"what"` // "vs caddy", "vs nginx" or "ours"
	Bound float64  `json:"bound"`
	Got   *float64 `json:"got"` // null if not measured
	Met   bool     `json:"met"`
}

// judge holds a row to the bounds of its metric.
func (m metric) judge(row Row) []Verdict {
	var list []Verdict
	add := func(what string, bound, got *float64, atMost bool) {
		if bound == nil {
			return
		}
		met := got != nil && (atMost && *got <= *bound || !atMost && *got >= *bound)
		list = append(list, Verdict{Case: row.Case, What: what, Bound: *bound, Got: got, Met: met})
	}
	add("vs caddy", m.target.vsCaddy, row.Ratios[pathCaddy], false)
	add("vs nginx", m.target.vsNginx, row.Ratios[pathNginx], false)
	add("ours", m.target.ours, row.Values[pathOurs], true)
	return list
}
