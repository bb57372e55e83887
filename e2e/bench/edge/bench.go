package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// Config says what to measure. The zero value measures everything.
type Config struct {
	// Rounds is how often every case runs on every path. Zero means 3.
	Rounds int
	// Duration is how long each measurement lasts, after a warm-up. Zero means a second. wrk counts in whole seconds.
	Duration time.Duration
	// Cases are globs (path.Match) over the names of cases. None means all.
	Cases []string
	// Paths limits the paths to those named. None means all that are installed. Without ours there are no ratios.
	Paths []string
	// NoNamespace runs on the loopback of the caller's network namespace.
	NoNamespace bool
	// Prefer runs everything measured before other programs of the machine, where those cannot be kept away. It takes CAP_SYS_NICE.
	Prefer bool
	// Progress receives a line per case and round. nil discards them.
	Progress io.Writer
	// Adit starts this program when its arguments are appended. None means the running one.
	Adit []string
	// Command starts a worker when the role is appended: a program that calls Worker. None means Adit's "bench worker".
	Command []string
}

func (c *Config) setDefaults() {
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.Duration == 0 {
		c.Duration = time.Second
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if len(c.Adit) == 0 {
		c.Adit = []string{"/proc/self/exe"}
	}
	if len(c.Command) == 0 {
		c.Command = append(slices.Clone(c.Adit), "bench", "worker")
	}
}

// Check refuses cases and paths that do not exist.
func (c *Config) Check() error {
	for _, path := range c.Paths {
		if !slices.Contains(allPaths, path) {
			return fmt.Errorf("no path %q; there are %s", path, strings.Join(allPaths, ", "))
		}
	}
	_, err := selectCases(c.Cases)
	return err
}

// Run measures and reports. It starts processes and ends all of them before it returns, also when ctx ends first.
// A path that fails a case loses that round and is named in the report's notes; the run goes on.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	cfg.setDefaults()
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	selected, err := selectCases(cfg.Cases)
	if err != nil {
		return nil, err
	}
	if _, err := proc.RaiseFileLimit(); err != nil { // its processes inherit it
		return nil, err
	}
	r := &runner{cfg: cfg, begun: time.Now(), values: make(map[rowKey]stats.Series), proxies: make(map[string]*proxy), missing: make(map[string]bool)}
	var lone error
	if r.fleet, lone, err = openFleet(ctx, cfg); err != nil {
		return nil, err
	}
	defer r.close()
	if lone != nil {
		r.note("no network namespace of its own (%v): traffic runs on this one's loopback", lone)
	}
	if err := r.run(ctx, selected); ctx.Err() != nil {
		return nil, fmt.Errorf("interrupted, all processes ended: %w", ctx.Err())
	} else if err != nil {
		return nil, err
	}
	return r.report(selected), nil
}

// rowKey names a series: one metric of one case on one path.
type rowKey struct{ benchCase, metric, path string }

type runner struct {
	cfg     Config
	begun   time.Time
	fleet   *fleet
	proxies map[string]*proxy // kept from round to round
	missing map[string]bool   // paths that cannot be started
	values  map[rowKey]stats.Series
	notes   []string

	foreign float64 // share of the machine that others used; NaN if unknown
}

func (r *runner) close() {
	for _, p := range r.proxies {
		p.close()
	}
	r.fleet.close()
}

// note keeps a remark for the report, once.
func (r *runner) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(r.notes, text) {
		r.notes = append(r.notes, text)
		fmt.Fprintf(r.cfg.Progress, "note: %s\n", text)
	}
}

func (r *runner) run(ctx context.Context, selected []benchCase) error {
	foreign := r.watchMachine(ctx)
	for round := range r.cfg.Rounds {
		for _, c := range selected {
			if c.once && round > 0 {
				continue
			}
			r.runCase(ctx, c, round)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	r.foreign = foreign()
	return nil
}

// runCase measures c on every path. The order moves on by one in each round, so that no path always follows the same one.
func (r *runner) runCase(ctx context.Context, c benchCase, round int) {
	paths := r.pathsOf(c)
	shown := make(map[string]string, len(paths))
	for i := range paths {
		path := paths[(i+round)%len(paths)]
		if path == pathDirect && round > 0 {
			continue
		}
		m, err := r.runPath(ctx, c, path)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.note("%s on %s: %v", c.name, path, err)
			shown[path] = "failed"
		}
		for _, metric := range c.metrics {
			r.put(rowKey{c.name, metric.suffix, path}, round, m)
		}
		if v, ok := m[c.metrics[0].suffix]; ok {
			shown[path] = stats.Number(v)
		}
	}
	var line strings.Builder
	fmt.Fprintf(&line, "round %d/%d %-14s", round+1, r.cfg.Rounds, c.name)
	for _, path := range paths {
		if shown[path] != "" {
			fmt.Fprintf(&line, " %s %s", path, shown[path])
		}
	}
	fmt.Fprintf(r.cfg.Progress, "%s %s\n", line.String(), c.metrics[0].unit)
}

func (r *runner) pathsOf(c benchCase) []string {
	return slices.DeleteFunc(slices.Clone(c.paths), func(path string) bool {
		return r.missing[path] || len(r.cfg.Paths) > 0 && !slices.Contains(r.cfg.Paths, path)
	})
}

func (r *runner) put(key rowKey, round int, m results) {
	s := r.values[key]
	for len(s) <= round {
		s = append(s, math.NaN())
	}
	if v, ok := m[key.metric]; ok {
		s[round] = v
	}
	r.values[key] = s
}

// runPath measures c on path, on a proxy that is kept or on a fresh one. After a failure the proxy is replaced.
func (r *runner) runPath(ctx context.Context, c benchCase, path string) (results, error) {
	p, kept := r.proxies[path]
	if c.fresh || c.once || !kept {
		var err error
		prefixes := []string{"/"}
		if c.name == "change" {
			prefixes = []string{"/base"}
		}
		if p, err = r.fleet.open(ctx, path, prefixes...); err != nil {
			if !c.fresh && !c.once {
				r.missing[path] = true
			}
			return nil, err
		}
		if c.fresh || c.once {
			defer p.close()
		} else {
			r.proxies[path] = p
		}
	}
	m, err := c.measure(&trial{ctx: ctx, fleet: r.fleet, proxy: p, bench: c, duration: r.cfg.Duration, note: r.note})
	if err != nil && r.proxies[path] == p {
		p.close()
		delete(r.proxies, path)
	}
	return m, err
}

// watchMachine returns a function that reports which share of the machine's processor time others have used since.
func (r *runner) watchMachine(ctx context.Context) func() float64 {
	begun := time.Now()
	busy, _, err := proc.MachineBusy()
	own := r.cpu(ctx)
	return func() float64 {
		nowBusy, processors, nowErr := proc.MachineBusy()
		if errors.Join(err, nowErr) != nil {
			return math.NaN()
		}
		others := (nowBusy - busy) - (r.cpu(ctx) - own)
		return max(0, others.Seconds()) / (time.Since(begun).Seconds() * float64(processors))
	}
}

// cpu is what the bench and its processes, ended ones included, have used.
func (r *runner) cpu(ctx context.Context) time.Duration {
	total := proc.RusageCPU(unix.RUSAGE_SELF) + proc.RusageCPU(unix.RUSAGE_CHILDREN)
	for _, w := range []*proc.Worker{r.fleet.client, r.fleet.backend, r.fleet.waker} {
		var u proc.Usage
		if w.Call(ctx, "usage", nil, &u) == nil {
			total += u.CPU
		}
	}
	for _, p := range r.proxies {
		total += p.cpu()
	}
	return total
}
