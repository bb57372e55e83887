package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

// States of a TCP connection, from include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpClose       = 7
	tcpCloseWait   = 8
)

// tcpState asks the kernel, without touching the bytes or the pending error of
// the connection. A closed connection is in tcpClose.
func tcpState(c *net.TCPConn) int {
	rc, err := c.SyscallConn()
	if err != nil {
		return tcpClose
	}
	state := tcpClose
	_ = rc.Control(func(fd uintptr) { state = tcpStateOf(int(fd)) })
	return state
}

// socketError takes the pending error of the connection.
func socketError(c *net.TCPConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var pending error
	err = rc.Control(func(fd uintptr) {
		if code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			pending = unix.Errno(code)
		}
	})
	if err != nil {
		return err
	}
	return pending
}

func tcpStateOf(fd int) int {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return tcpEstablished // nothing is known against it
	}
	return int(info.State)
}
