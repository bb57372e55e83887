package bench

import (
	"fmt"
	"strings"

	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// A Target is what the data path is held to: a bound on a ratio or on a value of ours.
type Target struct {
	Case string   `json:"case"` // of a Row
	What string   `json:"what"` // "vsTLS", "vsNetHTTP2", "vsCopy", "vsSplice" or "ours"
	Want string   `json:"want"`
	Got  *float64 `json:"got"` // null if not measured
	Met  bool     `json:"met"`

	bound  float64
	atMost bool
}

// Bounds on times are stated as "at most 1.1 of raw TLS"; ratios here are inverted, so that is at least 1/1.1.
const (
	atMost11 = 1 / 1.1
	atMost08 = 1 / 0.8
)

// targets lists what is wanted, case by case.
func targets() []Target {
	var list []Target
	atLeast := func(bound float64, what string, rows ...string) {
		for _, row := range rows {
			list = append(list, Target{Case: row, What: what, bound: bound})
		}
	}
	atMost := func(bound float64, rows ...string) {
		for _, row := range rows {
			list = append(list, Target{Case: row, What: "ours", bound: bound, atMost: true})
		}
	}
	single := []string{"bulk-up-1", "bulk-down-1"}
	atLeast(1.0, "vsTLS", single...)
	atLeast(1.3, "vsNetHTTP2", single...)
	many := []string{"bulk-up-8", "bulk-down-8", "bulk-up-64", "bulk-down-64"}
	atLeast(1.0, "vsTLS", many...)
	atLeast(1.35, "vsNetHTTP2", many...)
	atLeast(0.8, "vsCopy", many...)
	lone := []string{"pingpong-64-1-p50", "pingpong-64-1-p99", "pingpong-4096-1-p50", "pingpong-4096-1-p99"}
	atLeast(atMost11, "vsTLS", lone...)
	atLeast(atMost08, "vsNetHTTP2", lone...)
	crowd := []string{"pingpong-64-64", "pingpong-4096-64"}
	atLeast(1.2, "vsTLS", crowd...)
	atLeast(1.4, "vsNetHTTP2", crowd...)
	atLeast(1.0, "vsTLS", "pingpong-64-64-p99", "pingpong-4096-64-p99")
	atLeast(atMost11, "vsTLS", "mixed-8-64-p50", "mixed-8-64-p99")
	atLeast(atMost08, "vsNetHTTP2", "mixed-8-64-p50", "mixed-8-64-p99")
	atLeast(0.9, "ours", "stalled-up-64", "stalled-down-64")
	atMost(64, "stalled-up-64-rss", "stalled-down-64-rss")
	atLeast(6, "vsTLS", "connect-warm")
	atLeast(1.35, "vsNetHTTP2", "connect-warm")
	atLeast(1.1, "vsSplice", "connect-warm")
	atMost(25, "connect-warm-allocs-a")
	atMost(35, "connect-warm-allocs-b")
	// A MiB is 64 full records, and crypto/tls allocates an object whenever it has to read for one: up to 64 that are not
	// ours. More than that, and something is allocated per frame.
	atMost(64, "bulk-up-8-allocs", "bulk-down-8-allocs")
	atMost(8, "idle-10000-rss-a", "idle-10000-rss-b")
	atLeast(0.95, "vsSplice", "pass-through-bulk-8", "same-node-bulk-8", "pass-through-connect", "same-node-connect")
	return list
}

// judge holds rows to the targets. Targets of cases that were not selected are left out.
func judge(rows []Row) []Target {
	byName := make(map[string]Row, len(rows))
	for _, row := range rows {
		byName[row.Case] = row
	}
	var judged []Target
	for _, t := range targets() {
		row, ok := byName[t.Case]
		if !ok {
			continue
		}
		t.Got = map[string]*float64{
			"ours": row.Ours, "vsTLS": row.VsTLS, "vsNetHTTP2": row.VsNetHTTP2, "vsCopy": row.VsCopy, "vsSplice": row.VsSplice,
		}[t.What]
		sign := "≥"
		if t.atMost {
			sign = "≤"
		}
		t.Want = strings.TrimSpace(fmt.Sprintf("%s %s", sign, stats.Number(t.bound)))
		if t.What == "ours" {
			t.Want += " " + row.Unit
		}
		t.Met = t.Got != nil && (t.atMost && *t.Got <= t.bound || !t.atMost && *t.Got >= t.bound)
		judged = append(judged, t)
	}
	return judged
}
