package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
)

// way is one of the ways a connection can go from a client to a server, built
// and ready.
type way struct {
	name           string
	lab            *lab
	client, server *testPod
	source, dest   *node
	dst            netip.AddrPort // what the client dials
	inbound        bool           // a policy of the server decides
}

// ways runs test once for each way, with app as the server's application.
func ways(t *testing.T, change func(*Config), app func(*net.TCPConn), test func(t *testing.T, w *way)) {
	each(t, []string{"hbone", "local", "passthrough", "plaintext"}, change, app, test)
}

// policedWays is ways without passthrough: no policy decides about unmeshed
// destinations.
func policedWays(t *testing.T, change func(*Config), app func(*net.TCPConn), test func(t *testing.T, w *way)) {
	each(t, []string{"hbone", "local", "plaintext"}, change, app, test)
}

func each(t *testing.T, names []string, change func(*Config), app func(*net.TCPConn), test func(t *testing.T, w *way)) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) { test(t, newWay(t, name, change, app)) })
	}
}

func newWay(t *testing.T, name string, change func(*Config), app func(*net.TCPConn)) *way {
	t.Helper()
	l := newLab(t)
	w := &way{name: name, lab: l, inbound: name != "passthrough"}
	svc := l.service("server")
	client, server := l.workload("client"), l.workload("server", svc)
	vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
	w.dst = vip
	unmeshed := netip.AddrPortFrom(l.addr(), 80)
	if name == "passthrough" {
		w.dst = unmeshed
	}
	l.apply()
	w.source = l.node(func(c *Config) {
		if change != nil {
			change(c)
		}
		if name == "local" {
			c.SameNode = SameNodeDirect
		}
	})
	w.dest = w.source
	if name == "hbone" {
		w.dest = l.node(change)
	}
	w.client = w.source.serve(client, w.dst)
	w.server = w.dest.serve(server, netip.AddrPortFrom(l.addr(), 80))
	switch name {
	case "passthrough":
		real := serveTCP(t, netip.AddrPortFrom(l.addr(), 8080), app)
		w.client.redirect(unmeshed, real)
	case "plaintext":
		w.dst = w.server.inbound
		w.server.app(app)
	default:
		w.server.app(app)
	}
	return w
}

// dial is a client's connection on its way.
func (w *way) dial() *net.TCPConn { return w.client.dial(w.dst) }

// TestBytesArrive sends both ways at once and compares hashes and counts.
func TestBytesArrive(t *testing.T) {
	ways(t, nil, echo, func(t *testing.T, w *way) {
		c := w.dial()
		sent := data(3<<20+17, 1)
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatalf("read the echo: %v", err)
		}
		if len(got) != len(sent) || sum(got) != sum(sent) {
			t.Fatalf("echo: %d bytes of hash %s, want %d of %s", len(got), sum(got), len(sent), sum(sent))
		}
		n := float64(len(sent))
		want := map[string]any{"bytes_sent": n, "bytes_recv": n, "error": nil}
		if w.name != "plaintext" {
			w.source.log.wait("the source's line has exact counts", merge(want, "direction", "outbound"))
		}
		if w.inbound {
			w.dest.log.wait("the destination's line has exact counts", merge(want, "direction", "inbound"))
		}
	})
}

func merge(m map[string]any, kv ...any) map[string]any {
	out := make(map[string]any)
	for k, v := range m {
		out[k] = v
	}
	for i := 0; i < len(kv); i += 2 {
		out[kv[i].(string)] = kv[i+1]
	}
	return out
}

// TestSourceAddress: the application sees the client's address.
func TestSourceAddress(t *testing.T) {
	app := func(c *net.TCPConn) {
		_, _ = io.WriteString(c, addrPort(c.RemoteAddr()).Addr().String())
	}
	ways(t, nil, app, func(t *testing.T, w *way) {
		got, err := io.ReadAll(w.dial())
		if want := w.client.w.Addresses[0].String(); err != nil || string(got) != want {
			t.Errorf("the application saw %q (%v), want the client's own %s", got, err, want)
		}
	})
}

