package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where ip-netns(8) and container runtimes keep named namespaces.
const netnsDir = "/var/run/netns"

// Netns is an open network namespace. It keeps the namespace alive until Close.
type Netns struct {
	name string
	file *os.File // the namespace
	home *os.File // the namespace of the thread that opened it: where threads return to
	dev  uint64
	ino  uint64
}

// OpenNetns opens a network namespace by name, as in /var/run/netns/NAME, or by path, such as the one that a
// container runtime hands to a CNI plugin or /proc/PID/ns/net. The caller closes it.
func OpenNetns(nameOrPath string) (*Netns, error) {
	path := nameOrPath
	if !strings.Contains(path, "/") {
		path = filepath.Join(netnsDir, path)
	}
	// Should the path be a pipe, opening it must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open network namespace %q: no %s; is the pod running? `ip netns list` shows the named ones: %w", nameOrPath, path, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("open network namespace %q: %w; the agent needs to be root, and for a namespace in /proc CAP_SYS_PTRACE", nameOrPath, err)
	case err != nil:
		return nil, fmt.Errorf("open network namespace %q: %w", nameOrPath, err)
	}
	n, err := NewNetns(nameOrPath, f)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return n, nil
}

// NewNetns makes a Netns of an open namespace file, such as one received over a unix socket. The name is for
// messages. On success the Netns owns f.
func NewNetns(name string, f *os.File) (*Netns, error) {
	n := &Netns{name: name, file: f}
	err := control(f, func(fd int) error {
		// A file at the path that is no namespace is what remains when the bind mount is gone.
		if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
			return fmt.Errorf("network namespace %q: the file is not a network namespace; the pod may be gone, its mount with it", name)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		n.dev, n.ino = uint64(st.Dev), st.Ino
		return nil
	})
	if err != nil {
		return nil, err
	}
	// /proc/self would be the main thread, which need not be in the namespace this goroutine is in.
	if n.home, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, fmt.Errorf("open the agent's own network namespace: %w", err)
	}
	return n, nil
}

// Close lets go of the namespace. It is idempotent.
func (n *Netns) Close() error {
	err := errors.Join(n.file.Close(), n.home.Close())
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// path is the file the namespace was opened by.
func (n *Netns) path() string {
	if strings.Contains(n.name, "/") {
		return n.name
	}
	return filepath.Join(netnsDir, n.name)
}

// Inode identifies the namespace while it lives; numbers are reused afterwards.
func (n *Netns) Inode() uint64 { return n.ino }

// String is the name or path it was opened by.
func (n *Netns) String() string { return n.name }

// Addresses returns the global addresses of the namespace's links but lo, sorted: those that a pod is reached at.
func (n *Netns) Addresses() ([]netip.Addr, error) {
	var list []netlink.Addr
	err := n.Do(func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer handle.Close()
		list, err = whole(func() ([]netlink.Addr, error) { return handle.AddrList(nil, netlink.FAMILY_ALL) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses in network namespace %s: %w", n, err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if a.LinkIndex == lo || a.Scope != int(netlink.SCOPE_UNIVERSE) {
			continue
		}
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, addr.Unmap())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs), nil
}

// Present tells whether a pod's table is in the namespace: whether an agent, this one or an earlier one, has
// enrolled the pod and not removed it.
func Present(n *Netns) (bool, error) {
	conn, err := dialNFT(n, podTable.Family)
	if err != nil {
		return false, nftError(n, "open nftables", err)
	}
	defer conn.close()
	t, err := conn.table(podTable.Name)
	return t != nil, nftError(n, "look for an agent's rules", err)
}

// isHome tells whether this is the namespace that the agent itself runs in.
func (n *Netns) isHome() (bool, error) {
	var own unix.Stat_t
	err := control(n.home, func(fd int) error { return unix.Fstat(fd, &own) })
	return own.Ino == n.ino && uint64(own.Dev) == n.dev, err
}

// Do runs f on a thread inside the namespace. Goroutines that f starts run outside it, and so would a
// resolver or a dialer that starts some. When the thread cannot come back it ends with its goroutine.
func (n *Netns) Do(f func() error) error {
	result := make(chan error, 1)
	go n.visit(f, result)
	return <-result
}

func (n *Netns) visit(f func() error, result chan<- error) {
	runtime.LockOSThread()
	err := control(n.file, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) })
	if err != nil {
		runtime.UnlockOSThread()
		result <- n.enterError(err)
		return
	}
	err = f()
	if control(n.home, func(fd int) error { return unix.Setns(fd, unix.CLONE_NEWNET) }) == nil {
		runtime.UnlockOSThread()
	}
	result <- err
}

// socket makes a non-blocking TCP socket that belongs to the namespace. Everything else about a socket can be
// done on any thread, so nothing that waits happens in here.
func (n *Netns) socket(family int) (fd int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd = -1
	// The nesting holds both files open for the length of the visit, whoever closes them meanwhile.
	homeErr := control(n.home, func(home int) error {
		err = control(n.file, func(ns int) error {
			if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
				return n.enterError(err)
			}
			var err error
			fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
			if back := unix.Setns(home, unix.CLONE_NEWNET); back != nil {
				// Whatever ran on this thread next would speak from inside a pod.
				panic(fmt.Sprintf("capture: thread cannot leave network namespace %s: %v", n.name, back))
			}
			return os.NewSyscallError("socket", err)
		})
		return nil
	})
	if homeErr != nil {
		return -1, homeErr
	}
	return fd, err
}

func (n *Netns) enterError(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("enter network namespace %q: %w; the agent needs CAP_SYS_ADMIN", n.name, err)
	}
	return fmt.Errorf("enter network namespace %q: %w", n.name, err)
}

// control calls f with the file's descriptor, which stays open meanwhile.
func control(f *os.File, do func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	if err := rc.Control(func(fd uintptr) { doErr = do(int(fd)) }); err != nil {
		return err
	}
	return doErr
}
