package proxy

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
)

// TestSlowReader: a destination that stops reading stops its own connection and
// no other.
func TestSlowReader(t *testing.T) {
	release := make(chan struct{})
	var got atomic.Int64
	app := func(c *net.TCPConn) {
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil {
			return
		}
		if first[0] != 's' {
			echo(c)
			return
		}
		<-release
		n, _ := io.Copy(io.Discard, c)
		got.Add(n)
	}
	ways(t, nil, app, func(t *testing.T, w *way) {
		release = make(chan struct{})
		got.Store(0)
		slow := w.dial()
		_, _ = slow.Write([]byte("s"))
		// Fill everything on the way until it stops moving.
		block := data(1<<20, 5)
		filled := int64(0)
		for {
			_ = slow.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := slow.Write(block)
			filled += int64(n)
			if err != nil {
				break
			}
			if filled > 256<<20 {
				t.Fatal("256 MiB went toward a destination that reads nothing")
			}
		}
		for range 3 {
			quick := w.dial()
			_, _ = quick.Write([]byte("q"))
			roundTrip(t, quick)
		}
		close(release)
		_ = slow.SetWriteDeadline(time.Time{})
		_ = slow.CloseWrite()
		_, _ = io.ReadAll(slow)
		eventually(t, "the slow one gets all", func() bool { return got.Load() == filled })
	})
}

// TestSlowReaderAtTheEnd: bytes that are on their way when both ends have ended
// their directions arrive, however late they are read.
func TestSlowReaderAtTheEnd(t *testing.T) {
	answer := data(512<<10, 9)
	app := func(c *net.TCPConn) {
		_, _ = io.ReadAll(c)
		_, _ = c.Write(answer)
	}
	ways(t, func(c *Config) { c.HalfCloseIdle = time.Hour }, app, func(t *testing.T, w *way) {
		c := w.dial()
		_ = c.SetReadBuffer(32 << 10)
		_ = c.CloseWrite()
		for range 50 { // no condition to wait for: nothing may happen
			w.sweepLater()
			time.Sleep(5 * time.Millisecond)
		}
		if got, err := io.ReadAll(c); err != nil || sum(got) != sum(answer) {
			t.Errorf("read %d of %d bytes, %v", len(got), len(answer), err)
		}
	})
}

// sweepLater is a sweep now and the next one that would find a connection lost.
func (w *way) sweepLater() {
	for _, n := range []*node{w.source, w.dest} {
		n.conns.sweep(time.Now(), time.Hour)
		n.conns.sweep(time.Now().Add(lostAfter), time.Hour)
	}
}

// TestLostAfterHalfClose: a client that half-closes and is then reset while its
// server is silent is noticed by the sweep.
func TestLostAfterHalfClose(t *testing.T) {
	app := func(c *net.TCPConn) {
		_, _ = c.Write([]byte{1})
		_, _ = io.ReadAll(c)
		for tcpState(c) != tcpClose { // until it is reset in turn
			time.Sleep(time.Millisecond)
		}
	}
	ways(t, nil, app, func(t *testing.T, w *way) {
		c := w.dial()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = c.CloseWrite()
		reset(c) // without a word: nobody reads this side any more
		eventually(t, "the connection is given up", func() bool {
			w.sweepLater()
			return w.source.Live(w.client.w.UID)+w.dest.Live(w.server.w.UID) == 0
		})
	})
}

// TestConcurrent: a thousand connections at a time, each with its own bytes,
// and nothing is left of them.
func TestConcurrent(t *testing.T) {
	const connections = 1000
	patient := func(c *Config) { c.DialTimeout = time.Minute } // a loaded machine with the race detector
	ways(t, patient, echo, func(t *testing.T, w *way) {
		roundTrip(t, w.dial()) // the tunnel stays; it is not of any connection
		eventually(t, "the first connection is over", func() bool { return openFiles(t) > 0 })
		files := openFiles(t)
		errs := make(chan error, connections)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range connections {
			wg.Go(func() {
				<-start
				errs <- echoOnce(w, data(4000+i, byte(i)))
			})
		}
		close(start)
		wg.Wait()
		close(errs)
		failed := 0
		for err := range errs {
			if err != nil {
				if failed == 0 {
					t.Error(err)
				}
				failed++
			}
		}
		if failed > 0 {
			reasons := make(map[string]int)
			for _, line := range append(w.source.log.all(), w.dest.log.all()...) {
				if line["error"] != nil {
					reasons[fmt.Sprint(line["direction"], ": ", line["error"])]++
				}
			}
			t.Errorf("%d of %d connections failed: %v", failed, connections, reasons)
		}
		pipes := w.source.pipes.unused() + w.dest.pipes.unused()
		eventually(t, "descriptors are closed", func() bool {
			return openFiles(t) <= files+2*pipes+32 // tunnels that the burst opened are kept a while
		})
		eventually(t, "only the first connection is live", func() bool { return w.source.Live(w.client.w.UID) <= 1 })
	})
}

