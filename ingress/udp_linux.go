package ingress

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oobSize holds the control message of one packet.
var oobSize = unix.CmsgSpace(unix.SizeofInet6Pktinfo)

// socketBuffer is asked for on UDP sockets: bursts of small datagrams are lost
// else. Without CAP_NET_ADMIN the kernel gives net.core.rmem_max at most.
const socketBuffer = 4 << 20

func raiseBuffers(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer)
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, socketBuffer)
		}
	})
}

// askDestination makes the kernel tell which address a datagram was sent to, so
// that the reply can come from there: a client takes it from nobody else.
func askDestination(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		domain, derr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if serr = derr; serr != nil {
			return
		}
		if domain == unix.AF_INET6 {
			serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			return
		}
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	})
	if err != nil {
		return err
	}
	return serr
}

// destination is the address in a control message. The zero value if there is
// none.
func destination(oob []byte) netip.Addr {
	for len(oob) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}
		}
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(data[8:12]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			addr := netip.AddrFrom16([16]byte(data[:16]))
			if addr.IsMulticast() || addr.IsLinkLocalUnicast() {
				return netip.Addr{} // no source, or one that needs an interface
			}
			return addr
		}
		oob = rest
	}
	return netip.Addr{}
}

// source is the control message that makes a datagram leave from addr.
func source(addr netip.Addr) []byte {
	level, typ, size, at := unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo, 0
	switch {
	case !addr.IsValid():
		return nil
	case addr.Is4():
		level, typ, size, at = unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo, 4
	}
	b := make([]byte, unix.CmsgSpace(size))
	if unsafe.Sizeof(uintptr(0)) == 8 { // size_t of cmsg_len
		binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(size)))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(unix.CmsgLen(size)))
	}
	head := unix.CmsgLen(0)
	binary.NativeEndian.PutUint32(b[head-8:], uint32(level))
	binary.NativeEndian.PutUint32(b[head-4:], uint32(typ))
	copy(b[head+at:], addr.AsSlice())
	return b
}

var datagrams = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// receive waits for one datagram of c. A session that waits holds no buffer.
func receive(c net.Conn, take func([]byte)) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		buf := datagrams.Get().(*[maxDatagram]byte)
		defer datagrams.Put(buf)
		n, err := c.Read(buf[:])
		if err == nil {
			take(buf[:n])
		}
		return err
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		buf := datagrams.Get().(*[maxDatagram]byte)
		defer datagrams.Put(buf)
		var n int
		for {
			if n, rerr = unix.Read(int(fd), buf[:]); rerr != unix.EINTR {
				break
			}
		}
		if rerr == nil {
			take(buf[:n])
		}
		return rerr != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return rerr
}
