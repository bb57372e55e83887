package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// A load is what a tool has found out.
type load struct {
	rate, p50, p99 float64 // requests/s, µs
	failed         int64
}

// wrkScript prints what wrk's own summary rounds.
const wrkScript = `done = function(s, latency, requests)
  io.write(string.format("RESULT %d %d %d %d %d %d %d %d %d\n", s.requests, s.duration, latency:percentile(50), latency:percentile(99),
    s.errors.connect, s.errors.read, s.errors.write, s.errors.status, s.errors.timeout))
end
`

// wrk asks over HTTP/1.1 without TLS.
func (f *fleet) wrk(ctx context.Context, addr string, conns int, d time.Duration) (load, error) {
	script := filepath.Join(f.dir, "wrk.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o644); err != nil {
		return load{}, err
	}
	seconds := strconv.Itoa(int(math.Ceil(d.Seconds()))) + "s"
	out, err := f.tool(ctx, d, "wrk", "-t1", "-c", strconv.Itoa(conns), "-d", seconds, "--timeout", "10s", "-s", script, "http://"+addr+"/")
	if err != nil {
		return load{}, err
	}
	_, line, ok := bytes.Cut(out, []byte("RESULT "))
	if !ok {
		return load{}, fmt.Errorf("wrk: no result in %q", out)
	}
	var v [9]int64
	for i, field := range bytes.Fields(line) {
		if i < len(v) {
			v[i], _ = strconv.ParseInt(string(field), 10, 64)
		}
	}
	if v[0] == 0 || v[1] == 0 {
		return load{}, errors.New("wrk: no request was answered")
	}
	return load{rate: float64(v[0]) / (float64(v[1]) / 1e6), p50: float64(v[2]), p99: float64(v[3]), failed: v[4] + v[5] + v[6] + v[7] + v[8]}, nil
}

var (
	h2loadRate   = regexp.MustCompile(`finished in .*, ([0-9.]+) req/s`)
	h2loadCounts = regexp.MustCompile(`requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
)

// h2load asks over TLS, by HTTP/2 or HTTP/1.1, with that many streams on each connection.
func (f *fleet) h2load(ctx context.Context, proto, addr string, conns, streams int, warm, d time.Duration) (load, error) {
	log := filepath.Join(f.dir, "h2load.log")
	defer os.Remove(log)
	os.Remove(log) // of one that was interrupted
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) + "ms" }
	args := []string{"-t1", "-c", strconv.Itoa(conns), "-m", strconv.Itoa(streams), "-D", ms(d), "--warm-up-time", ms(warm), "--log-file", log}
	if proto == protoH1S {
		args = append(args, "--h1")
	}
	out, err := f.tool(ctx, warm+d, "h2load", append(args, "https://"+addr+"/")...)
	if err != nil {
		return load{}, err
	}
	rate, counts := h2loadRate.FindSubmatch(out), h2loadCounts.FindSubmatch(out)
	if rate == nil || counts == nil {
		return load{}, fmt.Errorf("h2load: no result in %q", out)
	}
	var l load
	l.rate, _ = strconv.ParseFloat(string(rate[1]), 64)
	for _, n := range counts[2:] {
		v, _ := strconv.ParseInt(string(n), 10, 64)
		l.failed += v
	}
	times, bad, err := readLog(log)
	if err != nil {
		return load{}, err
	}
	l.failed += bad
	if len(times) == 0 {
		return load{}, errors.New("h2load: no request was answered")
	}
	l.p50, l.p99 = stats.Percentile(times, 0.5), stats.Percentile(times, 0.99)
	return l, nil
}

// readLog reads h2load's file of requests: start, status, µs.
func readLog(name string) (times []uint32, bad int64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) < 3 {
			continue
		}
		if string(fields[1]) != "200" {
			bad++
			continue
		}
		us, _ := strconv.ParseUint(string(fields[2]), 10, 32)
		times = append(times, uint32(us))
	}
	slices.Sort(times)
	return times, bad, nil
}

// tool runs a load generator on the load's processor and returns what it prints. It ends it when ctx does, or when it hangs.
func (f *fleet) tool(ctx context.Context, d time.Duration, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, fmt.Errorf("%s is not installed (make setup-bench-ingress): %w", name, err)
	}
	var out bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout = &out
	p, err := proc.StartProgram(f.nursery.On(cpuLoad), name, cmd)
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	select {
	case <-p.Exited:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(d + 30*time.Second):
		return nil, fmt.Errorf("%s %v has not ended: %s", name, args, p.Output)
	}
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		return nil, fmt.Errorf("%s %v: exit code %d: %s", name, args, code, p.Output)
	}
	return out.Bytes(), nil
}
