package lab

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Keep leaves the namespaces that the lab has made so far in place when it closes, for a network that outlives
// the process that built it. Sweep removes them.
func (l *Lab) Keep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.spaces {
		n.kept = true
	}
}

// Open joins a namespace that an earlier lab with the same prefix made and kept. Close leaves it in place.
func (l *Lab) Open(name string) (*Namespace, error) {
	path := filepath.Join(Dir, l.prefix+name)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("lab: open namespace %s: %w", path, err)
	}
	n := &Namespace{lab: l, name: name, path: path, fd: fd, kept: true}
	if err := n.openHandle(); err != nil {
		_ = n.remove()
		return nil, fmt.Errorf("lab: namespace %s: %w", path, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spaces = append(l.spaces, n)
	return n, nil
}
