package edge

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os/exec"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// A Report is what a run found out.
type Report struct {
	Cases   []Row     `json:"cases"`
	Targets []Verdict `json:"targets"`
	// Machine, Rivals and Notes are for people.
	Machine string            `json:"machine"`
	Rivals  map[string]string `json:"rivals"` // versions
	Notes   []string          `json:"notes"`
	// OthersCPU is the share of the machine's processor time that was not the bench's, null if unknown.
	OthersCPU *float64 `json:"othersCPU"`
	Rounds    int      `json:"rounds"`
	Duration  string   `json:"duration"`
	Seconds   float64  `json:"seconds"`
}

// A Row is one metric of one case. Values are medians over the rounds by path.
// Each ratio is the median of per-round ratios of ours against a rival, inverted where less is better, so that larger is
// better for us; it is null where the rival has no such value.
type Row struct {
	Case          string              `json:"case"`
	Unit          string              `json:"unit"`
	LowerIsBetter bool                `json:"lowerIsBetter"` // of Values, never of Ratios
	Values        map[string]*float64 `json:"values"`
	Ratios        map[string]*float64 `json:"ratios"`
	Rounds        int                 `json:"rounds"` // in which ours has a value
	// Spread is the distance between the best and the worst round as a share of the median: of the ratio to Caddy, or of
	// ours alone.
	Spread float64 `json:"spread"`
}

// noisySpread is the spread from which on a row says more about the machine than about the paths.
const noisySpread = 0.25

// Noisy reports whether the rounds disagree too much for the row to mean anything.
func (r Row) Noisy() bool { return r.Spread > noisySpread }

func (r *runner) report(selected []benchCase) *Report {
	rep := &Report{
		Machine: proc.Machine(), Rivals: versions(), Notes: r.notes, Rounds: r.cfg.Rounds, Duration: r.cfg.Duration.String(),
		Seconds: math.Round(time.Since(r.begun).Seconds()), OthersCPU: stats.Value(r.foreign),
	}
	for _, c := range selected {
		for _, m := range c.metrics {
			row := r.row(c, m)
			rep.Cases = append(rep.Cases, row)
			rep.Targets = append(rep.Targets, m.judge(row)...)
		}
	}
	return rep
}

func (r *runner) row(c benchCase, m metric) Row {
	get := func(path string) stats.Series { return r.values[rowKey{c.name, m.suffix, path}] }
	ours := get(pathOurs)
	row := Row{
		Case: c.name, Unit: m.unit, LowerIsBetter: m.lowerIsBetter, Rounds: len(ours.Present()),
		Values: make(map[string]*float64), Ratios: make(map[string]*float64),
	}
	if m.suffix != "" {
		row.Case += "-" + m.suffix
	}
	for _, path := range c.paths {
		row.Values[path] = stats.Value(stats.Median(get(path).Present()))
	}
	for _, rival := range rivals {
		row.Ratios[rival] = stats.Value(stats.Median(stats.Ratios(ours, get(rival), m.lowerIsBetter)))
	}
	compared := stats.Ratios(ours, get(pathCaddy), m.lowerIsBetter)
	if len(compared) == 0 {
		compared = ours.Present()
	}
	row.Spread = stats.Round(stats.Spread(compared))
	return row
}

// versions asks each rival and each tool for its own.
func versions() map[string]string {
	found := make(map[string]string)
	for name, args := range map[string][]string{
		pathCaddy: {"caddy", "version"}, pathNginx: {"nginx", "-v"}, pathHAProxy: {"haproxy", "-v"},
		"wrk": {"wrk", "-v"}, "h2load": {"h2load", "--version"},
	} {
		out, _ := exec.Command(args[0], args[1:]...).CombinedOutput() // wrk -v ends with 1
		line, _, _ := strings.Cut(string(out), "\n")
		if words := strings.Fields(line); len(words) > 0 {
			found[name] = strings.Join(words[:min(len(words), 3)], " ")
		}
	}
	return found
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
