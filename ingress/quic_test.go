package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// quicPort is a port with one listener that has HTTP/3.
func quicPort(t *testing.T, ca *authority, bind Bind) *Port {
	return httpsPort(bind, 443, httpsListener("a", "a.org", []*tls.Certificate{ca.issue(t, "a.org")}, "/"))
}

// TestMigration: a client whose address changes in the middle of a request, as
// when its NAT forgets it, keeps the connection; the next request knows the new
// address.
func TestMigration(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	hold := newHolding()
	var events failures
	s := start(t, ServerConfig{Proxy: hold.handler(), Events: events.events()})
	s.apply(t, quicPort(t, ca, bind))
	nat := newSwitch(t, bind)
	c := dialHTTP(t, "h3", nat.addr, &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	if _, a, _ := c.get(t, "a.org", "/"); a.Remote != nat.address() {
		t.Fatalf("the client is %s, want %s", a.Remote, nat.address())
	}
	held := make(chan error, 1)
	go func() {
		_, _, _, err := c.try("a.org", "/hold")
		held <- err
	}()
	<-hold.came
	before := nat.address()
	nat.cut()
	nat.join()
	if nat.address() == before {
		t.Fatal("the address is the same")
	}
	close(hold.release)
	if err := <-held; err != nil {
		t.Errorf("the request that the move was in the middle of: %v", err)
	}
	eventually(t, "requests come from the new address", func() bool {
		_, a, _ := c.get(t, "a.org", "/")
		return a.Remote == nat.address()
	})
	if n := events.open(); n != 1 {
		t.Errorf("%d connections are open, want the one", n)
	}
}

// TestEarlyData: none by default; where it is on, safe requests alone are answered
// before the handshake is over, and none on ports that verify clients.
func TestEarlyData(t *testing.T) {
	ca, clients := newAuthority(t), newAuthority(t)
	me := clients.issue(t, "me")
	for _, tc := range []struct {
		name            string
		on, verify      bool
		method          string
		accepted, early bool
	}{
		{"off", false, false, http3.MethodGet0RTT, false, false},
		{"on", true, false, http3.MethodGet0RTT, true, true},
		{"on, where clients are verified", true, true, http3.MethodGet0RTT, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bind := freeBind(t)
			s := start(t, ServerConfig{})
			p := quicPort(t, ca, bind)
			p.QUIC.ZeroRTT = tc.on
			if tc.verify {
				p.Listeners[0].TLS.ClientCAs = clients.pool
			}
			s.apply(t, p)
			relay := newDelay(t, bind)
			cache := tls.NewLRUClientSessionCache(4)
			get := func(method string) (*quic.Conn, answer, error) {
				conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org", ClientSessionCache: cache}
				if tc.verify {
					conf.Certificates = []tls.Certificate{*me}
				}
				var qc *quic.Conn
				c := dialHTTP(t, "h3", relay.addr, conf)
				tr := c.Transport.(*http3.Transport)
				dial := tr.Dial
				tr.Dial = func(ctx context.Context, a string, tc *tls.Config, q *quic.Config) (_ *quic.Conn, err error) {
					qc, err = dial(ctx, a, tc, q)
					return qc, err
				}
				req, _ := http.NewRequest(method, "https://a.org/", nil)
				resp, err := tr.RoundTrip(req)
				if err != nil {
					return nil, answer{}, err
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				return qc, answer{Early: strings.Contains(string(body), `"Early":true`)}, err
			}
			if _, _, err := get("GET"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond) // tickets come after the answer
			qc, a, err := get(tc.method)
			if err != nil {
				t.Fatal(err)
			}
			if got := qc.ConnectionState().Used0RTT; got != tc.accepted {
				t.Errorf("early data accepted: %v, want %v", got, tc.accepted)
			}
			if a.Early != tc.early {
				t.Errorf("the request was early: %v, want %v", a.Early, tc.early)
			}
		})
	}
}

// TestUnsafeEarlyDataWaits: a POST in early data may be somebody's replay until the
// handshake is over, and is held back until then.
func TestUnsafeEarlyDataWaits(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	p := quicPort(t, ca, bind)
	p.QUIC.ZeroRTT = true
	s.apply(t, p)
	relay := newDelay(t, bind)
	conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org", NextProtos: []string{"h3"}, ClientSessionCache: tls.NewLRUClientSessionCache(4)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// Of RFC 9204's static table: :scheme https, :path /, :authority a.org.
	fields := "\xd7\xc1\x50\x05a.org"
	ask := func(method string) (*quic.Conn, string) {
		t.Helper()
		qc, err := quic.DialAddrEarly(ctx, relay.addr, conf, nil)
		if err != nil {
			t.Fatal(err)
		}
		str, err := qc.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		block := "\x00\x00" + method + fields
		str.Write(append([]byte{1, byte(len(block))}, block...))
		str.Close()
		got, err := io.ReadAll(str)
		if err != nil {
			t.Fatal(err)
		}
		return qc, string(got)
	}
	const get, post = "\xd1", "\xd4"
	qc, _ := ask(get)
	time.Sleep(50 * time.Millisecond) // tickets come after the answer
	qc.CloseWithError(0, "")
	for method, early := range map[string]string{get: `"Early":true`, post: `"Early":false`} {
		qc, got := ask(method)
		if !qc.ConnectionState().Used0RTT {
			t.Error("there was no early data")
		}
		if !strings.Contains(got, early) {
			t.Errorf("got %q, want %s", got, early)
		}
		qc.CloseWithError(0, "")
	}
}

// delay carries datagrams between a client and a server, and holds the client's
// back for a while, so that a handshake takes its time.
type delay struct{ addr string }

func newDelay(t *testing.T, to Bind) *delay {
	front, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { front.Close() })
	var mu sync.Mutex
	backs := make(map[string]net.Conn)
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, b := range backs {
			b.Close()
		}
	})
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			back := backs[from.String()]
			if back == nil {
				if back, err = net.Dial("udp4", to.String()); err != nil {
					mu.Unlock()
					return
				}
				backs[from.String()] = back
				go func() {
					buf := make([]byte, 2048)
					for {
						n, err := back.Read(buf)
						if err != nil {
							return
						}
						b := append([]byte(nil), buf[:n]...)
						time.AfterFunc(20*time.Millisecond, func() { front.WriteTo(b, from) })
					}
				}()
			}
			mu.Unlock()
			back.Write(buf[:n])
		}
	}()
	return &delay{front.LocalAddr().String()}
}

