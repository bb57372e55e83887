package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// appAnswer is how long an app leg in mode B may stay unanswered before mode A is tried. The leg never leaves
// the machine: a listening port answers its SYN, and a closed one refuses it, in microseconds.
const appAnswer = 250 * time.Millisecond

// errNoAnswer is the cause of an app leg that was given up in mode B.
var errNoAnswer = errors.New("no answer over lo")

// Dial connects from the pod's network namespace onto the wire. The socket is marked, so it is not captured.
// Cancelling ctx aborts it with a reset. Errors are *net.OpError. The caller closes the connection.
func (p *Pod) Dial(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error) {
	return p.dial(ctx, netip.Addr{}, unmap(dst), MarkAgent)
}

// DialApp connects to an app of the pod at one of the pod's own addresses, with src, the client's address, as
// source address; the source port is not the client's. An invalid src, or one equal to dst's address, leaves
// the source to the kernel. If the source cannot be had the dial fails: an app must not see a false one.
//
// Mode B marks the socket so that the app's replies carry the mark and stay inside without conntrack. It
// cannot work toward an app that puts a mark of its own on its listener; such a port is noticed by its
// silence and served in mode A from then on. Errors are *net.OpError. The caller closes the connection.
func (p *Pod) DialApp(ctx context.Context, src netip.Addr, dst netip.AddrPort) (*net.TCPConn, error) {
	src, dst = src.Unmap(), unmap(dst)
	if !src.IsValid() || src == dst.Addr() {
		return p.dial(ctx, netip.Addr{}, dst, MarkAgent)
	}
	if src.Is4() != dst.Addr().Is4() {
		return nil, dialError(dst, fmt.Errorf("source %s is not of the destination's address family", src))
	}
	if !p.markAccept.Load() || p.marked.has(dst.Port()) {
		return p.dial(ctx, src, dst, MarkAgent)
	}
	short, cancel := context.WithTimeoutCause(ctx, appAnswer, errNoAnswer)
	c, err := p.dial(short, src, dst, MarkAppLeg)
	cancel()
	if !errors.Is(err, errNoAnswer) {
		return c, err
	}
	c, err = p.dial(ctx, src, dst, MarkAgent)
	if err == nil {
		p.marked.add(dst.Port())
		p.logger.Info("app does not answer marked connections, it may set SO_MARK on its listener; using conntrack marks for this port",
			"netns", p.netns.String(), "port", dst.Port())
	}
	return c, err
}

// portSet remembers ports; it holds at most all of them.
type portSet struct {
	mu    sync.Mutex
	ports map[uint16]struct{}
}

func (s *portSet) has(port uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.ports[port]
	return ok
}

func (s *portSet) add(port uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports == nil {
		s.ports = make(map[uint16]struct{})
	}
	s.ports[port] = struct{}{}
}

func (p *Pod) dial(ctx context.Context, src netip.Addr, dst netip.AddrPort, mark int) (*net.TCPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, dialError(dst, err)
	}
	family := unix.AF_INET
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := p.netns.socket(family)
	if err != nil {
		if errors.Is(err, os.ErrClosed) {
			err = net.ErrClosed
		}
		return nil, dialError(dst, err)
	}
	f := os.NewFile(uintptr(fd), "dial "+dst.String())
	defer f.Close() // the connection is a duplicate
	if err := setsockopts(fd, sockopt{unix.SOL_SOCKET, unix.SO_MARK, mark}); err != nil {
		return nil, dialError(dst, err)
	}
	if src.IsValid() {
		if err := bindForeign(fd, src, mark); err != nil {
			return nil, dialError(dst, err)
		}
	}
	if err := connect(ctx, f, dst); err != nil {
		// Where the handshake has completed meanwhile, the peer must not take it for a connection.
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		return nil, dialError(dst, err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, dialError(dst, err)
	}
	return c.(*net.TCPConn), nil
}

// bindForeign gives a socket a source address that is not the pod's.
func bindForeign(fd int, src netip.Addr, mark int) error {
	opts := []sockopt{{unix.SOL_IP, unix.IP_TRANSPARENT, 1}, {unix.SOL_IP, unix.IP_FREEBIND, 1}}
	if src.Is6() {
		opts = []sockopt{{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}, {unix.SOL_IPV6, unix.IPV6_FREEBIND, 1}}
	}
	if mark == MarkAppLeg {
		// connect then picks a port that is free toward this destination only. In mode A bind must pick it:
		// it picks odd ports where clients' connect picks even ones, so that tuples of the two directions,
		// which conntrack does not tell apart, do not meet.
		opts = append(opts, sockopt{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1})
	}
	if err := setsockopts(fd, opts...); err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(src, 0))); err != nil {
		return fmt.Errorf("use the client's address %s as source: %w", src, os.NewSyscallError("bind", err))
	}
	return nil
}

// connect starts a connection and waits for it outside any lock, on the runtime's poller.
func connect(ctx context.Context, f *os.File, dst netip.AddrPort) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	started := false
	var sysErr error
	err = rc.Write(func(fd uintptr) (done bool) {
		if !started {
			started = true
			sysErr = unix.Connect(int(fd), sockaddr(dst))
			return sysErr != unix.EINPROGRESS
		}
		done, sysErr = connected(int(fd))
		return done
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(ctx)
		if errors.Is(err, errNoAnswer) {
			// On a busy machine the answer may be there, and only its reader late.
			done := false
			if e := control(f, func(fd int) (e error) { done, e = connected(fd); return e }); done {
				return os.NewSyscallError("connect", e)
			}
		}
	}
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", sysErr)
}

// connected tells whether a non-blocking connect is over, and how it ended. To be woken is not yet an end.
func connected(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	return err != unix.ENOTCONN, nil
}

func dialError(dst netip.AddrPort, err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dst), Err: err}
}
