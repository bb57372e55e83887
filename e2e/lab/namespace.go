package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace of a lab.
type Namespace struct {
	lab    *Lab
	name   string
	path   string
	fd     int
	handle *netlink.Handle
	kept   bool // the file stays when the lab closes
}

// Name is the name given to Lab.Namespace, without the lab's prefix.
func (n *Namespace) Name() string { return n.name }

// Path is the file that holds the namespace open, /run/netns/<prefix><name>.
func (n *Namespace) Path() string { return n.path }

// Do runs f on a thread inside the namespace. Goroutines that f starts run outside it.
func (n *Namespace) Do(f func() error) error {
	return onFreshThread(func() error {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("lab: enter %s: %w", n.name, err)
		}
		return f()
	})
}

// onFreshThread runs f on a locked thread that afterwards goes back to the namespace it came from. Where
// that is impossible the thread ends with its goroutine, so no other goroutine ever meets a foreign thread.
func onFreshThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer unix.Close(home)
		err = f()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

func (n *Namespace) openHandle() error {
	return n.Do(func() (err error) {
		n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
}

func (n *Namespace) remove() error {
	if n.handle != nil {
		n.handle.Close()
	}
	if n.kept {
		return unix.Close(n.fd)
	}
	return errors.Join(unix.Close(n.fd), unbind(n.path))
}

// Bridge adds a bridge, up, and puts the named links of this namespace on it.
func (n *Namespace) Bridge(name string, ports ...string) error {
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := n.handle.LinkAdd(br); err != nil {
		return fmt.Errorf("lab: %s: add bridge %s: %w", n.name, name, err)
	}
	for _, port := range ports {
		if err := n.Attach(name, port); err != nil {
			return err
		}
	}
	return n.Up(name)
}

// Attach puts a link on a bridge of the same namespace.
func (n *Namespace) Attach(bridge, link string) error {
	br, err := n.link(bridge)
	if err != nil {
		return err
	}
	port, err := n.link(link)
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetMaster(port, br); err != nil {
		return fmt.Errorf("lab: %s: put %s on %s: %w", n.name, link, bridge, err)
	}
	return nil
}

// AddAddr adds an address with its prefix length to a link. An IPv6 address is usable when it returns, without
// a search for duplicates; on a link that does not run yet it will be some time after it does: see Lab.Settle.
func (n *Namespace) AddAddr(link string, addr netip.Prefix) error {
	li, err := n.link(link)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := n.handle.AddrAdd(li, a); err != nil {
		return fmt.Errorf("lab: %s: add %s to %s: %w", n.name, addr, link, err)
	}
	if addr.Addr().Is4() {
		return nil
	}
	if li.Attrs().RawFlags&unix.IFF_RUNNING != 0 {
		return n.awaitLocal(addr.Addr())
	}
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.lab.unsettled = append(n.lab.unsettled, func() error { return n.awaitLocal(addr.Addr()) })
	return nil
}

// settleTime bounds the wait for the kernel to finish in the background what it was asked to do.
const settleTime = 5 * time.Second

// awaitLocal waits until the kernel takes packets for an address as its own: for IPv6 that is left to a worker.
func (n *Namespace) awaitLocal(addr netip.Addr) error {
	for deadline := time.Now().Add(settleTime); ; time.Sleep(time.Millisecond) {
		routes, err := n.handle.RouteGet(addr.AsSlice())
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("lab: %s: address %s is not in use after %s; is its link running?", n.name, addr, settleTime)
		}
	}
}

// AddRoute adds a route. An invalid via makes dst on-link; an empty link lets the kernel choose by via.
func (n *Namespace) AddRoute(dst netip.Prefix, via netip.Addr, link string) error {
	r := &netlink.Route{Dst: ipNet(dst.Masked())}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	if link != "" {
		li, err := n.link(link)
		if err != nil {
			return err
		}
		r.LinkIndex = li.Attrs().Index
	}
	if err := n.handle.RouteAdd(r); err != nil {
		return fmt.Errorf("lab: %s: route %s via %s: %w", n.name, dst, via, err)
	}
	return nil
}

// DefaultRoute sends everything of via's family to via.
func (n *Namespace) DefaultRoute(via netip.Addr) error {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if via.Is6() {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return n.AddRoute(all, via, "")
}

// Up sets a link up.
func (n *Namespace) Up(link string) error { return n.set(link, "up", n.handle.LinkSetUp) }

// Down sets a link down; its routes go with it.
func (n *Namespace) Down(link string) error { return n.set(link, "down", n.handle.LinkSetDown) }

func (n *Namespace) set(link, what string, do func(netlink.Link) error) error {
	li, err := n.link(link)
	if err != nil {
		return err
	}
	if err := do(li); err != nil {
		return fmt.Errorf("lab: %s: set %s %s: %w", n.name, link, what, err)
	}
	return nil
}

func (n *Namespace) link(name string) (netlink.Link, error) {
	li, err := n.handle.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: link %s: %w", n.name, name, err)
	}
	return li, nil
}

// Netlink is the namespace's routing netlink handle, for what has no method here. The lab closes it.
func (n *Namespace) Netlink() *netlink.Handle { return n.handle }

// Sysctl sets a per-namespace sysctl such as net.ipv4.ip_forward. Interface names with dots are not
// expressible; write those with slashes.
func (n *Namespace) Sysctl(key, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile(sysctlPath(key), []byte(value), 0); err != nil {
			return fmt.Errorf("lab: %s: sysctl %s=%s: %w", n.name, key, value, err)
		}
		return nil
	})
}

// ReadSysctl returns the value of a per-namespace sysctl.
func (n *Namespace) ReadSysctl(key string) (value string, err error) {
	err = n.Do(func() error {
		b, err := os.ReadFile(sysctlPath(key))
		value = strings.TrimSpace(string(b))
		return err
	})
	return value, err
}

func sysctlPath(key string) string {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	return filepath.Join("/proc/sys", key)
}

// Listen opens a listener inside the namespace, as an application there would. The address must be a literal.
// The caller closes it.
func (n *Namespace) Listen(network, address string) (l net.Listener, err error) {
	return n.ListenConfig(new(net.ListenConfig), network, address)
}

// ListenConfig is Listen with socket options.
func (n *Namespace) ListenConfig(lc *net.ListenConfig, network, address string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// ListenPacket opens a packet socket (udp) inside the namespace. The caller closes it.
func (n *Namespace) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = n.Do(func() error {
		c, err = new(net.ListenConfig).ListenPacket(context.Background(), network, address)
		return err
	})
	return c, err
}

// Dial connects from inside the namespace, as an application there would. The address must be a literal:
// a resolver would run outside. A nil dialer is the zero one. One thread is held while it connects.
func (n *Namespace) Dial(ctx context.Context, d *net.Dialer, network, address string) (c net.Conn, err error) {
	if d == nil {
		d = new(net.Dialer)
	}
	err = n.Do(func() error {
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