// TestRetryUnderLoad: above the limit, an address is verified before it costs more
// than a packet.
func TestRetryUnderLoad(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{Limits: Limits{RetryAbove: 3, HandshakeTimeout: 2 * time.Second}})
	s.apply(t, quicPort(t, ca, bind))
	// Handshakes that go no further than the first packet.
	var stuck []*net.UDPConn
	for range 6 {
		stuck = append(stuck, sendInitial(t, ca, bind))
	}
	eventually(t, "handshakes under way", func() bool { return s.admit.quic.Load() >= 3 })
	if n := s.admit.quic.Load(); n != 3 {
		t.Errorf("%d handshakes are under way for addresses that nobody verified, want 3", n)
	}
	buf := make([]byte, 2048)
	retries := 0
	for _, c := range stuck {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		for {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			if n > 0 && buf[0]&0xf0 == 0xf0 { // a long header of type Retry (RFC 9000 section 17.2.5)
				retries++
				break
			}
		}
	}
	if retries != 3 {
		t.Errorf("%d of 6 got a Retry, want 3", retries)
	}
	c := dialHTTP(t, "h3", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
		t.Errorf("an honest client in the middle of it got %d", status)
	}
	eventually(t, "handshakes that went no further are given up", func() bool { return s.admit.quic.Load() == 0 && s.admit.conns.Load() <= 1 })
}

// sendInitial sends the first datagrams of a QUIC handshake, and no more.
func sendInitial(t *testing.T, ca *authority, bind Bind) *net.UDPConn {
	t.Helper()
	sink, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go quic.DialAddr(ctx, sink.LocalAddr().String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org", NextProtos: []string{"h3"}}, nil)
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind.Addr, bind.Port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	buf := make([]byte, 2048)
	sink.SetReadDeadline(time.Now().Add(40 * time.Millisecond))
	for n := range 4 {
		k, err := sink.Read(buf)
		if err != nil {
			if n == 0 {
				t.Fatal("the client sent nothing")
			}
			break
		}
		c.Write(buf[:k])
	}
	return c
}

// TestStatelessReset: a gateway that was restarted with the same secret tells the
// clients of the one before at once that their connections are gone.
func TestStatelessReset(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	secret := []byte(strings.Repeat("s", 32))
	p := quicPort(t, ca, bind)
	first := start(t, ServerConfig{Secret: secret})
	first.apply(t, p)
	relay := newSwitch(t, bind)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	qc, err := quic.DialAddr(ctx, relay.addr, &tls.Config{RootCAs: ca.pool, ServerName: "a.org", NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	h3 := new(http3.Transport).NewClientConn(qc)
	req, _ := http.NewRequestWithContext(ctx, "GET", "https://a.org/", nil)
	resp, err := h3.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	relay.cut() // the first one goes without a word, as in a crash
	first.stop()
	second := start(t, ServerConfig{Secret: secret})
	second.apply(t, p)
	relay.join()
	go h3.RoundTrip(req.Clone(ctx)) // a ping alone is too small to be answered with a reset
	select {
	case <-qc.Context().Done():
		var reset *quic.StatelessResetError
		if err := context.Cause(qc.Context()); !errors.As(err, &reset) {
			t.Errorf("the connection ended by %v, want a stateless reset", err)
		}
	case <-ctx.Done():
		t.Error("the client waits for a connection that is gone")
	}
}

// udpSwitch carries datagrams to and fro, between cut and join not.
type udpSwitch struct {
	t     *testing.T
	to    Bind
	front net.PacketConn
	addr  string

	mu     sync.Mutex
	back   net.Conn // nil: cut
	client net.Addr
}

func newSwitch(t *testing.T, to Bind) *udpSwitch {
	front, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &udpSwitch{t: t, to: to, front: front, addr: front.LocalAddr().String()}
	t.Cleanup(func() { front.Close(); s.cut() })
	s.join()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := front.ReadFrom(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.client = from
			back := s.back
			s.mu.Unlock()
			if back != nil {
				back.Write(buf[:n])
			}
		}
	}()
	return s
}

// address is where the server sees the client.
func (s *udpSwitch) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.back.LocalAddr().String()
}

func (s *udpSwitch) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back != nil {
		s.back.Close()
		s.back = nil
	}
}

func (s *udpSwitch) join() {
	back, err := net.Dial("udp4", s.to.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.back = back
	s.mu.Unlock()
	go func() {
		buf := make([]byte, 2048)
		for {
			n, err := back.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			s.mu.Lock()
			if err == nil && s.back == back {
				s.front.WriteTo(buf[:n], s.client)
			}
			s.mu.Unlock()
		}
	}()
}
