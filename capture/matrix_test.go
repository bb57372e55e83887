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
)

const appPort = 8080

// matrix runs a test in both modes over both families, in a world of its own each.
func matrix(t *testing.T, f func(w *world, fam v, mode func(*agent))) {
	bothModes(t, func(t *testing.T, mode func(*agent)) {
		bothFamilies(t, func(t *testing.T, fam v) { f(newWorld(t), fam, mode) })
	})
}

func TestInboundCaptured(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		w.app(w.b, fam.port(w.b, appPort))
		c := w.mustCall("app sees the client, not the agent", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.alive("bytes go both ways", c)
		b.wantOne("plaintext from the wire goes through 15006", capture.PortInbound, fam.of(w.c), fam.port(w.b, appPort))
	})
}

func TestOutboundCaptured(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		a := w.enrol(w.a, capture.Rules{})
		mode(a)
		w.app(w.c, fam.port(w.c, appPort))
		w.mustCall("an uncaptured server sees the pod", w.a, fam.port(w.c, appPort), fam.of(w.a))
		got := a.saw(capture.PortOutbound)
		if len(got) != 1 || got[0].original != fam.port(w.c, appPort) {
			w.t.Errorf("arrived at 15001: %v; want one meant for %s", got, fam.port(w.c, appPort))
		}
	})
}

func TestBothEndsCaptured(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		a, b := w.enrol(w.a, capture.Rules{}), w.enrol(w.b, capture.Rules{})
		mode(a)
		mode(b)
		w.app(w.b, fam.port(w.b, appPort))
		w.mustCall("client address survives two agents", w.a, fam.port(w.b, appPort), fam.of(w.a))
		b.wantOne("the server side captures too", capture.PortInbound, fam.of(w.a), fam.port(w.b, appPort))
		if n := len(a.saw(capture.PortOutbound)); n != 1 {
			w.t.Errorf("%d connections arrived at 15001, want 1", n)
		}
	})
}

// marked dials with a forged mark, as an app with NET_RAW can.
func marked(mark int) *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
		return err
	}}
}

func TestMarkSkipsOutboundOnly(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a, b := w.enrol(w.a, capture.Rules{}), w.enrol(w.b, capture.Rules{})
		w.app(w.b, fam.port(w.b, appPort))
		if _, err := w.call(w.a, marked(capture.MarkAgent), fam.port(w.b, appPort)); err != nil {
			t.Fatal(err)
		}
		a.wantNone("the agent's mark is not captured on the way out")
		b.wantOne("no mark skips the server's side", capture.PortInbound, fam.of(w.a), fam.port(w.b, appPort))
	})
}

func TestInsidePodIsDirect(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a := w.enrol(w.a, capture.Rules{})
		w.app(w.a, netip.AddrPortFrom(netip.IPv6Unspecified(), appPort))
		w.mustCall("own address", w.a, fam.port(w.a, appPort), fam.of(w.a))
		w.mustCall("loopback", w.a, netip.AddrPortFrom(fam.loopback(), appPort), fam.loopback())
		a.wantNone("connections inside the pod")
	})
}

func TestHBONEIsDirectAndUntracked(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a, b := w.enrol(w.a, capture.Rules{}), w.enrol(w.b, capture.Rules{})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := a.pod.Dial(ctx, fam.port(w.b, capture.PortHBONE))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		echo(t, c)
		b.wantOne("15008 is reached without NAT", capture.PortHBONE, fam.of(w.a), fam.port(w.b, capture.PortHBONE))
		for _, ns := range []*agent{a, b} {
			ns.wantUntracked("a tunnel", capture.PortHBONE)
		}
	})
}

func echo(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatalf("write: %v", err)
	}
	buf := make([]byte, 4)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
}

func TestAppLegTracking(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		w.app(w.b, fam.port(w.b, appPort))
		c := w.mustCall("connect", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.alive("connect", c)
		want := 2
		if b.pod.UsesMarkAccept() {
			want = 1
		}
		if n := b.tracked(appPort); n != want {
			w.t.Errorf("conntrack has %d entries for one captured connection, want %d", n, want)
		}
	})
}

func TestClosedAppPortIsRefusedAtOnce(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		start := time.Now()
		err := w.mustNotCall("nobody listens", w.c, fam.port(w.b, appPort))
		if !errors.Is(err, unix.ECONNRESET) && err == nil {
			w.t.Errorf("the client sees %v, want a reset", err)
		}
		w.eventually("the agent's dial ends", func() bool { return len(b.errors()) == 1 })
		if e := b.errors(); len(e) != 1 || !errors.Is(e[0], unix.ECONNREFUSED) {
			w.t.Errorf("the agent sees %v, want ECONNREFUSED", e)
		}
		if d := time.Since(start); d >= impatience {
			w.t.Errorf("it took %s: the refusal did not come back over lo", d)
		}
	})
}

func TestOurPortsAreClosedToOthers(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{})
		refused := func(why string, err error) {
			t.Helper()
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v, want to be refused by the kernel", why, err)
			}
		}
		refused("15006 from outside", w.mustNotCall("from outside", w.c, fam.port(w.b, capture.PortInbound)))
		for _, port := range []uint16{capture.PortOutbound, capture.PortInbound, capture.PortDNS} {
			refused("from inside", w.mustNotCall("from inside", w.b, netip.AddrPortFrom(fam.loopback(), port)))
			refused("from inside, own address", w.mustNotCall("from inside, own address", w.b, fam.port(w.b, port)))
		}
		if n := b.pod.Refused(); n != 0 {
			t.Errorf("%d connections came as far as the listeners", n)
		}
		if n, err := b.pod.Rejected(); err != nil || n == 0 {
			t.Errorf("the kernel counts %d rejected, %v", n, err)
		}
		// These are redirected to 15006 like any other, and refused there.
		w.mustNotCall("15001 from outside", w.c, fam.port(w.b, capture.PortOutbound))
		w.mustNotCall("15053 from outside", w.c, fam.port(w.b, capture.PortDNS))
		for _, mark := range []int{capture.MarkAgent, capture.MarkAppLeg} {
			if _, err := w.call(w.b, marked(mark), netip.AddrPortFrom(fam.loopback(), capture.PortOutbound)); err == nil {
				t.Errorf("an app marked %#x reached 15001 and was served", mark)
			}
		}
		b.wantNone("nothing reaches the agent by its own ports")
	})
}

func TestSecondaryAddress(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		second := netip.MustParsePrefix([]string{"10.244.0.33/24", "fd00:244::33/64"}[fam])
		w.must(w.b.AddAddr("eth0", second))
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		dst := netip.AddrPortFrom(second.Addr(), appPort)
		w.app(w.b, dst)
		w.mustCall("a second address of the pod", w.c, dst, fam.of(w.c))
		b.wantOne("its original destination is kept", capture.PortInbound, fam.of(w.c), dst)
	})
}
