package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dir is where named namespaces live, the place that ip-netns(8) uses.
const Dir = "/run/netns"

// Lab is a set of namespaces that share a name prefix and are removed together.
type Lab struct {
	prefix  string
	madeDir bool

	mu        sync.Mutex // guards the fields below
	spaces    []*Namespace
	procs     []*Process
	sniffs    []*Sniffer
	unsettled []func() error // each waits for an address to be usable
	closed    bool
}

// New starts an empty lab. The prefix is put before every namespace name, so that two labs on one machine do
// not meet; it must not be empty, because Sweep removes by prefix.
func New(prefix string) (*Lab, error) {
	if prefix == "" || strings.ContainsAny(prefix, "/\x00") {
		return nil, fmt.Errorf("lab: prefix %q: want a non-empty name without slashes", prefix)
	}
	l := &Lab{prefix: prefix}
	switch err := os.Mkdir(Dir, 0o755); {
	case err == nil:
		l.madeDir = true
	case !errors.Is(err, os.ErrExist):
		return nil, fmt.Errorf("lab: %w; network namespaces need root", err)
	}
	return l, nil
}

// Namespace makes a network namespace at /run/netns/<prefix><name>, with lo up.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	path := filepath.Join(Dir, l.prefix+name)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("lab: namespace %s exists; an earlier run may have been killed: remove it with `ip netns del %s`", path, l.prefix+name)
	} else if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	_ = file.Close()

	var fd int
	err = onFreshThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w; run as root", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind namespace at %s: %w", path, err)
		}
		var err error
		fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		_ = unix.Unmount(path, unix.MNT_DETACH)
		_ = os.Remove(path)
		return nil, fmt.Errorf("lab: namespace %s: %w", name, err)
	}
	n := &Namespace{lab: l, name: name, path: path, fd: fd}
	if err := n.openHandle(); err != nil {
		_ = n.remove()
		return nil, fmt.Errorf("lab: namespace %s: %w", name, err)
	}
	// Without a link-local address, which would take seconds to be found unique, a router asks for no neighbour.
	for _, of := range []string{"default", "all"} {
		if err := n.Sysctl("net.ipv6.conf."+of+".accept_dad", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			_ = n.remove()
			return nil, err
		}
	}
	if err := n.Up("lo"); err != nil {
		_ = n.remove()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = n.remove()
		return nil, errors.New("lab: closed")
	}
	l.spaces = append(l.spaces, n)
	return n, nil
}

// Veth joins two namespaces by a veth pair, both ends up.
func (l *Lab) Veth(a *Namespace, aLink string, b *Namespace, bLink string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: aLink},
		PeerName:      bLink,
		PeerNamespace: netlink.NsFd(b.fd),
	}
	if err := a.handle.LinkAdd(veth); err != nil {
		return fmt.Errorf("lab: veth %s/%s to %s/%s: %w", a.name, aLink, b.name, bLink, err)
	}
	if err := a.Up(aLink); err != nil {
		return err
	}
	return b.Up(bLink)
}

// Settle waits until the IPv6 addresses that were put on links that did not run yet can be used.
func (l *Lab) Settle() error {
	l.mu.Lock()
	waits := l.unsettled
	l.unsettled = nil
	l.mu.Unlock()
	for _, wait := range waits {
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

// Close kills the processes that the lab started, waits for them, stops the sniffers and removes every
// namespace. It is idempotent.
func (l *Lab) Close() error {
	l.mu.Lock()
	spaces, procs, sniffs := l.spaces, l.procs, l.sniffs
	l.spaces, l.procs, l.sniffs, l.closed = nil, nil, nil, true
	l.mu.Unlock()

	for _, p := range procs {
		p.Kill()
	}
	for _, s := range sniffs {
		_ = s.Close()
	}
	var errs []error
	for i := len(spaces) - 1; i >= 0; i-- {
		errs = append(errs, spaces[i].remove())
	}
	if l.madeDir {
		_ = os.Remove(Dir) // fails while somebody else's namespaces are in it, which is right
	}
	return errors.Join(errs...)
}

// Sweep removes the namespaces that an earlier run with this prefix left behind when it was killed, and
// returns their names. Processes still inside them are not touched.
func Sweep(prefix string) ([]string, error) {
	if prefix == "" {
		return nil, errors.New("lab: sweep wants a prefix")
	}
	entries, err := os.ReadDir(Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	var names []string
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
			errs = append(errs, unbind(filepath.Join(Dir, e.Name())))
		}
	}
	return names, errors.Join(errs...)
}

func unbind(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("lab: unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}
