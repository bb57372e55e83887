package enrol

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// podUIDs are the UIDs of the pods in whose cgroups a process may be, by its
// /proc/PID/cgroup: those that the path names, outermost first. A pod that is a
// node itself has pods of its own inside. kubelet and the runtimes write
//
//	…/kubepods/burstable/pod0b9c7ab4-9c1d-…/c0ffee                                      cgroupfs
//	…/kubepods-burstable.slice/kubepods-burstable-pod0b9c7ab4_9c1d_….slice/cri-…scope   systemd
//	…/kubepods-burstable-pod0b9c7ab4_9c1d_….slice:cri-containerd:c0ffee                 either, misconfigured
//
// with a prefix of the node's, in each hierarchy of cgroup v1 or in the one of
// v2. Seen from another cgroup namespace the path begins with "/..".
func podUIDs(file []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range bytes.Lines(file) {
			// hierarchy:controllers:path, and a path may hold colons.
			fields := strings.SplitN(strings.TrimRight(string(line), "\n"), ":", 3)
			if len(fields) != 3 {
				continue
			}
			for segment := range strings.FieldsFuncSeq(fields[2], func(c rune) bool { return c == '/' || c == ':' }) {
				if uid, ok := podSegment(segment); ok && !yield(uid) {
					return
				}
			}
		}
	}
}

func podSegment(segment string) (uid string, ok bool) {
	if unit, ok := strings.CutSuffix(segment, ".slice"); ok {
		// A dash in the unit's name is a level of the hierarchy, so those of the
		// UID are written as underscores.
		_, uid, ok := strings.Cut(unit, "-pod")
		return strings.ReplaceAll(uid, "_", "-"), ok && uid != ""
	}
	uid, ok = strings.CutPrefix(segment, "pod")
	return uid, ok && uid != ""
}

// ticks are clock ticks since boot, of 10 ms.
type ticks uint64

// startTime is when a process began, of its /proc/PID/stat: proc(5), field 22.
func startTime(stat []byte) (ticks, error) {
	// The second field is a name that may hold anything but a NUL.
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("stat has no command")
	}
	const after = 22 - 3 // fields before it, from the third
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) <= after {
		return 0, fmt.Errorf("stat has %d fields after the command", len(fields))
	}
	t, err := strconv.ParseUint(fields[after], 10, 64)
	return ticks(t), err
}
