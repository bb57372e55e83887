package agent

import (
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// wantFiles is how many descriptors a busy node may need: a captured connection
// takes two, plus those of the tunnels.
const wantFiles = 1 << 20

// raiseLimits makes room for many connections, and has the collector work
// harder before the kernel kills the process.
func raiseLimits(log *slog.Logger) {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		log.Warn("cannot read the limit of open files", "error", err)
		return
	}
	if have.Max < wantFiles { // needs CAP_SYS_RESOURCE
		raised := unix.Rlimit{Cur: wantFiles, Max: wantFiles}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			have = raised
		}
	}
	if have.Cur < have.Max {
		raised := unix.Rlimit{Cur: have.Max, Max: have.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			have = raised
		}
	}
	log.Debug("limit of open files", "soft", have.Cur, "hard", have.Max)

	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return // GOMEMLIMIT is set
	}
	if limit, ok := cgroupMemory("/proc/self/cgroup", "/sys/fs/cgroup"); ok {
		soft := limit / 10 * 9 // the rest is for stacks, the kernel's buffers and surprises
		debug.SetMemoryLimit(soft)
		log.Debug("memory limit set from the cgroup's", "limit", limit, "soft", soft)
	}
}

// cgroupMemory is the smallest memory limit of the cgroup (version 2) that the
// process is in, those around it included.
func cgroupMemory(self, root string) (limit int64, ok bool) {
	data, err := os.ReadFile(self)
	if err != nil {
		return 0, false
	}
	limit = math.MaxInt64
	for line := range strings.Lines(string(data)) {
		dir, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
			if n, err := readLimit(path.Join(root, dir, "memory.max")); err == nil {
				limit = min(limit, n)
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, limit < math.MaxInt64
}

func readLimit(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64) // "max" is no number
}