func echoOnce(w *way, msg []byte) error {
	c, err := dialFrom(w.lab.t.Context(), w.client.w.Addresses[0], w.dst)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := c.Write(msg); err != nil {
		return err
	}
	_ = c.CloseWrite()
	got, err := io.ReadAll(c)
	if err == nil && sum(got) != sum(msg) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestIdlePassthrough: a silent connection that is joined in the kernel holds
// two sockets and no pipe.
func TestIdlePassthrough(t *testing.T) {
	w := newWay(t, "passthrough", nil, echo)
	c := w.dial()
	roundTrip(t, c)
	before := openFiles(t)
	const idle = 50
	for range idle {
		roundTrip(t, w.dial())
	}
	eventually(t, "pipes are given back", func() bool {
		// client, its accepted end, the upstream dial, the application's end
		return openFiles(t) <= before+4*idle+2*w.source.pipes.unused()
	}, func() string {
		return fmt.Sprintf("%d descriptors, %d before; %d unused pipes", openFiles(t), before, w.source.pipes.unused())
	})
	if free := w.source.pipes.unused(); free > 8 {
		t.Errorf("%d pipes for connections that come one after the other", free)
	}
}

// TestTunnelsAreNotShared: two pods of one identity have a tunnel each, since
// the peer takes the tunnel for the pod.
func TestTunnelsAreNotShared(t *testing.T) {
	l := newLab(t)
	svc := l.service("server")
	a, b, server := l.workload("client-a"), l.workload("client-b"), l.workload("server", svc)
	a.ServiceAccount, b.ServiceAccount = "shared", "shared"
	twin := *svc
	twin.Name, twin.Hostname = "twin", "twin.default.svc.cluster.local"
	twin.VIPs = []mesh.VIP{{Prefix: netip.PrefixFrom(l.addr(), 32)}}
	server.Services[twin.Key()] = twin.Ports
	l.world.Services = append(l.world.Services, &twin)
	l.apply()
	n := l.node(nil)
	vipA := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
	vipB := netip.AddrPortFrom(twin.VIPs[0].Prefix.Addr(), 80)
	podA, podB := n.serve(a, vipA), n.serve(b, vipB)
	n.serve(server, netip.AddrPortFrom(l.addr(), 80)).app(func(c *net.TCPConn) {
		_, _ = io.WriteString(c, addrPort(c.RemoteAddr()).Addr().String())
	})
	for p, vip := range map[*testPod]netip.AddrPort{podA: vipA, podB: vipB} {
		for range 3 {
			c := p.dial(vip)
			got, err := io.ReadAll(c)
			c.Close() // or its stream, half-closed, would hold the tunnel
			if want := p.w.Addresses[0].String(); err != nil || string(got) != want {
				t.Errorf("server saw %q (%v) for the pod at %s", got, err, want)
			}
		}
	}
	tunnels := n.Tunnels()
	if len(tunnels) != 2 || tunnels[0].Pod == tunnels[1].Pod {
		t.Errorf("want one tunnel for each of the two pods, have %+v", tunnels)
	}

	podA.stop()
	eventually(t, "the tunnel of a pod that is gone is closed", func() bool {
		ts := n.Tunnels()
		return len(ts) == 1 && ts[0].Pod == b.UID
	})
	if err := l.store.Apply(mesh.Update{RemovedWorkloads: []string{server.UID}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tunnel to a peer that is gone is closed", func() bool { return len(n.Tunnels()) == 0 })
}

// TestIdleGoroutines: what an open connection costs while it is silent.
func TestIdleGoroutines(t *testing.T) {
	for name, perConnection := range map[string]int{"hbone": 1, "passthrough": 2, "plaintext": 2, "local": 2} {
		t.Run(name, func(t *testing.T) {
			w := newWay(t, name, nil, func(c *net.TCPConn) { echo(c) })
			roundTrip(t, w.dial())
			before := runtime.NumGoroutine()
			const idle = 40
			for range idle {
				roundTrip(t, w.dial())
			}
			// The application has one for each of its own.
			want := before + idle*(perConnection+1)
			if name == "hbone" {
				want += idle // both agents are this process
			}
			eventually(t, "goroutines settle", func() bool { return runtime.NumGoroutine() <= want+4 },
				func() string { return "" })
		})
	}
}

// TestLocalDelivery: both ends of a connection that never left the agent are
// recorded, with the identities that the agent knows.
func TestLocalDelivery(t *testing.T) {
	w := newWay(t, "local", nil, echo)
	c := w.dial()
	roundTrip(t, c)
	eventually(t, "both ends are listed with the bytes so far", func() bool { // counted after they are moved
		list := w.source.Connections()
		for _, ci := range list {
			if ci.Mode != "local" || ci.Phase != PhaseOpen || ci.Sent != 1000 || ci.Received != 1000 {
				return false
			}
		}
		return len(list) == 2
	}, func() string { return fmt.Sprintf("%+v", w.source.Connections()) })
	_ = c.CloseWrite()
	_, _ = io.ReadAll(c)
	for _, direction := range []string{"inbound", "outbound"} {
		w.source.log.wait("both ends have a line", map[string]any{
			"direction": direction, "src.identity": w.client.w.Identity().String(), "dst.identity": w.server.w.Identity().String(),
		})
	}
	if n := len(w.source.Tunnels()); n != 0 {
		t.Errorf("%d tunnels for a connection that needs none", n)
	}
}

// TestStrict: a policy against plaintext resets it, and lets HBONE in.
func TestStrict(t *testing.T) {
	w := newWay(t, "hbone", nil, echo)
	if err := w.lab.store.Apply(mesh.Update{Policies: append(w.lab.world.Policies, strict())}); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, w.dial())
	if err := w.client.refused(w.server.inbound); err == nil {
		t.Error("plaintext to a strict workload was let in")
	}
	w.dest.log.wait("the refusal", map[string]any{"response_flags": "DENY", "src.addr": "~" + w.client.w.Addresses[0].String()})
}
