package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Sweep removes what an earlier run left when it was killed: its processes,
// known by the namespaces they are in, whose names begin with the prefix, and
// by the names of programs; then the namespaces.
func Sweep(prefix string, programs ...string) error {
	inside := make(map[uint64]bool)
	paths, err := filepath.Glob(filepath.Join(lab.Dir, prefix+"*"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		if ino, err := inode(p); err == nil {
			inside[ino] = true
		}
	}
	if len(inside) > 0 {
		processes, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			return err
		}
		for _, p := range processes {
			endLeftover(p, inside, programs)
		}
	}
	_, err = lab.Sweep(prefix)
	return err
}

// endLeftover kills one of programs whose network is one of ours. Anything else
// that entered those namespaces, such as somebody's shell, is left alone.
func endLeftover(proc string, inside map[uint64]bool, programs []string) {
	pid, err := strconv.Atoi(filepath.Base(proc))
	if err != nil || pid == os.Getpid() {
		return
	}
	ino, err := inode(filepath.Join(proc, "ns/net"))
	if err != nil || !inside[ino] {
		return
	}
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil {
		return
	}
	for _, name := range programs {
		if strings.HasPrefix(filepath.Base(exe), name) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			return
		}
	}
}

func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("%s: no inode", path)
	}
	return st.Ino, nil
}
