package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// backlog is what the kernel cuts down to the namespace's net.core.somaxconn. A full queue drops SYNs.
const backlog = 65535

// Pauses of an accept loop that has run out of something, such as file descriptors.
const (
	minAcceptPause = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// original finds the original destination of an accepted connection, or an error that says why it is refused.
type original func(*net.TCPConn) (netip.AddrPort, error)

// listener is the net.Listener of one capture port. It may have a socket per address family, so its accept
// loops hand connections over a channel. Accept returns an error only once it is closed.
type listener struct {
	port     uint16
	sockets  []*net.TCPListener
	original original
	logger   *slog.Logger
	refused  atomic.Uint64

	conns  chan *Conn
	closed chan struct{}
	once   sync.Once
	loops  sync.WaitGroup
}

// listen opens addrs, all of one port, inside the namespace and starts accepting. Addresses of a family that
// the kernel does not have are left out.
func listen(n *Netns, logger *slog.Logger, orig original, addrs ...netip.AddrPort) (*listener, error) {
	l := &listener{
		port:     addrs[0].Port(),
		original: orig,
		logger:   logger,
		conns:    make(chan *Conn),
		closed:   make(chan struct{}),
	}
	for _, addr := range addrs {
		sock, err := listenSocket(n, addr)
		if errors.Is(err, unix.EAFNOSUPPORT) && addr.Addr().Is6() {
			if addr.Addr() != netip.IPv6Unspecified() {
				continue
			}
			sock, err = listenSocket(n, netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()))
		}
		if err != nil {
			l.closeSockets()
			return nil, listenError(n, addr, err)
		}
		l.sockets = append(l.sockets, sock)
	}
	for _, sock := range l.sockets {
		l.loops.Go(func() { l.acceptLoop(sock) })
	}
	return l, nil
}

func listenError(n *Netns, addr netip.AddrPort, err error) error {
	err = fmt.Errorf("listen on %s in network namespace %s: %w", addr, n, err)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("%w; another agent or ztunnel still serves this pod, or an app in it has the port: look for it with `nsenter --net=%s ss -ltnp 'sport = :%d'`",
			err, n.path(), addr.Port())
	}
	return err
}

// listenSocket opens one listening socket. It is not MPTCP, on which the kernel refuses SO_ORIGINAL_DST, and
// not REUSEPORT, with which an app of the same user could take a share of the connections.
func listenSocket(n *Netns, addr netip.AddrPort) (*net.TCPListener, error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := n.socket(family)
	if err != nil {
		return nil, err
	}
	// The file closes fd; FileListener works on a duplicate.
	f := os.NewFile(uintptr(fd), "listener "+strconv.Itoa(int(addr.Port())))
	defer f.Close()

	set := []sockopt{
		// Connections of an agent that died must not keep its successor from listening.
		{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		// Accepted sockets inherit the mark; the rules know our replies by it.
		{unix.SOL_SOCKET, unix.SO_MARK, MarkAgent},
	}
	if family == unix.AF_INET6 {
		v6only := 0
		if addr.Addr() != netip.IPv6Unspecified() {
			v6only = 1
			// ::1 may be absent from lo today and back tomorrow.
			set = append(set, sockopt{unix.SOL_IPV6, unix.IPV6_FREEBIND, 1})
		}
		set = append(set, sockopt{unix.SOL_IPV6, unix.IPV6_V6ONLY, v6only})
	}
	if err := setsockopts(fd, set...); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, sockaddr(addr)); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// acceptLoop accepts until the socket is closed. Nothing a peer or the system does ends it: an agent that
// stopped accepting would leave the pod without a network.
func (l *listener) acceptLoop(sock *net.TCPListener) {
	pause := minAcceptPause
	for {
		c, err := sock.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if !l.acceptFailed(err, pause) {
				return
			}
			pause = min(2*pause, maxAcceptPause)
			continue
		}
		pause = minAcceptPause
		dst, err := l.original(c)
		if err != nil {
			l.refuse(c, err)
			continue
		}
		select {
		case l.conns <- &Conn{TCPConn: c, dst: dst}:
		case <-l.closed:
			reset(c)
			return
		}
	}
}

// acceptFailed waits before the next try, and reports whether there is to be one.
func (l *listener) acceptFailed(err error, pause time.Duration) bool {
	if errors.Is(err, unix.ECONNABORTED) {
		return true // the peer gave up while it was queued
	}
	l.logger.Warn("accept paused; if this is EMFILE raise the agent's open files limit (LimitNOFILE)",
		"port", l.port, "error", err, "pause", pause)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.closed:
		return false
	}
}

func (l *listener) refuse(c *net.TCPConn, err error) {
	l.refused.Add(1)
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.logger.Debug("connection refused", "port", l.port, "peer", c.RemoteAddr().String(), "error", err)
	}
	reset(c)
}

// Accept waits for the next captured connection, always a *Conn.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close ends the accept loops and waits for them. Connections that were queued are reset.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.closeSockets()
		l.loops.Wait()
	})
	return nil
}

func (l *listener) closeSockets() {
	for _, sock := range l.sockets {
		_ = sock.Close()
	}
}

// Addr is the first address listened on.
func (l *listener) Addr() net.Addr { return l.sockets[0].Addr() }

// outboundOriginal accepts what OUTPUT redirected.
func outboundOriginal(c *net.TCPConn) (netip.AddrPort, error) { return originalDst(c) }

// inboundOriginal accepts what PREROUTING redirected, except to our own ports: an app leg to one of those
// would end in this agent again.
func inboundOriginal(c *net.TCPConn) (netip.AddrPort, error) {
	dst, err := originalDst(c)
	if err != nil {
		return dst, err
	}
	switch dst.Port() {
	case PortOutbound, PortInbound, PortHBONE, PortDNS:
		return netip.AddrPort{}, fmt.Errorf("port %d belongs to the agent, not to the pod", dst.Port())
	}
	return dst, nil
}

// directOriginal is for 15008, which is reached without NAT and without conntrack.
func directOriginal(c *net.TCPConn) (netip.AddrPort, error) {
	return unmap(c.LocalAddr().(*net.TCPAddr).AddrPort()), nil
}

// reset closes a connection so that the peer sees a reset rather than a clean end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

type sockopt struct{ level, name, value int }

func setsockopts(fd int, opts ...sockopt) error {
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			err = os.NewSyscallError("setsockopt", err)
			if errors.Is(err, unix.EPERM) {
				return fmt.Errorf("%w; the agent needs CAP_NET_ADMIN in the pod's network namespace", err)
			}
			return err
		}
	}
	return nil
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}
