package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// upper answers with what it got, in capitals, when the client has ended.
func upper(c net.Conn) {
	b, _ := io.ReadAll(c)
	c.Write([]byte(strings.ToUpper(string(b))))
}

func exchangeBytes(t *testing.T, c net.Conn, want string) {
	t.Helper()
	defer c.Close()
	io.WriteString(c, strings.ToLower(want))
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != want || err != nil {
		t.Errorf("got %q, %v; want %q", b, err, want)
	}
}

func TestDialStreamTriesOthers(t *testing.T) {
	addr := rawServer(t, upper)
	s := newSet(t, SetConfig{})
	good := at(t, addr)
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, closedPort(t)), at(t, closedPort(t)), good}})
	for range 20 {
		conn, h, err := c.DialStream(t.Context(), netip.AddrPort{})
		if err != nil {
			t.Fatal(err)
		}
		if h.Endpoint() != good {
			t.Errorf("connected to %v", h)
		}
		if _, ok := conn.(*net.TCPConn); !ok {
			t.Errorf("a plain connection is a %T, which splice cannot use", conn)
		}
		exchangeBytes(t, conn, "HELLO")
	}
	if st := c.Status(); st.Endpoints[2].Connections != 0 {
		t.Errorf("streams are counted as connections for requests: %+v", st)
	}
	one(t, s, Config{Endpoints: []Endpoint{at(t, closedPort(t)), at(t, closedPort(t))}})
	_, _, err := c.DialStream(t.Context(), netip.AddrPort{})
	wantKind(t, err, Connect, "nobody listens")
	one(t, s, Config{})
	if _, _, err := c.DialStream(t.Context(), netip.AddrPort{}); !errors.Is(err, ErrNoEndpoints) {
		t.Errorf("got %v, want ErrNoEndpoints", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	one(t, s, Config{Endpoints: []Endpoint{good, at(t, closedPort(t))}})
	_, _, err = c.DialStream(ctx, netip.AddrPort{})
	wantKind(t, err, Canceled, "the client is gone: no other endpoint is tried")
}

func TestDialStreamTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	srv := tlsServer(t, ca.issue(time.Hour, "a.example"), echo, nil)
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{TLS: &TLS{ServerName: "a.example", Roots: ca.pool()}, Endpoints: []Endpoint{at(t, srv.URL)}})
	conn, _, err := c.DialStreamTLS(t.Context(), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.0\r\nHost: x\r\n\r\n")
	if b, _ := io.ReadAll(conn); !strings.HasPrefix(string(b), "HTTP/1.0 200") {
		t.Errorf("over the cluster's TLS: %q", b)
	}
	raw, _, err := c.DialStream(t.Context(), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := raw.(*net.TCPConn); !ok {
		t.Errorf("DialStream gave a %T: what is passed through must not be encrypted again", raw)
	}
	raw.Close()
	one(t, s, Config{TLS: &TLS{Invalid: "no such CA"}, Endpoints: []Endpoint{at(t, srv.URL)}})
	_, _, err = c.DialStreamTLS(t.Context(), netip.AddrPort{})
	wantKind(t, err, Invalid, "a CA reference that does not resolve")
}

func TestDialPacket(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	s := newSet(t, SetConfig{Resolver: &zone{addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}})
	e := at(t, pc.LocalAddr().String())
	for _, e := range []Endpoint{e, {Host: "udp.example", Port: e.Addr.Port()}} {
		c := one(t, s, Config{Endpoints: []Endpoint{e}})
		conn, h, err := c.DialPacket(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("ping"))
		buf := make([]byte, 10)
		n, from, err := pc.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "ping" || from.String() != conn.LocalAddr().String() {
			t.Errorf("%v: the endpoint got %q from %v, %v", h, buf[:n], from, err)
		}
		conn.Close()
	}
	if _, _, err := one(t, s, Config{}).DialPacket(t.Context()); !errors.Is(err, ErrNoEndpoints) {
		t.Errorf("got %v, want ErrNoEndpoints", err)
	}
}

// zone is a DNS of one name.
type zone struct {
	asked atomic.Int32
	addrs []netip.Addr
	err   error
}

func (z *zone) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	z.asked.Add(1)
	return z.addrs, z.err
}

