package bench

import (
	"fmt"
	"io"
	"path"
	"slices"
	"text/tabwriter"
)

// A metric is one number that a case yields per path and round.
type metric struct {
	suffix        string // of the row's name; "" for the number that the case is about
	unit          string
	lowerIsBetter bool
}

// results of one measurement, by the suffix of the metric.
type results map[string]float64

// A benchCase is one thing to measure on each path.
type benchCase struct {
	name    string
	what    string // one line for --list
	metrics []metric
	paths   []string
	single  string // side that one agent plays instead of two; "" for a pair
	fresh   bool   // needs agents that have carried nothing before
	once    bool   // slow and steady: measured in the first round only
	awake   bool   // measures latency: processors are kept from sleeping
	measure func(*trial) (results, error)
}

var (
	pairPaths  = []string{pathDirect, pathSplice, pathCopy, pathTLS, pathNetHTTP2, pathOurs, pathAgent}
	tunnelOnly = []string{pathTLS, pathNetHTTP2, pathOurs, pathAgent}
	// In no ratio, hence measured in the first round only.
	orientation = []string{pathDirect, pathAgent}
	// Where one agent is enough, ours is the whole proxy: package hbone has no part in it.
	singlePaths = []string{pathSplice, pathCopy, pathOurs}
)

var (
	bulkMetrics = []metric{
		{unit: "Gbit/s"},
		{suffix: "cpu", unit: "s/GiB", lowerIsBetter: true},
		{suffix: "switches", unit: "/GiB", lowerIsBetter: true},
		{suffix: "allocs", unit: "/MiB", lowerIsBetter: true},
	}
	pingMetrics = []metric{
		{unit: "1/s"},
		{suffix: "p50", unit: "µs", lowerIsBetter: true},
		{suffix: "p99", unit: "µs", lowerIsBetter: true},
	}
	connectMetrics = []metric{
		{unit: "1/s"},
		{suffix: "p99", unit: "µs", lowerIsBetter: true},
		{suffix: "allocs-a", unit: "/conn", lowerIsBetter: true},
		{suffix: "allocs-b", unit: "/conn", lowerIsBetter: true},
	}
	singleConnectMetrics = connectMetrics[:3] // there is no agent B

	mixedMetrics = append(slices.Clone(pingMetrics), metric{suffix: "bulk", unit: "Gbit/s"})
	stallMetrics = []metric{
		{unit: "of before"},
		{suffix: "p99", unit: "µs", lowerIsBetter: true},
		{suffix: "rss", unit: "MiB", lowerIsBetter: true},
	}
	idleMetrics = []metric{
		{suffix: "rss-a", unit: "KiB/conn", lowerIsBetter: true},
		{suffix: "rss-b", unit: "KiB/conn", lowerIsBetter: true},
		{suffix: "goroutines-a", unit: "/conn", lowerIsBetter: true},
		{suffix: "goroutines-b", unit: "/conn", lowerIsBetter: true},
		{suffix: "total-a", unit: "MiB", lowerIsBetter: true},
		{suffix: "total-b", unit: "MiB", lowerIsBetter: true},
	}
)

// allCases is what there is to measure, in the order of the report.
func allCases() []benchCase {
	var cases []benchCase
	for _, direction := range []string{kindUp, kindDown} {
		for _, streams := range []int{1, 8, 64} {
			cases = append(cases, benchCase{
				name: fmt.Sprintf("bulk-%s-%d", direction, streams), metrics: bulkMetrics, paths: pairPaths,
				what:    fmt.Sprintf("throughput of %d streams, %s; cpu, switches, allocs: of both agents together", streams, direction),
				measure: bulk(load{Kind: direction, Count: streams}),
			})
		}
	}
	for _, size := range []int{64, 4096} {
		for _, conns := range []int{1, 8, 64} {
			cases = append(cases, benchCase{
				name: fmt.Sprintf("pingpong-%d-%d", size, conns), metrics: pingMetrics, paths: pairPaths, awake: true,
				what:    fmt.Sprintf("round trips of %d bytes on %d connections", size, conns),
				measure: pingpong(load{Kind: kindPing, Count: conns, Size: size}),
			})
		}
	}
	return append(cases,
		benchCase{
			name: "connect-warm", metrics: connectMetrics, paths: pairPaths, measure: connect(false),
			what: "new connections, 8 at a time: connect, one byte each way, close; over tunnels that are up",
		},
		benchCase{
			name: "connect-cold", metrics: connectMetrics, paths: []string{pathTLS, pathNetHTTP2, pathOurs}, measure: connect(true),
			what: "the same with a tunnel of its own for each connection",
		},
		benchCase{
			name: "mixed-8-64", metrics: mixedMetrics, paths: pairPaths, awake: true, measure: mixed,
			what: "64 round trips of 64 bytes beside 4 bulk streams up and 4 down",
		},
		benchCase{
			name: "stalled-up-64", metrics: stallMetrics, paths: tunnelOnly, fresh: true, awake: true, measure: stalled(kindStallUp),
			what: "8 round trips beside 64 bulk streams up that the server does not read; rate compared with before",
		},
		benchCase{
			name: "stalled-down-64", metrics: stallMetrics, paths: tunnelOnly, fresh: true, awake: true, measure: stalled(kindStallDown),
			what: "the same, downward, and the client does not read",
		},
		benchCase{
			name: "idle-1000", metrics: idleMetrics, paths: pairPaths[1:], fresh: true, once: true, measure: idle(1000),
			what: "memory and goroutines of idle connections that have carried 1 KiB each way",
		},
		benchCase{
			// Not splice: each of its connections holds two pipes beside the sockets, six descriptors in all.
			name: "idle-10000", metrics: idleMetrics, paths: pairPaths[2:], fresh: true, once: true, measure: idle(10000),
			what: "the same, 10,000 of them or as many as the limit of open files allows",
		},
		benchCase{
			name: "pass-through-bulk-8", metrics: bulkMetrics, paths: singlePaths, single: sidePassThrough,
			what:    "one agent that joins a client and an unmeshed destination, against one plain proxy: throughput",
			measure: bulk(load{Kind: kindUp, Count: 8}),
		},
		benchCase{
			name: "pass-through-connect", metrics: singleConnectMetrics, paths: singlePaths, single: sidePassThrough, measure: connect(false),
			what: "the same: new connections",
		},
		benchCase{
			name: "same-node-bulk-8", metrics: bulkMetrics, paths: singlePaths, single: sideSameNode,
			what:    "one agent that joins two of its own pods, against one plain proxy: throughput",
			measure: bulk(load{Kind: kindUp, Count: 8}),
		},
		benchCase{
			name: "same-node-connect", metrics: singleConnectMetrics, paths: singlePaths, single: sideSameNode, measure: connect(false),
			what: "the same: new connections",
		},
	)
}

// selectCases returns the cases whose names match one of the globs; no glob selects all.
func selectCases(globs []string) ([]benchCase, error) {
	all := allCases()
	if len(globs) == 0 {
		return all, nil
	}
	var selected []benchCase
	for _, c := range all {
		for _, glob := range globs {
			match, err := path.Match(glob, c.name)
			if err != nil {
				return nil, fmt.Errorf("case pattern %q: %w", glob, err)
			}
			if match {
				selected = append(selected, c)
				break
			}
		}
	}
	if len(selected) == 0 {
		return nil, fmt.Errorf("no case matches %q; --list shows them", globs)
	}
	return selected, nil
}

// WriteCases lists what there is to measure.
func WriteCases(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range allCases() {
		fmt.Fprintf(t, "%s\t%s\n", c.name, c.what)
	}
	return t.Flush()
}
