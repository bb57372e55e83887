package ingress

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"
)

// streamRoute is the route of a TCP or UDP listener: the first. nil = none.
func (s *site) streamRoute() *StreamRoute {
	if len(s.Streams) == 0 {
		return nil
	}
	return s.Streams[0]
}

// choose picks a backend by weight. false: there is none, or it is the turn of one
// whose reference is wrong.
func (r *StreamRoute) choose() (StreamBackend, bool) {
	if r == nil {
		return StreamBackend{}, false
	}
	var total int64
	for _, b := range r.Backends {
		total += int64(max(b.Weight, 0))
	}
	if total == 0 {
		return StreamBackend{}, false
	}
	n := rand.Int64N(total)
	for _, b := range r.Backends {
		if n -= int64(max(b.Weight, 0)); n < 0 {
			return b, b.Cluster != ""
		}
	}
	return StreamBackend{}, false
}

var errNoBackend = errors.New("the route has no backend")

// serveStream joins c to a backend of r, and returns when both directions have
// ended. Nobody is told that the port drains: bytes have no way to say so.
func (c *conn) serveStream(r *StreamRoute) {
	s := c.lp.srv
	ctx, cancel := context.WithCancel(s.hard)
	defer cancel()
	up, release, err := c.dialStream(ctx, r)
	if err != nil {
		s.cfg.Events.refused(c.where, RefusedNoBackend)
		c.lp.complain("stream without a backend", "bind", c.lp.bind, "client", c.remote, "sni", c.sni, "route", owner(r), "error", err)
		reset(c.raw)
		return
	}
	defer release()
	defer up.Close()
	defer context.AfterFunc(ctx, func() { up.Close() })()
	relay(c.net, up, s.limits.StreamIdleTimeout)
}

func owner(r *StreamRoute) string {
	if r == nil {
		return ""
	}
	return r.Owner.Kind + "/" + r.Owner.Namespace + "/" + r.Owner.Name
}

func (c *conn) dialStream(ctx context.Context, r *StreamRoute) (net.Conn, func(), error) {
	b, ok := r.choose()
	if !ok {
		return nil, nil, errNoBackend
	}
	return c.lp.srv.cfg.Backends.DialStream(ctx, b.Cluster, c.remote, c.policy != nil)
}

// reset makes the close of c a reset: the client does not take what it has for
// all there is.
func reset(c net.Conn) {
	if t, ok := tcpOf(c); ok {
		t.SetLinger(0)
	}
}

// tcpOf is the socket that c ends in.
func tcpOf(c net.Conn) (*net.TCPConn, bool) {
	for {
		switch v := c.(type) {
		case *net.TCPConn:
			return v, true
		case interface{ NetConn() net.Conn }:
			c = v.NetConn()
		default:
			return nil, false
		}
	}
}

// relay copies both ways between a and b until both have ended. A half-close stays
// one, and an error on one side becomes a reset of the other. If nothing moves for
// idle it ends both. The caller closes a and b.
func relay(a, b net.Conn, idle time.Duration) {
	var moved counter
	abort := func() {
		reset(a)
		reset(b)
		past := time.Unix(1, 0)
		a.SetDeadline(past)
		b.SetDeadline(past)
	}
	defer moved.watch(idle, abort)()
	half := func(dst, src net.Conn) {
		if copyHalf(dst, src, &moved) != nil {
			abort()
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		half(b, a)
	}()
	half(a, b)
	<-done
}

// copyHalf moves what src sends to dst, and ends dst's direction when src ends.
func copyHalf(dst, src net.Conn, moved *counter) error {
	if err := copyAll(dst, src, moved); err != nil {
		return err
	}
	if w, ok := dst.(interface{ CloseWrite() error }); ok {
		if err := w.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
	return dst.Close()
}

// copyAll copies through a buffer what cannot be spliced: TLS that ends here,
// tunnels, and what was read already.
func copyAll(dst, src net.Conn, moved *counter) error {
	if r, ok := src.(*replayConn); ok {
		if len(r.buf) > 0 {
			n, err := dst.Write(r.buf)
			moved.add(n)
			if err != nil {
				return err
			}
			r.buf = nil
		}
		src = r.Conn
		if _, ok := src.(*replayConn); ok {
			return copyAll(dst, src, moved)
		}
	}
	if r, ok := dst.(*replayConn); ok {
		dst = r.Conn
		return copyAll(dst, src, moved)
	}
	if s, ok := src.(*net.TCPConn); ok {
		if d, ok := dst.(*net.TCPConn); ok {
			return spliceAll(d, s, moved)
		}
	}
	return copyBuffered(dst, src, moved)
}
