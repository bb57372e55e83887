package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Resolver looks up the addresses of a name; a *net.Resolver is one.
type Resolver interface {
	// LookupNetIP is asked with network "ip": both families.
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

type defaultResolver struct{}

func (defaultResolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, network, host)
}

const (
	// answerTime is how long an answer of the DNS is used without asking again.
	answerTime = 10 * time.Second
	// staleTime is how long it is used when the DNS does not answer.
	staleTime = 10 * time.Minute
	// nextFamily is how long a connect has before the next address is tried beside
	// it (RFC 8305 section 5).
	nextFamily = 250 * time.Millisecond
	// mostAddrs is how many addresses of a name are tried.
	mostAddrs = 8
)

// names is what the DNS says of an endpoint that is a name.
type names struct {
	mu    sync.Mutex
	addrs []netip.Addr
	asked time.Time
}

func (n *names) fresh(within time.Duration) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.addrs) == 0 || time.Since(n.asked) > within {
		return nil
	}
	return n.addrs
}

// lookup returns the addresses of host, the families taking turns. Those who ask
// at the same time may each ask the DNS.
func (n *names) lookup(ctx context.Context, r Resolver, host string) ([]netip.Addr, error) {
	if addrs := n.fresh(answerTime); addrs != nil {
		return addrs, nil
	}
	found, err := r.LookupNetIP(ctx, "ip", host)
	if err == nil && len(found) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		if addrs := n.fresh(staleTime); addrs != nil && ctx.Err() == nil {
			return addrs, nil
		}
		return nil, fmt.Errorf("look up %s: %w", host, err)
	}
	addrs := takeTurns(found)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.addrs, n.asked = addrs, time.Now()
	return addrs, nil
}

// takeTurns orders addresses so that the families alternate, beginning with that
// of the first, which the resolver prefers (RFC 8305 section 4).
func takeTurns(in []netip.Addr) []netip.Addr {
	var same, other []netip.Addr
	for _, a := range in {
		a = a.Unmap()
		if a.Is4() == in[0].Unmap().Is4() {
			same = append(same, a)
		} else {
			other = append(other, a)
		}
	}
	var out []netip.Addr
	for i := 0; (i < len(same) || i < len(other)) && len(out) < mostAddrs; i++ {
		if i < len(same) {
			out = append(out, same[i])
		}
		if i < len(other) {
			out = append(out, other[i])
		}
	}
	return out
}

// dialed is the outcome of one dial of several.
type dialed struct {
	conn Conn
	addr netip.Addr
	err  error
}

// dialFirst connects to the first of several addresses that accepts. The next is
// tried when one fails, or has not answered for a moment. done is called with
// every address that dial was called with, except that of the connection returned.
func dialFirst(ctx context.Context, spawn func(func()) bool, addrs []netip.Addr,
	dial func(context.Context, netip.Addr) (Conn, error), done func(netip.Addr),
) (Conn, netip.Addr, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan dialed, len(addrs))
	started, ended := 0, 0
	next := func() {
		a := addrs[started]
		started++
		if !spawn(func() {
			c, err := dial(ctx, a)
			results <- dialed{c, a, err}
		}) {
			results <- dialed{addr: a, err: ErrClosed}
		}
	}
	defer func() {
		cancel()
		left := started - ended
		if left == 0 {
			return
		}
		finish := func() {
			for range left {
				r := <-results
				if r.err == nil {
					r.conn.Close()
				}
				done(r.addr)
			}
		}
		if !spawn(finish) {
			finish()
		}
	}()
	timer := time.NewTimer(nextFamily)
	defer timer.Stop()
	next()
	var first error
	for {
		select {
		case r := <-results:
			ended++
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			done(r.addr)
			if first == nil {
				first = r.err
			}
			if ended == len(addrs) {
				return Conn{}, netip.Addr{}, first
			}
			if started < len(addrs) && started == ended {
				next()
			}
		case <-timer.C:
			if started < len(addrs) {
				next()
			}
			timer.Reset(nextFamily)
		case <-ctx.Done():
			return Conn{}, netip.Addr{}, context.Cause(ctx)
		}
	}
}

// plainDialer connects past any mesh.
type plainDialer struct{}

func (plainDialer) DialEndpoint(ctx context.Context, _, dst netip.AddrPort) (Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return Conn{}, err
	}
	return Conn{Conn: c}, nil
}
