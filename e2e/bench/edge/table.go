package edge

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// WriteTable writes the report for people: the rows with their targets, then the remarks.
func (r *Report) WriteTable(w io.Writer) error {
	var b bytes.Buffer
	r.writeRows(&b)
	r.writeRemarks(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) writeRows(b *bytes.Buffer) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	// The table aligns to the right; the names do not.
	width := 0
	for _, row := range r.Cases {
		width = max(width, len(row.Case))
	}
	left := func(name string) string { return fmt.Sprintf("%-*s", width, name) }
	head := append([]string{left("what"), "unit"}, allPaths...)
	for _, rival := range rivals {
		head = append(head, "vs "+rival)
	}
	writeLine(t, append(head, "spread", "target", ""))
	previous := ""
	for _, row := range r.Cases {
		if group, _, _ := strings.Cut(row.Case, "-"); group != previous && previous != "" {
			writeLine(t, make([]string, len(head)+3))
		}
		previous, _, _ = strings.Cut(row.Case, "-")
		cells := []string{left(row.Case), row.Unit}
		for _, path := range allPaths {
			cells = append(cells, cell(row.Values[path]))
		}
		for _, rival := range rivals {
			cells = append(cells, ratio(row.Ratios[rival]))
		}
		targets, verdict := r.verdictOf(row)
		writeLine(t, append(cells, spreadCell(row), targets, verdict))
	}
	t.Flush()
}

// verdictOf is what the row is held to and whether it is met, both empty where it is held to nothing.
func (r *Report) verdictOf(row Row) (targets, verdict string) {
	var wants, missed []string
	measured := false
	for _, v := range r.Targets {
		if v.Case != row.Case {
			continue
		}
		want := fmt.Sprintf("%s ≥ %s", strings.TrimPrefix(v.What, "vs "), stats.Number(v.Bound))
		if v.What == "ours" {
			want = "≤ " + stats.Number(v.Bound)
		}
		wants = append(wants, want)
		if v.Got == nil {
			continue
		}
		measured = true
		if !v.Met {
			missed = append(missed, strings.TrimPrefix(v.What, "vs "))
		}
	}
	switch {
	case len(wants) == 0:
	case !measured:
		verdict = "not measured"
	case len(missed) > 0:
		verdict = "MISSED (" + strings.Join(missed, ", ") + ")"
	default:
		verdict = "met"
	}
	return strings.Join(wants, ", "), verdict
}

func writeLine(w io.Writer, cells []string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }

// noisyMachine is the share of processor time used by others from which on the figures are doubtful.
const noisyMachine = 0.05

func (r *Report) writeRemarks(b *bytes.Buffer) {
	met, measured := 0, 0
	for _, v := range r.Targets {
		if v.Got != nil {
			measured++
		}
		if v.Met {
			met++
		}
	}
	fmt.Fprintf(b, "\n%d of %d targets met.\n", met, measured)
	fmt.Fprintf(b, "Each ratio is the median over %d rounds of %s of ours against a rival in the same round; larger is better in every row.\n", r.Rounds, r.Duration)
	fmt.Fprintf(b, "The proxy has one processor for itself; load client and backend share another. \"busy\" is the share of the proxy's: where it is below 95 %%, the client is the limit, and \"cpu\" compares better.\n")
	var names []string
	for name := range r.Rivals {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", name, r.Rivals[name])
	}
	fmt.Fprintf(b, "Machine: %s. Rivals and tools: %s. The run took %.0f s.\n", r.Machine, strings.Join(names, ", "), r.Seconds)
	noisy := 0
	for _, row := range r.Cases {
		if row.Noisy() {
			noisy++
		}
	}
	if noisy > 0 {
		fmt.Fprintf(b, "TOO NOISY: in %d of %d rows (!) the rounds differ by more than %.0f %%; run more rounds (--rounds) or longer ones (--duration) on a quiet machine.\n",
			noisy, len(r.Cases), noisySpread*100)
	}
	if r.OthersCPU != nil && *r.OthersCPU > noisyMachine {
		fmt.Fprintf(b, "TOO NOISY: others used %.0f %% of the processors during the run.\n", *r.OthersCPU*100)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(b, "Note: %s\n", note)
	}
}

func cell(v *float64) string {
	if v == nil {
		return "–"
	}
	return stats.Number(*v)
}

func ratio(v *float64) string {
	if v == nil {
		return "–"
	}
	return strconv.FormatFloat(*v, 'f', 2, 64)
}

// spreadCell marks rows that are too noisy. One round has no spread.
func spreadCell(row Row) string {
	switch {
	case row.Rounds < 2:
		return "–"
	case row.Noisy():
		return fmt.Sprintf("%.0f %%!", row.Spread*100)
	}
	return fmt.Sprintf("%.0f %%", row.Spread*100)
}
