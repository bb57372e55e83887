package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names a process for as long as it lives: a number alone is given to
// another one day.
type process struct {
	PID   int
	Start uint64 // ticks since boot, field 22 of /proc/PID/stat
}

func processOf(pid int) (process, error) {
	start, _, err := readStat(pid)
	return process{pid, start}, err
}

// alive is false for a zombie as well.
func (p process) alive() bool {
	if p.PID <= 0 {
		return false
	}
	start, state, err := readStat(p.PID)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

// signal is no error for a process that has ended.
func (p process) signal(s unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	} else if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	// Looked at after the descriptor was opened, so the signal reaches this process or none.
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// end signals and waits, and kills what has not ended within grace.
func (p process) end(s unix.Signal, grace time.Duration) error {
	if err := p.signal(s); err != nil {
		return err
	}
	if p.gone(grace) {
		return nil
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	if !p.gone(10 * time.Second) {
		return fmt.Errorf("process %d survives SIGKILL; see /proc/%[1]d/stack", p.PID)
	}
	return nil
}

func (p process) gone(within time.Duration) bool {
	for deadline := time.Now().Add(within); p.alive(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

func readStat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name in parentheses may hold anything, parentheses too.
	end := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[end+1:]))
	if end < 0 || len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}

// processesIn lists the processes whose network namespace is the one that a file holds open.
func processesIn(netns string) ([]process, error) {
	var want unix.Stat_t
	if err := unix.Stat(netns, &want); err != nil {
		return nil, fmt.Errorf("%s: %w", netns, err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var have unix.Stat_t
		if unix.Stat(filepath.Join("/proc", e.Name(), "ns/net"), &have) != nil || have.Ino != want.Ino || have.Dev != want.Dev {
			continue // ended meanwhile, or somewhere else
		}
		if p, err := processOf(pid); err == nil {
			found = append(found, p)
		}
	}
	return found, nil
}

func readJSON(name string, v any) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// writeJSON replaces a file as a whole: one cut short would hide what has to be cleaned up.
func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
