package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// markSysctls make mode B: a socket that an app accepts takes the mark of the SYN, and so do a reset or an
// ICMP error, so that everything an app answers to a marked connection is marked and stays inside the pod.
var markSysctls = []string{
	"net/ipv4/tcp_fwmark_accept", // of both families
	"net/ipv4/fwmark_reflect",
	"net/ipv6/fwmark_reflect",
}

// errReadOnly means that mode B cannot be had because the agent may not write sysctls.
var errReadOnly = errors.New("sysctls cannot be written")

// sysctlRoot is a directory that holds net, as /proc/sys does.
type sysctlRoot string

// file is where a sysctl of the thread's network namespace is. That it is the thread's, not the mount's, is how
// the kernel resolves every name below net at each look-up.
func (root sysctlRoot) file(name string) string {
	if root == "" {
		root = "/proc/sys"
	}
	return filepath.Join(string(root), name)
}

// setMark turns on what is off, and returns those that it changed. Without IPv6 there is no sysctl of it.
func (root sysctlRoot) setMark(n *Netns) (changed []string, err error) {
	err = n.Do(func() error {
		for _, name := range markSysctls {
			path := root.file(name)
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) && strings.Contains(name, "ipv6") {
				continue
			}
			if err == nil && strings.TrimSpace(string(b)) == "1" {
				continue
			}
			if err == nil {
				err = os.WriteFile(path, []byte("1"), 0)
			}
			if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: %w", errReadOnly, err)
			}
			if err != nil {
				return err
			}
			changed = append(changed, name)
		}
		return nil
	})
	return changed, err
}

// clear sets back to 0, the kernel's default, what setMark changed.
func (root sysctlRoot) clear(n *Netns, names []string) error {
	if len(names) == 0 {
		return nil
	}
	return n.Do(func() error {
		var errs []error
		for _, name := range names {
			errs = append(errs, os.WriteFile(root.file(name), []byte("0"), 0))
		}
		return errors.Join(errs...)
	})
}
