package bench

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// sampleRunner has two rounds of made-up figures.
func sampleRunner() (*runner, []benchCase) {
	cases := []benchCase{
		{name: "bulk-up-8", metrics: bulkMetrics[:1], paths: pairPaths},
		{name: "pingpong-64-64", metrics: pingMetrics, paths: pairPaths},
		{name: "stalled-up-64", metrics: stallMetrics[:1], paths: tunnelOnly},
	}
	r := &runner{begun: time.Now(), cfg: Config{Rounds: 2, Peers: []Peer{{Name: "envoy"}}}, foreign: 0.2, notes: []string{"a remark"}}
	r.values = map[rowKey]stats.Series{
		{"bulk-up-8", "", pathOurs}:          {9, 8},
		{"bulk-up-8", "", pathTLS}:           {9, 4},
		{"bulk-up-8", "", pathNetHTTP2}:      {3, 4},
		{"bulk-up-8", "", "envoy"}:           {4.5, math.NaN()},
		{"pingpong-64-64", "p99", pathOurs}:  {100, 100},
		{"pingpong-64-64", "p99", pathTLS}:   {150, 150},
		{"stalled-up-64", "", pathOurs}:      {1},
		{"stalled-up-64", "", pathNetHTTP2}:  {0},
		{"pingpong-64-64", "", pathNetHTTP2}: {math.NaN(), math.NaN()},
	}
	return r, cases
}

func TestReportJSON(t *testing.T) {
	r, cases := sampleRunner()
	var out bytes.Buffer
	if err := r.report(cases).WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Cases []map[string]any `json:"cases"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v in:\n%s", err, out.String())
	}
	rows := make(map[string]map[string]any)
	for _, row := range got.Cases {
		rows[row["case"].(string)] = row
		for _, key := range []string{"case", "ours", "unit", "vsTLS", "vsNetHTTP2", "vsCopy", "vsSplice", "rounds", "spread"} {
			if _, ok := row[key]; !ok {
				t.Errorf("%s has no %q: readers count on every key", row["case"], key)
			}
		}
	}
	for _, tc := range []struct {
		row, key string
		want     any
		why      string
	}{
		{"bulk-up-8", "ours", 8.5, "the median of two rounds"},
		{"bulk-up-8", "unit", "Gbit/s", ""},
		{"bulk-up-8", "vsTLS", 1.5, "the median of 1 and 2"},
		{"bulk-up-8", "vsNetHTTP2", 2.5, "the median of 3 and 2"},
		{"bulk-up-8", "vsCopy", nil, "not measured"},
		{"bulk-up-8", "rounds", 2.0, ""},
		{"bulk-up-8", "spread", 0.6667, "of the ratio to raw TLS: (2-1)/1.5"},
		{"pingpong-64-64-p99", "vsTLS", 1.5, "latency is inverted"},
		{"stalled-up-64", "vsNetHTTP2", nil, "a rival that stopped has no ratio, and JSON no infinity"},
		{"stalled-up-64", "rounds", 1.0, "measured once"},
		{"pingpong-64-64", "ours", nil, "no round has it"},
	} {
		if got := rows[tc.row][tc.key]; got != tc.want {
			t.Errorf("%s: %s = %v, want %v (%s)", tc.row, tc.key, got, tc.want, tc.why)
		}
	}
	if got := rows["bulk-up-8"]["vsPeers"].(map[string]any)["envoy"]; got != 2.0 {
		t.Errorf("ratio to the external peer = %v, want 2", got)
	}
}

func TestReportTable(t *testing.T) {
	r, cases := sampleRunner()
	var out bytes.Buffer
	if err := r.report(cases).WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"vs envoy", "67 %!", "a remark", "TOO NOISY: in 1 of 5 rows", "TOO NOISY: others used 20 %",
		"bulk-up-8 vsNetHTTP2 ≥ 1.35 got 2.5 met",
		"pingpong-64-64 vsTLS ≥ 1.2 got – not measured",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestTargetsNameRows(t *testing.T) {
	names := make(map[string]bool)
	for _, c := range allCases() {
		for _, m := range c.metrics {
			names[strings.TrimSuffix(c.name+"-"+m.suffix, "-")] = true
		}
	}
	for _, target := range targets() {
		if !names[target.Case] {
			t.Errorf("a target is set for %q, which is no row of any case", target.Case)
		}
	}
}

func TestTargetsAtTheBound(t *testing.T) {
	exactly := func(v float64) *float64 { return &v }
	rows := []Row{
		{Case: "bulk-up-8", VsTLS: exactly(1), VsNetHTTP2: exactly(1.349)},
		{Case: "idle-10000-rss-a", Ours: exactly(8)},
		{Case: "idle-10000-rss-b", Ours: exactly(8.01)},
	}
	met := make(map[string]bool)
	for _, target := range judge(rows) {
		met[target.Case+" "+target.What] = target.Met
	}
	for name, want := range map[string]bool{
		"bulk-up-8 vsTLS": true, "bulk-up-8 vsNetHTTP2": false, "bulk-up-8 vsCopy": false,
		"idle-10000-rss-a ours": true, "idle-10000-rss-b ours": false,
	} {
		if met[name] != want {
			t.Errorf("%s: met = %v, want %v", name, met[name], want)
		}
	}
}

func TestSelectCases(t *testing.T) {
	got, err := selectCases([]string{"bulk-*-8", "connect-warm", "bulk-up-8"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range got {
		names = append(names, c.name)
	}
	if want := "bulk-up-8 bulk-down-8 connect-warm"; strings.Join(names, " ") != want {
		t.Errorf("selected %q, want %q: each once, in the order of the report", names, want)
	}
	for _, glob := range []string{"no-such-case", "bulk-["} {
		if _, err := selectCases([]string{glob}); err == nil {
			t.Errorf("%q: no error", glob)
		}
	}
}
