package edge

import (
	"fmt"
	"io"
	"path"
	"slices"
	"text/tabwriter"
)

// A benchCase is one question, put to every path that can answer it.
type benchCase struct {
	name    string
	what    string // one line, for the list of cases
	proto   string // "" where the case is not of one protocol
	paths   []string
	metrics []metric
	measure func(*trial) (results, error)
	fresh   bool // on a proxy of its own
	once    bool // in the first round only
}

// A metric is one figure of a case. The first of a case has the empty suffix.
type metric struct {
	suffix        string
	unit          string
	lowerIsBetter bool
	target        target
}

// results are the metrics of one measurement by suffix.
type results map[string]float64

// bulkSize is what a bulk case moves.
const bulkSize = 100 << 20

// idleCount is how many connections the idle cases open.
const idleCount = 2000

func cases() []benchCase {
	var list []benchCase
	for _, proto := range []string{protoH1, protoH1S, protoH2, protoH3} {
		for _, conns := range []int{1, 64, 1000} {
			list = append(list, requestCase(proto, conns, 1))
		}
		if proto == protoH2 {
			list = append(list, requestCase(proto, 8, 32))
		}
	}
	for _, shake := range []struct {
		name, what     string
		paths          []string
		resume, hybrid bool
	}{
		{"tls-full", "full TLS 1.3 handshakes, X25519 and ECDSA P-256, each on a new connection", pathsFor(protoH1S), false, false},
		{"tls-resumed", "resumed TLS 1.3 handshakes with X25519, each on a new connection", pathsFor(protoH1S), true, false},
		{"tls-hybrid", "full TLS 1.3 handshakes, X25519MLKEM768 and ECDSA P-256: no rival has it", []string{pathOurs}, false, true},
	} {
		list = append(list, benchCase{
			name: shake.name, what: shake.what, paths: shake.paths, measure: handshakes(shake.resume, shake.hybrid),
			metrics: []metric{{unit: "1/s"}, {suffix: "cpu", unit: "µs", lowerIsBetter: true}},
		})
	}
	for _, proto := range []string{protoH1, protoH1S, protoH2, protoH3} {
		for _, up := range []bool{false, true} {
			name, what := "bulk-"+proto+"-down", "download of 100 MiB"
			if up {
				name, what = "bulk-"+proto+"-up", "upload of 100 MiB"
			}
			list = append(list, benchCase{
				name: name, what: what, proto: proto, paths: pathsFor(proto), measure: bulk(up),
				metrics: []metric{{unit: "MiB/s"}, {suffix: "cpu", unit: "ms/100MiB", lowerIsBetter: true}},
			})
		}
	}
	for _, proto := range []string{protoH1S, protoH2, protoH3} {
		list = append(list, benchCase{
			name: "idle-" + proto, what: fmt.Sprintf("resident memory for each of %d connections that have made a request", idleCount),
			proto: proto, paths: withoutDirect(pathsFor(proto)), measure: idle, fresh: true,
			metrics: []metric{{unit: "KiB/conn", lowerIsBetter: true}, {suffix: "base", unit: "MiB", lowerIsBetter: true}},
		})
	}
	return append(list,
		benchCase{
			name: "change", what: "a route is added: until the first request that uses it is answered",
			paths: []string{pathOurs, pathCaddy, pathNginx}, measure: routeChange, fresh: true,
			metrics: []metric{{unit: "ms", lowerIsBetter: true}},
		},
		benchCase{
			name: "churn", what: fmt.Sprintf("requests that fail while %d routes, their endpoints and %d certificates change", churnRoutes, churnSites),
			paths: []string{pathOurs}, measure: churn, once: true,
			metrics: []metric{
				{suffix: "", unit: "failed", lowerIsBetter: true, target: target{ours: bound(0)}},
				{suffix: "requests", unit: "1"}, {suffix: "changes", unit: "1"},
				{suffix: "p99", unit: "µs", lowerIsBetter: true}, {suffix: "calm-p99", unit: "µs", lowerIsBetter: true},
				{suffix: "change", unit: "ms", lowerIsBetter: true}, {suffix: "rss", unit: "MiB", lowerIsBetter: true},
			},
		})
}

func requestCase(proto string, conns, streams int) benchCase {
	name := fmt.Sprintf("%s-%d", proto, conns)
	what := fmt.Sprintf("small requests, %d connections", conns)
	if streams > 1 {
		name = fmt.Sprintf("%s-%dx%d", proto, conns, streams)
		what += fmt.Sprintf(" with %d streams each", streams)
	}
	rate, p99 := target{vsCaddy: bound(1.5)}, target{vsCaddy: bound(1)}
	if proto != protoH3 {
		rate.vsNginx = bound(0.6)
	}
	return benchCase{
		name: name, what: what, proto: proto, paths: pathsFor(proto), measure: requests(conns, streams),
		metrics: []metric{
			{unit: "1/s", target: rate},
			{suffix: "p50", unit: "µs", lowerIsBetter: true},
			{suffix: "p99", unit: "µs", lowerIsBetter: true, target: p99},
			{suffix: "cpu", unit: "µs/req", lowerIsBetter: true},
			{suffix: "busy", unit: "% of a core"},
		},
	}
}

// pathsFor are the paths that speak proto.
func pathsFor(proto string) []string {
	return slices.DeleteFunc(slices.Clone(allPaths), func(p string) bool { return !slices.Contains(protocolsOf(p), proto) })
}

func withoutDirect(paths []string) []string {
	return slices.DeleteFunc(paths, func(p string) bool { return p == pathDirect })
}

// selectCases returns the cases that match any of globs, in their order; none means all.
func selectCases(globs []string) ([]benchCase, error) {
	all := cases()
	if len(globs) == 0 {
		return all, nil
	}
	var selected []benchCase
	used := make([]bool, len(globs))
	for _, c := range all {
		match := false
		for i, glob := range globs {
			ok, err := path.Match(glob, c.name)
			if err != nil {
				return nil, fmt.Errorf("case %q: %w", glob, err)
			}
			if ok {
				match, used[i] = true, true
			}
		}
		if match {
			selected = append(selected, c)
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("no case matches %q; --list shows them", globs[i])
	}
	return selected, nil
}

// WriteCases lists the cases.
func WriteCases(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range cases() {
		fmt.Fprintf(t, "%s\t%s\n", c.name, c.what)
	}
	return t.Flush()
}
