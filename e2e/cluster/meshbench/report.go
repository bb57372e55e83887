package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A row is one quantity. P99 is missing where there are too few values for one
// to mean anything, and Ratio where there is nothing to compare with.
type row struct {
	Case   string   `json:"case"`
	Unit   string   `json:"unit"`
	Median float64  `json:"median"`
	P99    *float64 `json:"p99"`
	N      int      `json:"n"`
	Ratio  *float64 `json:"ratio"` // of the medians
	To     string   `json:"to,omitempty"`
}

type report struct {
	Rows    []row     `json:"rows"`
	Machine string    `json:"machine"`
	When    time.Time `json:"when"`
	Seconds float64   `json:"seconds"`
	// Load is the machine's load average over a minute, at the start and at the end.
	Load [2]float64 `json:"load"`
}

func newReport() *report {
	return &report{Machine: machine(), When: time.Now().UTC(), Load: [2]float64{load(), 0}}
}

func (r *report) finish() {
	r.Seconds = time.Since(r.When).Seconds()
	r.Load[1] = load()
}

// value adds a row of a single value.
func (r *report) value(name, unit string, v float64) *row { return r.values(name, unit, []float64{v}) }

// values adds a row of many. The result is good until the next is added.
func (r *report) values(name, unit string, v []float64) *row {
	one := row{Case: name, Unit: unit, Median: percentile(v, 0.5), N: len(v)}
	if len(v) >= 20 {
		p := percentile(v, 0.99)
		one.P99 = &p
	}
	r.Rows = append(r.Rows, one)
	return &r.Rows[len(r.Rows)-1]
}

// against completes a row with its ratio to what was measured without adit.
func (w *row) against(what string, v []float64) {
	if ratio := w.Median / percentile(v, 0.5); !math.IsNaN(ratio) && !math.IsInf(ratio, 0) {
		w.Ratio, w.To = &ratio, what
	}
}

func (r *report) writeJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *report) writeTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\tmedian\tp99\tunit\tn\tratio\tto")
	for _, row := range r.Rows {
		p99, ratio := "–", "–"
		if row.P99 != nil {
			p99 = number(*row.P99)
		}
		if row.Ratio != nil {
			ratio = strconv.FormatFloat(*row.Ratio, 'f', 2, 64)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", row.Case, number(row.Median), p99, row.Unit, row.N, ratio, row.To)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s, %s. The run took %.0f s; the load average was %.1f when it began and %.1f at its end.\n",
		r.When.Format(time.DateOnly), r.Machine, r.Seconds, r.Load[0], r.Load[1])
	return err
}

// number shows three significant digits, and all before the point.
func number(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func machine() string {
	var u unix.Utsname
	release := "unknown"
	if unix.Uname(&u) == nil {
		release = unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%d processors, Linux %s, %s", runtime.NumCPU(), release, runtime.Version())
}

func load() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return math.NaN()
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(first, 64)
	return v
}
