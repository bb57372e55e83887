package enrol

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace with processes of a pod in it.
type namespace struct {
	inode uint64
	pid   int   // the oldest of them
	start ticks // of that process
}

// traces are what the processes of one pod lead to.
type traces struct {
	// namespaces of their own, those with the oldest process first: that is the
	// pod's own, made before whatever runs in the pod could make one.
	namespaces []namespace
	err        error // why there may be more
}

// scanner looks for the network namespaces of pods in proc(5).
type scanner struct{ root string }

// scan looks at all processes, once. Those that end meanwhile do not matter. uids
// are the pods of the node, true for those that are looked for.
func (s *scanner) scan(uids map[string]bool) (map[string]*traces, error) {
	dir, err := os.Open(s.root)
	if err != nil {
		return nil, fmt.Errorf("look for the pods' processes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("look for the pods' processes: %w", err)
	}
	node := s.nodeNamespaces()
	all := make(map[string]*traces)
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid > 0 {
			s.look(pid, uids, node, all)
		}
	}
	for _, t := range all {
		slices.SortFunc(t.namespaces, func(a, b namespace) int {
			return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid))
		})
	}
	return all, nil
}

// nodeNamespaces are those that are no pod's: the agent's own, which shares the
// node's, and that of the first process.
func (s *scanner) nodeNamespaces() map[uint64]bool {
	node := make(map[uint64]bool, 2)
	for _, path := range []string{"/proc/thread-self/ns/net", s.path(1, "ns/net")} {
		if inode, err := inodeOf(path); err == nil {
			node[inode] = true
		}
	}
	return node
}

func (s *scanner) look(pid int, uids map[string]bool, node map[uint64]bool, all map[string]*traces) {
	inode, err := inodeOf(s.path(pid, "ns/net"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || err == nil && node[inode] {
		return
	}
	uid := s.podOf(pid, uids)
	if uid == "" {
		return
	}
	t := all[uid]
	if t == nil {
		t = new(traces)
		all[uid] = t
	}
	if err != nil {
		t.err = fmt.Errorf("%w; the agent needs CAP_SYS_PTRACE", err)
		return
	}
	if start, err := s.startOf(pid); err == nil {
		t.add(namespace{inode: inode, pid: pid, start: start})
	}
}

func (t *traces) add(n namespace) {
	for i := range t.namespaces {
		if have := &t.namespaces[i]; have.inode == n.inode {
			if n.start < have.start || n.start == have.start && n.pid < have.pid {
				*have = n
			}
			return
		}
	}
	t.namespaces = append(t.namespaces, n)
}

// find returns the namespace of that number.
func (t *traces) find(inode uint64) (namespace, bool) {
	if t == nil {
		return namespace{}, false
	}
	i := slices.IndexFunc(t.namespaces, func(n namespace) bool { return n.inode == inode })
	if i < 0 {
		return namespace{}, false
	}
	return t.namespaces[i], true
}

// podOf is the pod that a process is of, "" if it is none that is looked for. Of
// nested cgroups the outermost one of a pod of this node counts: a pod that may
// make cgroups can give those inside its own any name, another pod's too.
func (s *scanner) podOf(pid int, uids map[string]bool) string {
	file, err := os.ReadFile(s.path(pid, "cgroup"))
	if err != nil {
		return ""
	}
	for uid := range podUIDs(file) {
		switch wanted, known := uids[uid]; {
		case wanted:
			return uid
		case known:
			return ""
		}
	}
	return ""
}

func (s *scanner) startOf(pid int) (ticks, error) {
	file, err := os.ReadFile(s.path(pid, "stat"))
	if err != nil {
		return 0, err
	}
	return startTime(file)
}

// open opens the namespace of a process, if it is still the one that was found,
// of a process of the same pod.
func (s *scanner) open(n namespace, uid string) (*os.File, error) {
	f, err := os.OpenFile(s.path(n.pid, "ns/net"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Ino != n.inode || s.podOf(n.pid, map[string]bool{uid: true}) == "" {
			err = errors.New("the process has ended meanwhile")
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// inside reports whether a process is in a namespace.
func (s *scanner) inside(pid int, inode uint64) bool {
	now, err := inodeOf(s.path(pid, "ns/net"))
	return err == nil && now == inode
}

func (s *scanner) path(pid int, name string) string {
	return filepath.Join(s.root, strconv.Itoa(pid), name)
}

// inodeOf is a namespace's inode number, of its file.
func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// sinceBoot is now, as /proc counts it.
func sinceBoot() ticks {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return ticks(now.Nano() / int64(10*time.Millisecond))
}
