package ingress

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

func TestConnectionLimits(t *testing.T) {
	bind := freeBind(t)
	var events failures
	s := start(t, ServerConfig{Events: events.events(), Limits: Limits{Connections: 4, ConnectionsPerClient: 2}})
	s.apply(t, &Port{Bind: bind, Gateway: "infra/gw", Public: 80, ClientIP: ClientIP{ProxyProtocol: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
		Listeners: []*Listener{{Owner: "Gateway/infra/gw", Name: "http", Protocol: HTTP, Routes: rules("/")}}})
	open := func(client string) (net.Conn, bool) {
		c, err := net.Dial("tcp", bind.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, "PROXY TCP4 "+client+" 192.0.2.1 1 80\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
		n, _ := c.Read(make([]byte, 4096))
		return c, n > 0
	}
	var kept []net.Conn
	for range 2 {
		c, ok := open("203.0.113.1")
		if !ok {
			t.Fatal("within the limits, and refused")
		}
		kept = append(kept, c)
	}
	if _, ok := open("203.0.113.1"); ok {
		t.Error("a third connection of one client was served")
	}
	for _, client := range []string{"203.0.113.2", "203.0.113.3"} {
		if _, ok := open(client); !ok {
			t.Errorf("%s pays for another client", client)
		}
	}
	if _, ok := open("203.0.113.4"); ok {
		t.Error("a connection beyond the total was served")
	}
	eventually(t, "both refusals are counted", func() bool {
		return events.refused(RefusedClient) == 1 && events.refused(RefusedLimit) == 1
	})
	kept[0].Close()
	eventually(t, "a place is free again", func() bool {
		_, ok := open("203.0.113.1")
		return ok
	})
	s.admit.mu.Lock()
	defer s.admit.mu.Unlock()
	if n := len(s.admit.clients); n > 4 {
		t.Errorf("%d clients are remembered", n)
	}
}

func TestClientKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		if got := clientKey(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s counts as %s, want %s", in, got, want)
		}
	}
}

// TestSlowClients: none of those who say nothing, or say it slowly, stays for
// longer than its phase may take.
func TestSlowClients(t *testing.T) {
	ca := newAuthority(t)
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	secure, plain := freeBind(t), freeBind(t)
	var events failures
	s := start(t, ServerConfig{Events: events.events(), Limits: Limits{
		HandshakeTimeout: 300 * time.Millisecond, ReadHeaderTimeout: 300 * time.Millisecond, IdleTimeout: 300 * time.Millisecond,
	}})
	s.apply(t, httpsPort(secure, 443, httpsListener("a", "", cert, "/")),
		&Port{Bind: plain, Gateway: "infra/gw", Public: 80, Listeners: []*Listener{{Owner: "Gateway/infra/gw", Name: "http", Protocol: HTTP, Routes: rules("/")}}})
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
	for name, tc := range map[string]struct {
		bind  Bind
		drips string
	}{
		"nothing, in the clear":   {plain, ""},
		"nothing, with TLS":       {secure, ""},
		"a header, byte by byte":  {plain, "GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("x", 100)},
		"a hello, byte by byte":   {secure, hello + strings.Repeat("x", 100)},
		"a preface, byte by byte": {plain, preface[:20]},
		"idle after a request":    {plain, "\x00GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		"idle after HTTP/2":       {plain, "\x00" + preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", tc.bind.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				io.Copy(io.Discard, c)
			}()
			if whole, ok := strings.CutPrefix(tc.drips, "\x00"); ok {
				io.WriteString(c, whole)
				tc.drips = ""
			}
			end := time.After(5 * time.Second)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-gone:
					return
				case <-end:
					t.Fatal("the connection is still there")
				case <-tick.C:
					if tc.drips != "" {
						io.WriteString(c, tc.drips[:1])
						tc.drips = tc.drips[1:]
					}
				}
			}
		})
	}
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func TestHandshakeLimit(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	var events failures
	s := start(t, ServerConfig{Events: events.events(), Limits: Limits{Handshakes: 4, HandshakeTimeout: 500 * time.Millisecond}})
	s.apply(t, httpsPort(bind, 443, httpsListener("a", "", []*tls.Certificate{ca.issue(t, "a.org")}, "/")))
	for range 8 {
		c, err := net.Dial("tcp", bind.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "handshakes beyond the limit are refused", func() bool { return events.refused(RefusedHandshakes) == 4 })
	eventually(t, "those that say nothing are given up", func() bool { return events.count(FailedTimeout) == 4 })
	c := dialHTTP(t, "h1", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
		t.Errorf("after the flood: got %d", status)
	}
}

func TestNotTLS(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	var events failures
	s := start(t, ServerConfig{Events: events.events()})
	s.apply(t, httpsPort(bind, 443, httpsListener("a", "", []*tls.Certificate{ca.issue(t, "a.org")}, "/")))
	c, err := net.Dial("tcp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.org\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil && !errors.Is(err, net.ErrClosed) || !strings.HasPrefix(string(got), "HTTP/1.0 400 ") {
		t.Errorf("HTTP on a port of TLS got %q, %v; want 400 and a hint", got, err)
	}
	eventually(t, "the failure is counted", func() bool { return events.count(FailedNotTLS) == 1 })
}

// FuzzHello: whatever comes as a ClientHello neither crashes the gateway nor gets
// another name than crypto/tls sees; what is passed through is what came.
func FuzzHello(f *testing.F) {
	c, srv := net.Pipe()
	go tls.Client(c, &tls.Config{ServerName: "a.org"}).Handshake()
	buf := make([]byte, 4096)
	n, _ := srv.Read(buf)
	srv.Close()
	f.Add(buf[:n])
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x00"))
	x := newIndex(&Port{Listeners: []*Listener{{Protocol: TLS, Streams: []*StreamRoute{{}}}}}, nil, keys{make([]byte, 32)})
	f.Fuzz(func(t *testing.T, hello []byte) {
		rec := &recordingConn{Conn: &replayConn{Conn: closedConn{}, buf: hello}, recording: true}
		name := "none"
		err := tls.Server(rec, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name = normaliseSNI(h.ServerName)
			if d := x.decide(name, overTCP); !d.through {
				t.Errorf("SNI %q was not passed through", name)
			}
			rec.mute()
			return nil, errThrough
		}}).Handshake()
		if name == "none" && err == nil {
			t.Error("a handshake without a hello succeeded")
		}
		if got := rec.took(); !strings.HasPrefix(string(hello), string(got)) {
			t.Errorf("would pass on %q, which is no part of what came", got)
		}
	})
}