func TestNamesAreResolvedWhenDialled(t *testing.T) {
	srv := serve(t, echo)
	port := at(t, srv.URL).Addr.Port()
	// Nobody listens at the first: loopback has more addresses than listeners.
	z := &zone{addrs: []netip.Addr{netip.MustParseAddr("127.0.0.9"), netip.MustParseAddr("127.0.0.1")}}
	s := newSet(t, SetConfig{Resolver: z, MaxAge: time.Nanosecond})
	c := one(t, s, Config{Endpoints: []Endpoint{{Host: "backend.example", Port: port}}})
	for range 3 {
		mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ")
	}
	if n := z.asked.Load(); n != 1 {
		t.Errorf("the DNS was asked %d times within a moment, want once", n)
	}
	p := c.members.Load().hosts[0].peer
	s.Evict(everybody)
	eventually(t, "no address is noted of connections that are closed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.addrs) == 0
	})
	if st := c.Status().Endpoints[0]; st.Connections != 0 {
		t.Errorf("after Evict of the address: %+v", st)
	}
	// A DNS that is away: the last answer goes on to be used.
	p.names.mu.Lock()
	p.names.asked = time.Now().Add(-2 * answerTime)
	p.names.mu.Unlock()
	z.err = errors.New("no such host")
	mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ")
	if n := z.asked.Load(); n != 2 {
		t.Errorf("the DNS was asked %d times, want twice", n)
	}
	p.names.mu.Lock()
	p.names.asked = time.Now().Add(-2 * staleTime)
	p.names.mu.Unlock()
	_, _, err := send(c, request(t, "GET", "/", ""))
	e := wantKind(t, err, Connect, "a name that does not resolve")
	if !strings.Contains(e.Error(), "look up backend.example") {
		t.Error(e)
	}
}

func TestDialFirst(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	refused := errors.New("refused")
	for _, tt := range []struct {
		why   string
		hang  []netip.Addr
		fail  []netip.Addr
		want  netip.Addr
		tries int
	}{
		{"the first", nil, nil, a, 1},
		{"the second when the first fails", nil, []netip.Addr{a}, b, 2},
		{"the second beside a first that hangs", []netip.Addr{a}, nil, b, 2},
		{"the third", []netip.Addr{a}, []netip.Addr{b}, c, 3},
		{"none", nil, []netip.Addr{a, b, c}, netip.Addr{}, 3},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s := newSet(t, SetConfig{})
			var tries, done, closed atomic.Int32
			dial := func(ctx context.Context, addr netip.Addr) (Conn, error) {
				tries.Add(1)
				if slices.Contains(tt.hang, addr) {
					<-ctx.Done()
					c, _ := net.Pipe() // connected, but too late
					return Conn{Conn: &closeCounter{c, &closed}}, nil
				}
				if slices.Contains(tt.fail, addr) {
					return Conn{}, refused
				}
				c, _ := net.Pipe()
				return Conn{Conn: c}, nil
			}
			conn, got, err := dialFirst(t.Context(), s.spawn, []netip.Addr{a, b, c}, dial, func(netip.Addr) { done.Add(1) })
			if got != tt.want || tt.want.IsValid() != (err == nil) {
				t.Errorf("got %v, %v; want %v", got, err, tt.want)
			}
			wantDone := tries.Load()
			if err == nil {
				conn.Close()
				wantDone--
			} else if err != refused {
				t.Errorf("the error is %v", err)
			}
			if int(tries.Load()) != tt.tries {
				t.Errorf("%d addresses tried, want %d", tries.Load(), tt.tries)
			}
			eventually(t, "every other dial is told of and closed", func() bool {
				return done.Load() == wantDone && int(closed.Load()) == len(tt.hang)
			})
		})
	}
}

type closeCounter struct {
	net.Conn
	n *atomic.Int32
}

func (c *closeCounter) Close() error { c.n.Add(1); return c.Conn.Close() }

func TestFamiliesTakeTurns(t *testing.T) {
	var in, want []netip.Addr
	for _, s := range []string{"2001:db8::1", "2001:db8::2", "192.0.2.1", "::ffff:192.0.2.2", "192.0.2.3"} {
		in = append(in, netip.MustParseAddr(s))
	}
	for _, s := range []string{"2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "192.0.2.3"} {
		want = append(want, netip.MustParseAddr(s))
	}
	if got := takeTurns(in); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for range 20 {
		in = append(in, in[0])
	}
	if got := takeTurns(in); len(got) != mostAddrs {
		t.Errorf("%d addresses are tried, want at most %d", len(got), mostAddrs)
	}
}
