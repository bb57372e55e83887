package bench

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

// WriteTable writes the report for people: the rows, the targets, the notes.
func (r *Report) WriteTable(w io.Writer) error {
	var b bytes.Buffer
	r.writeRows(&b)
	r.writeTargets(&b)
	r.writeRemarks(&b)
	_, err := w.Write(b.Bytes())
	return err
}

func (r *Report) writeRows(b *bytes.Buffer) {
	paths := r.columns()
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	// The table aligns to the right; the names do not.
	width := 0
	for _, row := range r.Cases {
		width = max(width, len(row.Case))
	}
	left := func(name string) string { return fmt.Sprintf("%-*s", width, name) }
	head := []string{left("case"), "unit", "adit"}
	head = append(head, paths...)
	head = append(head, "|", "vs tls", "vs nethttp2", "vs copy", "vs splice")
	for _, p := range r.peerNames() {
		head = append(head, "vs "+p)
	}
	head = append(head, "spread")
	writeLine(t, head)
	previous := ""
	for _, row := range r.Cases {
		if group, _, _ := strings.Cut(row.Case, "-"); group != previous && previous != "" {
			writeLine(t, make([]string, len(head)))
		}
		previous, _, _ = strings.Cut(row.Case, "-")
		cells := []string{left(row.Case), row.Unit, cell(row.Ours)}
		for _, p := range paths {
			cells = append(cells, cell(row.Paths[p]))
		}
		cells = append(cells, "|", ratio(row.VsTLS), ratio(row.VsNetHTTP2), ratio(row.VsCopy), ratio(row.VsSplice))
		for _, p := range r.peerNames() {
			cells = append(cells, ratio(row.VsPeers[p]))
		}
		writeLine(t, append(cells, spreadCell(row)))
	}
	t.Flush()
}

func writeLine(w io.Writer, cells []string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }

// columns are the paths beside ours that have any value.
func (r *Report) columns() []string {
	var columns []string
	for _, path := range append(slices.Clone(pairPaths), r.peerNames()...) {
		if path != pathOurs && slices.ContainsFunc(r.Cases, func(row Row) bool { return row.Paths[path] != nil }) {
			columns = append(columns, path)
		}
	}
	return columns
}

func (r *Report) peerNames() []string {
	var names []string
	for _, row := range r.Cases {
		for name := range row.VsPeers {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func (r *Report) writeTargets(b *bytes.Buffer) {
	if len(r.Targets) == 0 {
		return
	}
	met := 0
	fmt.Fprintf(b, "\nTargets\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, target := range r.Targets {
		verdict := "MISSED"
		switch {
		case target.Got == nil:
			verdict = "not measured"
		case target.Met:
			verdict = "met"
			met++
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\tgot %s\t%s\n", target.Case, target.What, target.Want, cell(target.Got), verdict)
	}
	t.Flush()
	fmt.Fprintf(b, "%d of %d targets met.\n", met, len(r.Targets))
}

// noisyMachine is the share of processor time used by others from which on the figures are doubtful.
const noisyMachine = 0.05

func (r *Report) writeRemarks(b *bytes.Buffer) {
	fmt.Fprintf(b, "\nEach ratio is the median over rounds of ours against a rival in the same round; larger is better in every row.\n")
	fmt.Fprintf(b, "Machine: %s. The run took %.0f s.\n", r.Machine, r.Seconds)
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

func ratio(v *float64) string {
	if v == nil {
		return "–"
	}
	return strconv.FormatFloat(*v, 'f', 2, 64)
}
