package capture_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

// R2: what a client chooses, its port, must not decide whether it is captured.
func TestClientOnTunnelPortIsCaptured(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		w.app(w.b, fam.port(w.b, appPort))
		from := net.TCPAddrFromAddrPort(fam.port(w.c, capture.PortHBONE))
		c, err := w.call(w.c, &net.Dialer{LocalAddr: from}, fam.port(w.b, appPort))
		if err != nil {
			w.t.Fatalf("a client may use source port 15008: %v", err)
		}
		w.alive("from port 15008", c)
		b.wantOne("a client on port 15008", capture.PortInbound, fam.of(w.c), fam.port(w.b, appPort))
	})
}

// R28 stands by itself: with the trap of R2 sprung, the client is refused rather than let in uncaptured.
func TestGuardWithoutSocketMatch(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{})
		w.must(b.pod.DropSocketMatch())
		w.app(w.b, fam.port(w.b, appPort))
		from := net.TCPAddrFromAddrPort(fam.port(w.c, capture.PortHBONE))
		if _, err := w.call(w.c, &net.Dialer{LocalAddr: from}, fam.port(w.b, appPort)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("got %v, want to be refused by the kernel", err)
		}
		b.wantNone("an untracked connection")
		if n, err := b.pod.Rejected(); err != nil || n == 0 {
			t.Errorf("the kernel counts %d rejected, %v", n, err)
		}
	})
}

// An agent's tunnel may end at a port that a client of the same pod uses, and the other way round.
func TestOutboundToTunnelPortIsCaptured(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a := w.enrol(w.a, capture.Rules{})
		w.app(w.c, fam.port(w.c, capture.PortHBONE))
		w.mustCall("an app's own connection to port 15008", w.a, fam.port(w.c, capture.PortHBONE), fam.of(w.a))
		if got := a.saw(capture.PortOutbound); len(got) != 1 {
			t.Errorf("arrived at 15001: %v, want one", got)
		}
	})
}

// R13 gives a stray segment a conntrack entry without NAT; a SYN on the same tuple must not profit from it.
func TestSegmentBeforeSyn(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{})
		w.app(w.b, fam.port(w.b, appPort))
		src := fam.port(w.c, 40000)
		w.inject(w.c, w.b, lab.Segment{Src: src, Dst: fam.port(w.b, appPort), Flags: lab.ACK, Seq: 1000, Ack: 2000})
		c, err := w.call(w.c, &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(src)}, fam.port(w.b, appPort))
		if err != nil {
			t.Logf("refused: %v", err) // R28 may refuse it; it must not let it in
		} else {
			w.alive("after a stray segment", c)
			b.wantOne("a SYN after a stray segment", capture.PortInbound, fam.of(w.c), fam.port(w.b, appPort))
		}
	})
}

// inject sends a segment onto the bridge from one pod to another.
func (w *world) inject(from, to *lab.Namespace, s lab.Segment) {
	w.t.Helper()
	src, err := from.HardwareAddr("eth0")
	w.must(err)
	dst, err := to.HardwareAddr("eth0")
	w.must(err)
	w.must(from.Inject("eth0", s.Frame(src, dst)))
}

// R8: without it the segment would reach a stack that knows no such connection, which answers with a reset.
func TestOutOfWindowSegment(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		sniff, err := w.node.Sniff("c")
		w.must(err)
		w.app(w.b, fam.port(w.b, appPort))
		c := w.mustCall("connect", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.alive("before", c)
		src := c.LocalAddr().(*net.TCPAddr).AddrPort()
		last, ok := sniff.WaitFor(patience, func(f lab.Frame) bool {
			s, ok := f.Segment()
			return ok && s.Src == src && len(s.Payload) > 0
		})
		if !ok {
			w.t.Fatal("the connection was not seen on the wire")
		}
		stray, _ := last.Segment()
		stray.Seq += 1 << 30
		stray.Ack += 1 << 30
		stray.Payload = []byte("out of window")
		for range 3 {
			w.inject(w.c, w.b, stray)
		}
		w.alive("after an out-of-window segment", c)
		for _, f := range sniff.Frames() {
			if s, ok := f.Segment(); ok && s.Flags&lab.RST != 0 {
				w.t.Errorf("reset on the wire: %s to %s", s.Src, s.Dst)
			}
		}
	})
}

// An app leg may come to use the very port that a captured client uses.
func TestPortClash(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		w.app(w.b, fam.port(w.b, appPort))
		c := w.mustCall("connect", w.c, fam.port(w.b, appPort), fam.of(w.c))
		m := capture.MarkAgent
		if b.pod.UsesMarkAccept() {
			m = capture.MarkAppLeg
		}
		spoof := &net.Dialer{
			LocalAddr: c.LocalAddr(),
			Control: func(_, _ string, rc syscall.RawConn) (err error) {
				_ = rc.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, m)
					if fam == v4 {
						_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
					} else {
						_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
					}
				})
				return err
			},
		}
		ctx, cancel := context.WithTimeout(context.Background(), impatience)
		defer cancel()
		leg, err := w.callContext(ctx, w.b, spoof, fam.port(w.b, appPort))
		switch {
		case err == nil:
			w.alive("the leg", leg)
		case b.pod.UsesMarkAccept():
			w.t.Errorf("untracked legs cannot clash, but: %v", err)
		}
		w.alive("the client's connection", c)
	})
}

// An app that marks its own listener answers on the wire, so mode B hears nothing from it.
func TestAppThatMarksItsListener(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{})
		lc := &net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, 0x7000) })
			return err
		}}
		l, err := w.b.ListenConfig(lc, "tcp", fam.port(w.b, appPort).String())
		w.must(err)
		w.serveApp(l)
		w.mustCall("first connection", w.c, fam.port(w.b, appPort), fam.of(w.c))
		if !b.pod.Marked(appPort) {
			t.Error("the port is not remembered")
		}
		w.mustCall("second connection", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.app(w.b, fam.port(w.b, appPort+1))
		w.mustCall("another port", w.c, fam.port(w.b, appPort+1), fam.of(w.c))
		if b.pod.Marked(appPort + 1) {
			t.Error("an ordinary port lost mode B")
		}
	})
}

// Only TCP and the DNS proxy's port are ours; what others send there is dropped, whatever port it comes from.
func TestDNSProxyIsNotPublic(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		w.enrol(w.b, capture.Rules{DNS: true})
		proxy, err := w.b.ListenPacket("udp", netip.AddrPortFrom(netip.IPv6Unspecified(), capture.PortDNS).String())
		w.must(err)
		defer proxy.Close()
		for _, port := range []uint16{53, 5353} {
			c, err := w.c.ListenPacket("udp", fam.port(w.c, port).String())
			w.must(err)
			_, err = c.WriteTo([]byte("query"), net.UDPAddrFromAddrPort(fam.port(w.b, capture.PortDNS)))
			w.must(err)
			defer c.Close()
		}
		_ = proxy.SetReadDeadline(time.Now().Add(impatience))
		buf := make([]byte, 16)
		if n, from, err := proxy.ReadFrom(buf); err == nil {
			t.Errorf("the DNS proxy heard %q from %s", buf[:n], from)
		}
	})
}
