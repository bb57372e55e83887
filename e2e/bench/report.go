package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// A Report is what a run found out.
type Report struct {
	Cases   []Row    `json:"cases"`
	Targets []Target `json:"targets"`
	// Machine and Notes are for people.
	Machine string   `json:"machine"`
	Notes   []string `json:"notes"`
	// OthersCPU is the share of the machine's processor time that was not the bench's, null if unknown.
	OthersCPU *float64 `json:"othersCPU"`
	Seconds   float64  `json:"seconds"`
}

// A Row is one metric of one case. Ours and Paths are medians over the rounds.
// Each ratio is the median of per-round ratios, inverted where less is better, so that larger is better for us;
// it is null where the rival has no such value.
type Row struct {
	Case       string   `json:"case"`
	Ours       *float64 `json:"ours"`
	Unit       string   `json:"unit"`
	VsTLS      *float64 `json:"vsTLS"`
	VsNetHTTP2 *float64 `json:"vsNetHTTP2"`
	VsCopy     *float64 `json:"vsCopy"`
	VsSplice   *float64 `json:"vsSplice"`
	Rounds     int      `json:"rounds"` // in which ours has a value
	// Spread is the distance between the best and the worst round as a share of the median: of the ratio to raw TLS, or
	// to the splice pair where there is none, or of ours alone.
	Spread float64 `json:"spread"`

	LowerIsBetter bool                `json:"lowerIsBetter"` // of Ours and Paths, never of ratios
	Paths         map[string]*float64 `json:"paths"`
	VsPeers       map[string]*float64 `json:"vsPeers,omitempty"`
}

// noisySpread is the spread from which on a row says more about the machine than about the paths.
const noisySpread = 0.25

// Noisy reports whether the rounds disagree too much for the row to mean anything.
func (r Row) Noisy() bool { return r.Spread > noisySpread }

func (r *runner) report(cases []benchCase) *Report {
	rep := &Report{Machine: proc.Machine(), Notes: r.notes, Seconds: math.Round(time.Since(r.begun).Seconds())}
	rep.OthersCPU = stats.Value(r.foreign)
	for _, c := range cases {
		for _, m := range c.metrics {
			rep.Cases = append(rep.Cases, r.row(c, m))
		}
	}
	rep.Targets = judge(rep.Cases)
	return rep
}

func (r *runner) row(c benchCase, m metric) Row {
	get := func(path string) stats.Series { return r.values[rowKey{c.name, m.suffix, path}] }
	ours := get(pathOurs)
	versus := func(path string) *float64 {
		return stats.Value(stats.Median(stats.Ratios(ours, get(path), m.lowerIsBetter)))
	}
	row := Row{
		Case: c.name, Unit: m.unit, LowerIsBetter: m.lowerIsBetter,
		Ours: stats.Value(stats.Median(ours.Present())), Rounds: len(ours.Present()),
		VsTLS: versus(pathTLS), VsNetHTTP2: versus(pathNetHTTP2), VsCopy: versus(pathCopy), VsSplice: versus(pathSplice),
		Paths: make(map[string]*float64),
	}
	if m.suffix != "" {
		row.Case += "-" + m.suffix
	}
	for _, path := range r.pathsOf(c) {
		row.Paths[path] = stats.Value(stats.Median(get(path).Present()))
	}
	for _, p := range r.cfg.Peers {
		if !slices.Contains(r.pathsOf(c), p.Name) {
			continue
		}
		if row.VsPeers == nil {
			row.VsPeers = make(map[string]*float64)
		}
		row.VsPeers[p.Name] = versus(p.Name)
	}
	row.Spread = stats.Round(firstSpread(
		stats.Ratios(ours, get(pathTLS), m.lowerIsBetter), stats.Ratios(ours, get(pathSplice), m.lowerIsBetter), ours.Present()))
	return row
}

// firstSpread is the spread of the first list that is not empty.
func firstSpread(lists ...[]float64) float64 {
	for _, list := range lists {
		if len(list) > 0 {
			return stats.Spread(list)
		}
	}
	return 0
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
