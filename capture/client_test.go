package capture_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// app serves until the test ends: it says whom it sees, then echoes.
func (w *world) app(ns *lab.Namespace, addr netip.AddrPort) net.Listener {
	w.t.Helper()
	l, err := ns.Listen("tcp", addr.String())
	w.must(err)
	w.serveApp(l)
	return l
}

func (w *world) serveApp(l net.Listener) {
	var loops sync.WaitGroup
	loops.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			loops.Go(func() {
				defer c.Close()
				stop := context.AfterFunc(w.t.Context(), func() { c.Close() })
				defer stop()
				peer := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
				fmt.Fprintf(c, "%s\n", peer)
				_, _ = io.Copy(c, c)
			})
		}
	})
	w.t.Cleanup(func() { l.Close(); loops.Wait() })
}

// client is a connection to an app.
type client struct {
	net.Conn
	in *bufio.Reader
	// seen is the address that the app says it was called from.
	seen netip.Addr
}

// call connects from a namespace to an app and reads its greeting.
func (w *world) call(ns *lab.Namespace, d *net.Dialer, dst netip.AddrPort) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.callContext(ctx, ns, d, dst)
}

func (w *world) callContext(ctx context.Context, ns *lab.Namespace, d *net.Dialer, dst netip.AddrPort) (*client, error) {
	c, err := ns.Dial(ctx, d, "tcp", dst.String())
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = c.SetReadDeadline(deadline)
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	w.t.Cleanup(func() { c.Close() })
	seen, err := netip.ParseAddr(strings.TrimSpace(line))
	return &client{Conn: c, in: in, seen: seen}, err
}

// mustCall calls an app and fails the test unless it answers and sees the client under want.
func (w *world) mustCall(why string, ns *lab.Namespace, dst netip.AddrPort, want netip.Addr) *client {
	w.t.Helper()
	c, err := w.call(ns, nil, dst)
	if err != nil {
		w.t.Fatalf("%s: call %s from %s: %v", why, dst, ns.Name(), err)
	}
	if c.seen != want {
		w.t.Errorf("%s: the app sees %s, want %s", why, c.seen, want)
	}
	return c
}

// mustNotCall fails the test if an app answers.
func (w *world) mustNotCall(why string, ns *lab.Namespace, dst netip.AddrPort) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), impatience)
	defer cancel()
	c, err := w.callContext(ctx, ns, nil, dst)
	if err == nil {
		c.Close()
		w.t.Errorf("%s: %s answered %s", why, dst, ns.Name())
	}
	return err
}

// alive fails the test unless bytes still go there and back.
func (w *world) alive(why string, c *client) {
	w.t.Helper()
	_ = c.SetDeadline(time.Now().Add(patience))
	msg := fmt.Sprintf("ping %d\n", time.Now().UnixNano())
	if _, err := io.WriteString(c, msg); err != nil {
		w.t.Errorf("%s: connection is dead: %v", why, err)
		return
	}
	if got, err := c.in.ReadString('\n'); err != nil || got != msg {
		w.t.Errorf("%s: connection is dead: read %q, %v", why, got, err)
	}
	_ = c.SetDeadline(time.Time{})
}