// TestForeignSourceAddress: a process may give its socket any address that its
// pod has, 127.0.0.1 among them, and no application on the node is told that
// the connection comes from there.
func TestForeignSourceAddress(t *testing.T) {
	app := func(c *net.TCPConn) {
		_, _ = io.WriteString(c, addrPort(c.RemoteAddr()).Addr().String())
	}
	for _, name := range []string{"hbone", "local"} {
		t.Run(name, func(t *testing.T) {
			w := newWay(t, name, nil, app)
			c := dialClient(t, netip.MustParseAddr("127.0.0.1"), w.dst)
			got, err := io.ReadAll(c)
			if want := w.client.w.Addresses[0].String(); err != nil || string(got) != want {
				t.Errorf("the application saw %q (%v), want the client's own %s: the socket's address is not the pod's", got, err, want)
			}
		})
	}
}

// TestHalfClose: either side may end first, and the other goes on.
func TestHalfClose(t *testing.T) {
	big := data(1<<20, 2)
	t.Run("client first", func(t *testing.T) {
		app := func(c *net.TCPConn) {
			got, _ := io.ReadAll(c) // ends only by the client's half-close
			if sum(got) == sum(big) {
				_, _ = c.Write(big)
			}
		}
		ways(t, nil, app, func(t *testing.T, w *way) {
			c := w.dial()
			if _, err := c.Write(big); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || sum(got) != sum(big) {
				t.Errorf("after its half-close the client read %d bytes, %v; want %d", len(got), err, len(big))
			}
		})
	})
	t.Run("server first", func(t *testing.T) {
		result := make(chan string, 1)
		app := func(c *net.TCPConn) {
			_ = c.CloseWrite()
			got, _ := io.ReadAll(c)
			result <- sum(got)
		}
		ways(t, nil, app, func(t *testing.T, w *way) {
			c := w.dial()
			if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
				t.Fatalf("read until the server's half-close: %q, %v", got, err)
			}
			if _, err := c.Write(big); err != nil {
				t.Fatalf("write after the server's half-close: %v", err)
			}
			c.Close()
			if got := <-result; got != sum(big) {
				t.Errorf("the server read hash %s, want %s", got, sum(big))
			}
		})
	})
}

// TestReset: a reset on one side is a reset on the other, never a clean end.
func TestReset(t *testing.T) {
	t.Run("by the server", func(t *testing.T) {
		app := func(c *net.TCPConn) {
			_, _ = io.ReadFull(c, make([]byte, 1))
			reset(c)
		}
		ways(t, nil, app, func(t *testing.T, w *way) {
			c := w.dial()
			if _, err := c.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			_, err := io.ReadAll(c)
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client saw %v, want a reset", err)
			}
			if w.name != "plaintext" {
				w.source.log.wait("the reset is an error of the connection", map[string]any{"direction": "outbound", "error": "~reset"})
			}
		})
	})
	t.Run("by the client", func(t *testing.T) {
		result := make(chan error, 1)
		app := func(c *net.TCPConn) {
			_, _ = c.Write([]byte{1})
			_, err := io.ReadAll(c)
			result <- err
		}
		ways(t, nil, app, func(t *testing.T, w *way) {
			c := w.dial()
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			reset(c)
			if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the server saw %v, want a reset", err)
			}
		})
	})
	t.Run("by the client after its half-close", func(t *testing.T) {
		result := make(chan error, 1)
		app := func(c *net.TCPConn) {
			_, _ = io.ReadAll(c)
			for {
				if _, err := c.Write(make([]byte, 4096)); err != nil {
					result <- err
					return
				}
			}
		}
		ways(t, nil, app, func(t *testing.T, w *way) {
			c := w.dial()
			_ = c.CloseWrite()
			if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
			reset(c)
			select {
			case <-result:
			case <-time.After(10 * time.Second):
				t.Error("the server writes on 10 s after the client's reset")
			}
		})
	})
}

