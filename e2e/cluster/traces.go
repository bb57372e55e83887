package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Traces lists what there is of a cluster on this machine: namespaces, cgroups,
// files, mounts and processes. After Down it is nothing.
func Traces(cfg Config) ([]string, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var found []string
	if _, err := os.Lstat(cfg.Dir); err == nil {
		found = append(found, cfg.Dir)
	}
	for _, name := range cfg.names() {
		if _, err := os.Lstat(filepath.Join(lab.Dir, name)); err == nil {
			found = append(found, filepath.Join(lab.Dir, name))
		}
		groups, err := cgroups(name)
		if err != nil {
			return nil, err
		}
		found = append(found, groups...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if cfg.mentioned(line) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, dir := range processes {
		// Pods know nothing of their cluster but are in its cgroups.
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if cfg.mentioned(string(command)) || cfg.mentioned(string(groups)) {
			found = append(found, fmt.Sprintf("process %s: %s", filepath.Base(dir), strings.ReplaceAll(string(command), "\x00", " ")))
		}
	}
	return found, nil
}

// mentioned looks for the cluster's directory, namespaces and cgroups.
func (c Config) mentioned(in string) bool {
	if strings.Contains(in, c.Dir+"/") {
		return true
	}
	for _, name := range c.names() {
		if strings.Contains(in, "/"+name) {
			return true
		}
	}
	return false
}
