package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// down removes whatever there is of a cluster. It goes by what the kernel says
// is in the cluster's namespaces, so it works after any interruption.
func down(cfg Config) error {
	namespaces, err := filepath.Glob(filepath.Join(lab.Dir, cfg.prefix()+"*"))
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		if err := empty(ns); err != nil {
			return err
		}
	}
	// Before the namespaces: should this fail, the next attempt still finds what it looks for.
	if err := removeCgroups(cfg.prefix()); err != nil {
		return err
	}
	if _, err := lab.Sweep(cfg.prefix()); err != nil {
		return err
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// empty kills every process in a network namespace until there is none. With
// the machine's process 1 go the pods, which are in namespaces of their own.
func empty(netns string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		found, err := processesIn(netns)
		if errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return err
		}
		left := 0
		for _, p := range found {
			if !p.alive() {
				continue
			}
			left++
			if err := p.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cluster: %d processes in %s survive SIGKILL, for instance %d", left, netns, found[0].PID)
		}
	}
}

// Traces lists what there is of a cluster on this machine: nothing, after Down.
func Traces(cfg Config) ([]string, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(lab.Dir, cfg.prefix()+"*"))
	if err != nil {
		return nil, err
	}
	groups, err := cgroups(cfg.prefix())
	if err != nil {
		return nil, err
	}
	found = append(found, groups...)
	if _, err := os.Lstat(cfg.Dir); err == nil {
		found = append(found, cfg.Dir)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, cfg.Dir) || strings.Contains(line, cfg.prefix()) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, name := range commands {
		b, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(b), cfg.Dir+"/") {
			found = append(found, fmt.Sprintf("process %s: %s", filepath.Base(filepath.Dir(name)), strings.ReplaceAll(string(b), "\x00", " ")))
		}
	}
	return found, nil
}
