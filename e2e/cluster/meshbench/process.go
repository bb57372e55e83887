package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// find returns the processes of a node's pods that run a program with a command
// as its first argument, and whose cgroup has a part in its name. It goes by the
// cgroup: another cluster's nodes may have the same names.
func (b *bench) find(node *cluster.Node, program, command, part string) []int {
	return findBy(func(pid int, argv []string) bool {
		if argv[0] != program || len(argv) < 2 || argv[1] != command {
			return false
		}
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return err == nil && strings.Contains(string(groups), "/"+b.cfg.name+"-"+node.Name()+"/") && strings.Contains(string(groups), part)
	})
}

func findBy(wanted func(pid int, argv []string) bool) []int {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var found []int
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err == nil && wanted(pid, strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")) {
			found = append(found, pid)
		}
	}
	return found
}

func send(pids []int, s unix.Signal) error {
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, s); err != nil {
			errs = append(errs, fmt.Errorf("signal process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// An agent is a node's, with its admin port.
type agent struct {
	node *cluster.Node
	pid  int
	http *http.Client
}

func (b *bench) agent(ctx context.Context, node *cluster.Node) (*agent, error) {
	a := &agent{node: node, http: &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return node.Netns().Dial(ctx, new(net.Dialer), network, address)
			},
		},
	}}
	err := poll(ctx, time.Minute, func() error {
		pids := b.find(node, "/adit", "agent", "")
		if len(pids) != 1 {
			return fmt.Errorf("node %s has %d agents", node.Name(), len(pids))
		}
		a.pid = pids[0]
		_, err := a.status(ctx)
		return err
	})
	return a, err
}

func (a *agent) get(ctx context.Context, port, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+port+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("agent of %s: %s: %s", a.node.Name(), res.Status, body)
	}
	return body, err
}

// status is what is used of GET /status.
type status struct {
	Ready bool
	World struct {
		Synced              bool
		Workloads, Services int
	}
	Pods         struct{ Enrolled, Serving int }
	Certificates []struct{}
}

func (a *agent) status(ctx context.Context) (s status, err error) {
	body, err := a.get(ctx, "15000", "/status")
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

// heap collects garbage and returns what is left, in octets.
func (a *agent) heap(ctx context.Context) (uint64, error) {
	if _, err := a.get(ctx, "15000", "/debug/pprof/heap?gc=1"); err != nil {
		return 0, err
	}
	metrics, err := a.get(ctx, "15020", "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(metrics)) {
		if v, ok := strings.CutPrefix(line, "go_memstats_heap_alloc_bytes "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return uint64(n), err
		}
	}
	return 0, fmt.Errorf("agent of %s: no go_memstats_heap_alloc_bytes among its metrics", a.node.Name())
}

// usage is what a process has used.
type usage struct {
	rss, peak uint64 // octets
	cpu       time.Duration
}

// tick is the unit of times in /proc/PID/stat on every architecture that Linux still has.
const tick = 10 * time.Millisecond

func usageOf(pid int) (u usage, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		n, _ := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		switch name {
		case "VmRSS":
			u.rss = n << 10
		case "VmHWM":
			u.peak = n << 10
		}
	}
	fields, err := statOf(pid)
	if err != nil {
		return u, err
	}
	u.cpu = time.Duration(fields[14]+fields[15]) * tick
	return u, nil
}

// age is how long a process has existed.
func age(pid int) (time.Duration, error) {
	fields, err := statOf(pid)
	if err != nil {
		return 0, err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, err
	}
	return time.Duration(now.Nano()) - time.Duration(fields[22])*tick, nil
}

// statOf returns the numbers of /proc/PID/stat by their places in proc(5).
func statOf(pid int) (fields [25]uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return fields, err
	}
	// The name in parentheses may hold anything, parentheses too.
	rest := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	for i, f := range rest {
		if place := i + 3; place < len(fields) {
			fields[place], _ = strconv.ParseUint(f, 10, 64) // -1 and letters are not ours
		}
	}
	return fields, nil
}
