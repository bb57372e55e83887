package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/capture"
)

// acceptLoop hands the connections of l to serve, each in a goroutine of its
// own, until l is closed. The connections outlive it. Each has a place in
// opening, which serve frees when the connection is open or has failed.
func (p *Proxy) acceptLoop(ctx context.Context, sp *servedPod, l net.Listener, opening places, serve func(sp *servedPod, c *net.TCPConn, dst netip.AddrPort)) error {
	defer l.Close()
	return acceptAll(ctx, l, p.log, func(c net.Conn) {
		tcp := tcpConn(c)
		if tcp == nil {
			p.log.Error("dropped a connection that is not TCP", "listener", l.Addr().String(), "type", fmt.Sprintf("%T", c))
			c.Close()
			return
		}
		if !sp.inflight.enter() {
			reset(tcp)
			return
		}
		if !p.startOpening(sp, opening) {
			sp.inflight.leave()
			reset(tcp)
			return
		}
		go func() {
			defer sp.inflight.leave()
			serve(sp, tcp, addrPort(c.LocalAddr()))
		}()
	})
}

// startOpening waits for a place; false if the pod's connections have to end
// meanwhile.
func (p *Proxy) startOpening(sp *servedPod, opening places) bool {
	select {
	case opening <- struct{}{}:
		return true
	default:
	}
	p.tel.Overload("accept")
	select {
	case opening <- struct{}{}:
		return true
	case <-sp.hard.Done():
		return false
	}
}

// acceptAll calls handle for each connection of l until l is closed. A passing
// shortage, of descriptors above all, makes it pause instead of spin.
func acceptAll(ctx context.Context, l net.Listener, log *slog.Logger, handle func(net.Conn)) error {
	const shortest, longest = 5 * time.Millisecond, time.Second
	pause := shortest
	for {
		c, err := l.Accept()
		if err == nil {
			pause = shortest
			handle(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if !passing(err) {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		log.Warn("cannot accept connections; trying again",
			"listener", l.Addr().String(), "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, longest)
	}
}

// tcpConn is the TCP connection that c is or embeds, which splice(2) wants bare;
// nil if there is none.
func tcpConn(c net.Conn) *net.TCPConn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *capture.Conn:
		return c.TCPConn
	}
	return nil
}

// passing reports whether accept(2) may succeed when it is tried again.
func passing(err error) bool {
	for _, e := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		// Of the connection, not of the listener: accept(2), "Error handling".
		syscall.ECONNABORTED, syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN,
		syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// addrPort is a TCP address as a value, IPv4 never in its IPv6 form.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
