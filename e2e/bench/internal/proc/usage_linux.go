package proc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a process has consumed since it started.
type Usage struct {
	CPU        time.Duration `json:"cpu"`      // user and system time
	Switches   int64         `json:"switches"` // context switches, voluntary and not
	Allocs     uint64        `json:"allocs"`   // heap objects allocated
	Goroutines int           `json:"goroutines"`
}

func (u Usage) Minus(earlier Usage) Usage {
	return Usage{u.CPU - earlier.CPU, u.Switches - earlier.Switches, u.Allocs - earlier.Allocs, u.Goroutines - earlier.Goroutines}
}

func (u Usage) Plus(other Usage) Usage {
	return Usage{u.CPU + other.CPU, u.Switches + other.Switches, u.Allocs + other.Allocs, u.Goroutines + other.Goroutines}
}

// OwnUsage is the calling process's. It does not stop the world.
func OwnUsage() (Usage, error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return Usage{}, fmt.Errorf("getrusage: %w", err)
	}
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:objects"},
		{Name: "/gc/heap/tiny/allocs:objects"},
		{Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(samples)
	return Usage{
		CPU:        time.Duration(ru.Utime.Nano() + ru.Stime.Nano()),
		Switches:   ru.Nvcsw + ru.Nivcsw,
		Allocs:     samples[0].Value.Uint64() + samples[1].Value.Uint64(),
		Goroutines: int(samples[2].Value.Uint64()),
	}, nil
}

// RusageCPU is the user and system time of who, 0 if it cannot be had.
func RusageCPU(who int) time.Duration {
	var ru unix.Rusage
	if unix.Getrusage(who, &ru) != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// ReleaseMemory gives back what is garbage, twice so that sync.Pools are emptied too (they keep a victim generation).
func ReleaseMemory() {
	debug.FreeOSMemory()
	debug.FreeOSMemory()
}

// RSS is the resident set of process pid in bytes.
func RSS(pid int) (int64, error) {
	name := filepath.Join("/proc", strconv.Itoa(pid), "statm")
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s: unexpected form %q", name, data)
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// GroupUsage sums what the processes of a process group consume; for programs that cannot be asked. Allocations and goroutines stay zero.
func GroupUsage(pgid int) (u Usage, resident int64) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has gone meanwhile
		}
		// The command in parentheses may contain anything; what follows its last ')' is fixed (proc_pid_stat(5)).
		fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
		if len(fields) < 13 || string(fields[2]) != strconv.Itoa(pgid) {
			continue
		}
		user, _ := strconv.ParseInt(string(fields[11]), 10, 64)
		system, _ := strconv.ParseInt(string(fields[12]), 10, 64)
		u.CPU += time.Duration(user+system) * time.Second / clockTicks
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if r, err := RSS(pid); err == nil {
			resident += r
		}
		threads, _ := filepath.Glob(filepath.Join(filepath.Dir(name), "task/*/status"))
		for _, thread := range threads {
			u.Switches += contextSwitches(thread)
		}
	}
	return u, resident
}

// GroupMembers are the processes of a process group.
func GroupMembers(pgid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has gone meanwhile
		}
		if fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:]); len(fields) > 2 && string(fields[2]) == strconv.Itoa(pgid) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// ThreadCPU is the processor time that the living threads of processes have used so far, to the nanosecond.
func ThreadCPU(pids []int) (total time.Duration) {
	for _, pid := range pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, thread := range threads {
			data, _ := os.ReadFile(thread)
			if fields := bytes.Fields(data); len(fields) > 0 {
				ns, _ := strconv.ParseInt(string(fields[0]), 10, 64)
				total += time.Duration(ns)
			}
		}
	}
	return total
}

// clockTicks is USER_HZ, 100 on every architecture Go runs on.
const clockTicks = 100

func contextSwitches(statusFile string) (n int64) {
	data, _ := os.ReadFile(statusFile)
	for line := range bytes.Lines(data) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.HasSuffix(name, []byte("voluntary_ctxt_switches")) {
			v, _ := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			n += v
		}
	}
	return n
}

// MachineBusy is the time all processors together have spent on processes since boot, and the number of processors.
// Interrupts are left out: on the loopback they are the bench's own.
func MachineBusy() (busy time.Duration, processors int, err error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	for line := range bytes.Lines(data) {
		f := bytes.Fields(line)
		if len(f) < 9 || !bytes.HasPrefix(f[0], []byte("cpu")) {
			continue
		}
		if len(f[0]) > len("cpu") {
			processors++
			continue
		}
		for _, i := range []int{1, 2, 3, 8} { // user, nice, system, steal
			ticks, _ := strconv.ParseInt(string(f[i]), 10, 64)
			busy += time.Duration(ticks) * time.Second / clockTicks
		}
	}
	if processors == 0 {
		return 0, 0, fmt.Errorf("/proc/stat: no processors listed")
	}
	return busy, processors, nil
}

// RaiseFileLimit raises RLIMIT_NOFILE to its hard limit and returns it.
func RaiseFileLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("getrlimit: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	return limit.Max, nil
}

// Machine is one line about where a run takes place.
func Machine() string {
	return fmt.Sprintf("%d processors, %s, %s/%s", runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
