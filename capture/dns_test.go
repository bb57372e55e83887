package capture_test

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
)

// markedPacket is a packet socket with the agent's mark, as a DNS proxy's are.
func (w *world) markedPacket(pod *agent, addr netip.AddrPort) net.PacketConn {
	w.t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, capture.MarkAgent) })
		return err
	}}
	var c net.PacketConn
	w.must(pod.pod.Netns().Do(func() (err error) {
		c, err = lc.ListenPacket(context.Background(), "udp", addr.String())
		return err
	}))
	w.t.Cleanup(func() { c.Close() })
	return c
}

// The proxy forwards a query from the port that the app used, the worst case for conntrack.
func TestDNSCaptured(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a := w.enrol(w.a, capture.Rules{DNS: true})
		server, err := w.c.ListenPacket("udp", fam.port(w.c, 53).String())
		w.must(err)
		defer server.Close()
		proxy := w.markedPacket(a, netip.AddrPortFrom(fam.loopback(), capture.PortDNS))

		const port = 45000
		app, err := w.a.ListenPacket("udp", fam.port(w.a, port).String())
		w.must(err)
		defer app.Close()
		real := net.UDPAddrFromAddrPort(fam.port(w.c, 53))
		_, err = app.WriteTo([]byte("query"), real)
		w.must(err)
		buf := make([]byte, 64)
		_ = proxy.SetReadDeadline(time.Now().Add(patience))
		n, from, err := proxy.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "query" {
			t.Fatalf("the proxy was not asked: %q, %v", buf[:n], err)
		}

		w.must(app.Close()) // its port is free for the proxy; conntrack still knows it
		upstream := w.markedPacket(a, fam.port(w.a, port))
		_, err = upstream.WriteTo([]byte("forwarded"), real)
		w.must(err)
		_ = server.SetReadDeadline(time.Now().Add(patience))
		n, who, err := server.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "forwarded" {
			t.Fatalf("the real server was not asked: %q, %v", buf[:n], err)
		}
		_, err = server.WriteTo([]byte("answer"), who)
		w.must(err)
		_ = upstream.SetReadDeadline(time.Now().Add(patience))
		if n, _, err = upstream.ReadFrom(buf); err != nil || string(buf[:n]) != "answer" {
			t.Fatalf("the proxy has no answer: %q, %v", buf[:n], err)
		}
		w.must(upstream.Close())

		again, err := w.a.ListenPacket("udp", fam.port(w.a, port).String())
		w.must(err)
		defer again.Close()
		_, err = proxy.WriteTo([]byte("answer"), from)
		w.must(err)
		_ = again.SetReadDeadline(time.Now().Add(patience))
		n, sender, err := again.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "answer" {
			t.Fatalf("the app has no answer: %q, %v", buf[:n], err)
		}
		if got := sender.(*net.UDPAddr).AddrPort(); netip.AddrPortFrom(got.Addr().Unmap(), got.Port()) != fam.port(w.c, 53) {
			t.Errorf("the answer comes from %s, want the server that was asked", got)
		}
	})
}

func TestDNSOverTCPCaptured(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		w.enrol(w.a, capture.Rules{DNS: true})
		w.app(w.a, netip.AddrPortFrom(fam.loopback(), capture.PortDNS))
		w.mustCall("the DNS proxy answers for any server", w.a, fam.port(w.c, 53), fam.of(w.a))
	})
}

func TestDNSLeftAlone(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		w.enrol(w.a, capture.Rules{})
		server, err := w.c.ListenPacket("udp", fam.port(w.c, 53).String())
		w.must(err)
		defer server.Close()
		app, err := w.a.ListenPacket("udp", fam.port(w.a, 0).String())
		w.must(err)
		defer app.Close()
		_, err = app.WriteTo([]byte("query"), net.UDPAddrFromAddrPort(fam.port(w.c, 53)))
		w.must(err)
		_ = server.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 16)
		if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "query" {
			t.Errorf("without Rules.DNS a query goes to its server: %q, %v", buf[:n], err)
		}
	})
}

// R3: an answer to the proxy must leave no trace in conntrack that an app's later query would follow out.
func TestDNSPortOfProxyReusedByApp(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a := w.enrol(w.a, capture.Rules{DNS: true})
		server, err := w.c.ListenPacket("udp", fam.port(w.c, 53).String())
		w.must(err)
		defer server.Close()
		proxy := w.markedPacket(a, netip.AddrPortFrom(fam.loopback(), capture.PortDNS))
		real := net.UDPAddrFromAddrPort(fam.port(w.c, 53))
		buf := make([]byte, 64)

		upstream := w.markedPacket(a, fam.port(w.a, 45000))
		_, err = upstream.WriteTo([]byte("forwarded"), real)
		w.must(err)
		_ = server.SetReadDeadline(time.Now().Add(patience))
		_, who, err := server.ReadFrom(buf)
		w.must(err)
		_, err = server.WriteTo([]byte("answer"), who)
		w.must(err)
		_ = upstream.SetReadDeadline(time.Now().Add(patience))
		_, _, err = upstream.ReadFrom(buf)
		w.must(err)
		w.must(upstream.Close())
		a.wantUntracked("the proxy's query", 53)

		app, err := w.a.ListenPacket("udp", fam.port(w.a, 45000).String())
		w.must(err)
		defer app.Close()
		_, err = app.WriteTo([]byte("query"), real)
		w.must(err)
		_ = proxy.SetReadDeadline(time.Now().Add(patience))
		if n, _, err := proxy.ReadFrom(buf); err != nil || string(buf[:n]) != "query" {
			t.Errorf("the app's query went past the proxy: %q, %v", buf[:n], err)
		}
	})
}