// TestRefusedUpstream: a destination that is not there is a reset for the
// client, and says so in the log.
func TestRefusedUpstream(t *testing.T) {
	for _, name := range []string{"hbone", "local", "passthrough", "plaintext"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			svc := l.service("server")
			client, server := l.workload("client"), l.workload("server", svc)
			vip := netip.AddrPortFrom(svc.VIPs[0].Prefix.Addr(), 80)
			dst := vip
			if name == "passthrough" {
				dst = netip.AddrPortFrom(l.addr(), 80)
			}
			l.apply()
			n := l.node(func(c *Config) {
				if name == "local" {
					c.SameNode = SameNodeDirect
				}
			})
			pod := n.serve(client, dst)
			to := n.serve(server, netip.AddrPortFrom(l.addr(), 80))
			if name == "passthrough" {
				pod.redirect(dst, netip.AddrPortFrom(l.addr(), 1)) // nobody listens
			}
			if name == "plaintext" {
				dst = to.inbound
			}
			if err := pod.refused(dst); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client of a destination that is not there saw %v, want a reset", err)
			}
			n.log.wait("the failure is recorded", map[string]any{"response_flags": "CONNECT"})
		})
	}
}

// TestPolicyChange: a connection that policy no longer allows is cut while it
// runs, on both sides, and logged as that.
func TestPolicyChange(t *testing.T) {
	result := make(chan error, 1)
	app := func(c *net.TCPConn) {
		_, _ = c.Write([]byte{1})
		_, err := io.ReadAll(c)
		result <- err
	}
	policedWays(t, nil, app, func(t *testing.T, w *way) {
		c := w.dial()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		deny := strict()
		deny.Rules = allow("x", w.client.w.Identity()).Rules
		if w.name == "plaintext" {
			deny = strict()
		}
		if err := w.lab.store.Apply(mesh.Update{Policies: append(w.lab.world.Policies, deny)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client saw %v, want a reset", err)
		}
		if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server saw %v, want a reset", err)
		}
		w.dest.log.wait("the cut is logged as one", map[string]any{
			"direction": "inbound", "error": "~connection closed due to policy change", "response_flags": "DENY",
		})
	})
}

// TestDrain: a live connection outlives the end of its pod's context, a new one
// is not taken.
func TestDrain(t *testing.T) {
	ways(t, nil, echo, func(t *testing.T, w *way) {
		c := w.dial()
		roundTrip(t, c)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			w.client.stop()
			w.server.stop()
		}()
		eventually(t, "new connections are refused", func() bool {
			n, err := dialFrom(t.Context(), w.client.w.Addresses[0], w.dst)
			if err == nil {
				_ = n.SetDeadline(time.Now().Add(time.Second))
				_, err = n.Read(make([]byte, 1))
				n.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		roundTrip(t, c)
		_ = c.CloseWrite()
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("the live connection did not end well: %v", err)
		}
		<-stopped
	})
}

// TestDrainTimeout: what outlives the drain is cut, and the log says why.
func TestDrainTimeout(t *testing.T) {
	short := func(c *Config) { c.DrainTimeout = 100 * time.Millisecond }
	ways(t, short, echo, func(t *testing.T, w *way) {
		c := w.dial()
		roundTrip(t, c)
		w.client.stop()
		w.server.stop()
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client saw %v, want a reset", err)
		}
		node := w.source
		node.log.wait("the cut is logged", map[string]any{"error": "~connection drain"})
	})
}

func roundTrip(t *testing.T, c net.Conn) {
	t.Helper()
	msg := data(1000, 3)
	if _, err := c.Write(msg); err != nil {
		t.Fatalf("write: %v", err)
	}
	got := make([]byte, len(msg))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read the echo: %v", err)
	}
	if sum(got) != sum(msg) {
		t.Fatal("the echo is not what was sent")
	}
}