// closedConn has nothing to read and takes everything.
type closedConn struct{ net.Conn }

func (closedConn) Read([]byte) (int, error)    { return 0, io.EOF }
func (closedConn) Write(b []byte) (int, error) { return len(b), nil }
func (closedConn) Close() error                { return nil }

// TestSilentStreams: opening streams and sending no request on them keeps no QUIC
// connection.
func TestSilentStreams(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{Limits: Limits{IdleTimeout: 300 * time.Millisecond}})
	s.apply(t, quicPort(t, ca, bind))
	qc, err := quic.DialAddr(t.Context(), bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org", NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		str, err := qc.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		str.Write([]byte{1}) // HEADERS, and nothing more of it
	}
	select {
	case <-qc.Context().Done():
	case <-time.After(5 * time.Second):
		t.Error("the connection is still there")
	}
}

// TestBusyStreams: a request that takes longer than the idle timeout is no idle
// connection.
func TestBusyStreams(t *testing.T) {
	ca := newAuthority(t)
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			hold := newHolding()
			bind := freeBind(t)
			s := start(t, ServerConfig{Proxy: hold.handler(), Limits: Limits{IdleTimeout: 100 * time.Millisecond}})
			s.apply(t, quicPort(t, ca, bind))
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			time.AfterFunc(400*time.Millisecond, func() { close(hold.release) })
			if status, _, _ := c.get(t, "a.org", "/hold"); status != 200 {
				t.Errorf("got %d", status)
			}
		})
	}
}

// TestDrainDoesNotWaitForSilence: a client that has connected and says nothing is
// no reason to wait for its timeout.
func TestDrainDoesNotWaitForSilence(t *testing.T) {
	ca := newAuthority(t)
	bind, plain := freeBind(t), freeBind(t)
	s := start(t, ServerConfig{DrainTimeout: time.Minute, Limits: Limits{HandshakeTimeout: time.Minute, ReadHeaderTimeout: time.Minute}})
	s.apply(t, quicPort(t, ca, bind), &Port{Bind: plain, Gateway: "infra/gw", Public: 80, Listeners: []*Listener{{Protocol: HTTP, Routes: rules("/")}}})
	for _, b := range []Bind{bind, plain} {
		c, err := net.Dial("tcp", b.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "both are accepted", func() bool { return s.admit.conns.Load() == 2 })
	began := time.Now()
	s.stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the drain took %v", took)
	}
}
