package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// Config says what to measure. The zero value measures everything.
type Config struct {
	// Rounds is how often every case runs on every path. Zero means 3.
	Rounds int
	// Duration is how long each measurement lasts, after a warm-up of a third of it. Zero means 300 ms.
	Duration time.Duration
	// Cases are globs (path.Match) over the names of cases. None means all.
	Cases []string
	// Paths limits the built-in paths to those named. None means all. Without ours there are no ratios.
	Paths []string
	// Peers are external programs to measure beside the built-in paths.
	Peers []Peer
	// LetSleep leaves idle processors to sleep during the latency cases, which then measure mostly how they wake.
	LetSleep bool
	// NoNamespace runs on the loopback of the caller's network namespace.
	NoNamespace bool
	// Progress receives a line per case and round. nil discards them.
	Progress io.Writer
	// Command starts a worker when the role is appended: a program that calls Worker. None means this program's own
	// "bench worker".
	Command []string
}

func (c *Config) setDefaults() {
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.Duration == 0 {
		c.Duration = 300 * time.Millisecond
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	if len(c.Command) == 0 {
		c.Command = []string{"/proc/self/exe", "bench", "worker"}
	}
}

// Check refuses cases and paths that do not exist.
func (c *Config) Check() error {
	for _, path := range c.Paths {
		if !slices.Contains(pairPaths, path) {
			return fmt.Errorf("no path %q; there are %s", path, strings.Join(pairPaths, ", "))
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
	cases, err := selectCases(cfg.Cases)
	if err != nil {
		return nil, err
	}
	files, err := proc.RaiseFileLimit()
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, files: files, begun: time.Now(), values: make(map[rowKey]stats.Series), routes: make(map[routeKey]*route)}
	var lone error
	if r.fleet, lone, err = openFleet(ctx, cfg); err != nil {
		return nil, err
	}
	defer r.close()
	if lone != nil {
		r.note("no network namespace of its own (%v): traffic runs on this one's loopback", lone)
	}
	if err := r.run(ctx, cases); ctx.Err() != nil {
		return nil, fmt.Errorf("interrupted, all processes ended: %w", ctx.Err())
	} else if err != nil {
		return nil, err
	}
	return r.report(cases), nil
}

// rowKey names a stats.Series: one metric of one case on one path.
type rowKey struct{ benchCase, metric, path string }

// routeKey names a route that is kept from round to round.
type routeKey struct {
	path   string
	single string
}

type runner struct {
	cfg    Config
	files  uint64
	begun  time.Time
	fleet  *fleet
	routes map[routeKey]*route
	values map[rowKey]stats.Series
	notes  []string

	foreign float64 // share of the machine that others used; NaN if unknown
}

func (r *runner) close() {
	for _, route := range r.routes {
		route.close()
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

func (r *runner) run(ctx context.Context, cases []benchCase) error {
	foreign := r.watchMachine(ctx)
	for round := range r.cfg.Rounds {
		for _, c := range cases {
			if c.once && round > 0 {
				continue
			}
			if err := r.runCase(ctx, c, round); err != nil {
				return err
			}
		}
	}
	r.foreign = foreign()
	return nil
}

// runCase measures c on every path. The order moves on by one in each round, so that no path always follows the same one.
// An error ends the run: ctx is over, or the load generators are broken.
func (r *runner) runCase(ctx context.Context, c benchCase, round int) error {
	paths := r.pathsOf(c)
	if c.awake {
		sleepAgain, err := r.fleet.keepAwake(ctx)
		if err != nil {
			return err
		}
		defer sleepAgain()
	}
	if len(paths) == 0 {
		return nil
	}
	shown := make(map[string]string, len(paths))
	for i := range paths {
		path := paths[(i+round)%len(paths)]
		if round > 0 && slices.Contains(orientation, path) {
			continue
		}
		m, err := r.runPath(ctx, c, path)
		if ctx.Err() != nil {
			return ctx.Err()
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
	fmt.Fprintf(&line, "round %d/%d %-22s", round+1, r.cfg.Rounds, c.name)
	for _, path := range paths {
		if shown[path] != "" {
			fmt.Fprintf(&line, " %s %s", path, shown[path])
		}
	}
	fmt.Fprintf(&line, " %s\n", c.metrics[0].unit)
	_, err := io.WriteString(r.cfg.Progress, line.String())
	return err
}

func (r *runner) pathsOf(c benchCase) []string {
	paths := slices.DeleteFunc(slices.Clone(c.paths), func(path string) bool {
		return len(r.cfg.Paths) > 0 && !slices.Contains(r.cfg.Paths, path)
	})
	if c.single == "" {
		for _, p := range r.cfg.Peers {
			paths = append(paths, p.Name)
		}
	}
	return paths
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

// runPath measures c on path, on agents that are kept or on fresh ones. After a failure the agents are replaced.
func (r *runner) runPath(ctx context.Context, c benchCase, path string) (results, error) {
	key := routeKey{path, c.single}
	rt, kept := r.routes[key]
	if c.fresh || !kept {
		var err error
		if rt, err = r.openRoute(ctx, path, c.single); err != nil {
			return nil, err
		}
		if !c.fresh {
			r.routes[key] = rt
		}
	}
	m, err := c.measure(&trial{
		ctx: ctx, client: r.fleet.client, server: r.fleet.server, path: rt,
		warmUp: r.cfg.Duration / 3, duration: r.cfg.Duration, files: r.files, note: r.note,
	})
	if c.fresh {
		rt.close()
	} else if err != nil {
		rt.close()
		delete(r.routes, key)
	}
	if err != nil {
		// What the failure left at the server must not count against the next path.
		r.fleet.server.Call(ctx, "settle", nil, nil)
	}
	return m, err
}

func (r *runner) openRoute(ctx context.Context, path, single string) (*route, error) {
	rt, err := r.fleet.openRoute(ctx, path, single, r.fleet.target)
	if err != nil {
		return nil, err
	}
	if err := r.fleet.check(ctx, rt); err != nil {
		rt.close()
		return nil, err
	}
	return rt, nil
}

// watchMachine returns a function that reports which share of the machine's processor time others have used since.
func (r *runner) watchMachine(ctx context.Context) func() float64 {
	begun := time.Now()
	busy, _, err := proc.MachineBusy()
	own := r.fleet.cpu(ctx, nil)
	return func() float64 {
		nowBusy, processors, nowErr := proc.MachineBusy()
		if errors.Join(err, nowErr) != nil {
			return math.NaN()
		}
		routes := make([]*route, 0, len(r.routes))
		for _, rt := range r.routes {
			routes = append(routes, rt)
		}
		others := (nowBusy - busy) - (r.fleet.cpu(ctx, routes) - own)
		return max(0, others.Seconds()) / (time.Since(begun).Seconds() * float64(processors))
	}
}
