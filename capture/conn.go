package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Conn is an accepted connection of a pod. It embeds *net.TCPConn, so half-close, linger and splice(2) work;
// only LocalAddr differs: it is the destination that the client meant.
type Conn struct {
	*net.TCPConn
	dst netip.AddrPort
}

// OriginalDst is the destination that the client meant, before any redirect.
func (c *Conn) OriginalDst() netip.AddrPort { return c.dst }

// LocalAddr is OriginalDst as a *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.dst) }

// errNotRedirected refuses a connection that reached a capture port without having been captured.
var errNotRedirected = errors.New("not a captured connection")

// originalDst asks conntrack where a redirected connection was headed.
func originalDst(c *net.TCPConn) (netip.AddrPort, error) {
	local := unmap(c.LocalAddr().(*net.TCPAddr).AddrPort())
	rc, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	var sysErr error
	err = rc.Control(func(fd uintptr) {
		if local.Addr().Is4() {
			dst, sysErr = originalDst4(int(fd))
		} else {
			dst, sysErr = originalDst6(int(fd))
		}
	})
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case errors.Is(sysErr, unix.ENOENT):
		return netip.AddrPort{}, fmt.Errorf("%w: conntrack does not know it", errNotRedirected)
	case sysErr != nil:
		return netip.AddrPort{}, fmt.Errorf("ask conntrack for the original destination: %w", sysErr)
	case dst == local:
		// Dialling this would reach our own listener, and so on until descriptors run out.
		return netip.AddrPort{}, fmt.Errorf("%w: it was made to %s itself", errNotRedirected, local)
	}
	return dst, nil
}

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv{4,6}.
const soOriginalDst = 80

func originalDst4(fd int) (netip.AddrPort, error) {
	// ipv6_mreq is any struct of at least sizeof(sockaddr_in): port at 2, address at 4.
	raw, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := raw.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3])), nil
}

func originalDst6(fd int) (netip.AddrPort, error) {
	// ip6_mtuinfo begins with a sockaddr_in6; its port is stored in network order.
	info, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), ntohs(info.Addr.Port)), nil
}

func ntohs(v uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], v)
	return binary.BigEndian.Uint16(b[:])
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
