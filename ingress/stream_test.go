package ingress

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/adit-mesh/adit/ingress/route"
)

// listenTCP runs handle for each connection to the address that it returns.
func listenTCP(t testing.TB, handle func(c *net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().String()
}

// naming answers each connection with name, and then with what it sends.
func naming(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		io.WriteString(c, name+"\n")
		io.Copy(c, c)
	}
}

func streamRoute(name string, hosts []string, terminate bool, addrs ...string) *StreamRoute {
	r := &StreamRoute{Owner: route.Owner{Kind: "TCPRoute", Namespace: "infra", Name: name}, Hostnames: hosts, Terminate: terminate}
	for _, a := range addrs {
		r.Backends = append(r.Backends, StreamBackend{Cluster: a, Weight: 1})
	}
	return r
}

func tcpPort(bind Bind, routes ...*StreamRoute) *Port {
	return &Port{Bind: bind, Gateway: "infra/gw", Public: 9000, Listeners: []*Listener{{Owner: "Gateway/infra/gw", Name: "tcp", Protocol: TCP, Streams: routes}}}
}

func startStreams(t *testing.T, cfg ServerConfig, addrs []string, ports ...*Port) *testServer {
	t.Helper()
	b, clusters := backends(t)
	cfg.Backends = b
	s := start(t, cfg)
	a := s.Apply(&Config{Ports: ports, Clusters: clusters(addrs...)})
	if len(a.Failed)+len(a.NoQUIC) > 0 {
		t.Fatal(a)
	}
	return s
}

func TestTCPCarriesBytesAndHalfClose(t *testing.T) {
	addr := listenTCP(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c) // ends with the client's half-close
		c.Write(all)
	})
	bind := freeBind(t)
	startStreams(t, ServerConfig{}, []string{addr}, tcpPort(bind, streamRoute("r", nil, false, addr)))
	c, err := net.Dial("tcp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(sent)
	go func() {
		c.Write(sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back of %d, %v", len(got), len(sent), err)
	}
}

func TestTCPKeepsResets(t *testing.T) {
	addr := listenTCP(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		c.SetLinger(0)
	})
	bind := freeBind(t)
	startStreams(t, ServerConfig{}, []string{addr}, tcpPort(bind, streamRoute("r", nil, false, addr)))
	c, err := net.Dial("tcp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte("x"))
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the backend reset the connection, and the client saw %v", err)
	}
}

func TestTCPWithoutBackend(t *testing.T) {
	bind := freeBind(t)
	var events failures
	startStreams(t, ServerConfig{Events: events.events()}, nil, tcpPort(bind, &StreamRoute{Backends: []StreamBackend{{Weight: 1}}}))
	c, err := net.Dial("tcp", bind.String())
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reference that is wrong gave %v, want a reset: there is no answer to take for complete", err)
	}
	eventually(t, "the refusal is counted", func() bool { return events.refused(RefusedNoBackend) == 1 })
}

func TestTCPIdle(t *testing.T) {
	addr := listenTCP(t, naming("a"))
	bind := freeBind(t)
	startStreams(t, ServerConfig{Limits: Limits{StreamIdleTimeout: time.Second}}, []string{addr}, tcpPort(bind, streamRoute("r", nil, false, addr)))
	c, err := net.Dial("tcp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	for range 20 { // longer than the timeout, but never silent for it
		io.WriteString(c, "x")
		time.Sleep(100 * time.Millisecond)
	}
	if _, err := io.CopyN(io.Discard, c, 22); err != nil {
		t.Fatalf("a connection in use was ended: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) {
		t.Errorf("a silent connection was kept: %v", err)
	}
}

func TestWeights(t *testing.T) {
	r := &StreamRoute{Backends: []StreamBackend{{"a", 1}, {"b", 0}, {"c", 3}, {"", 0}}}
	n := map[string]int{}
	for range 4000 {
		b, ok := r.choose()
		if !ok {
			t.Fatal("no backend")
		}
		n[b.Cluster]++
	}
	if n["b"] != 0 || n["a"] < 800 || n["a"] > 1200 {
		t.Errorf("got %v of 4000, want a quarter for a, nothing for b", n)
	}
	for _, r := range []*StreamRoute{nil, {}, {Backends: []StreamBackend{{"a", 0}}}, {Backends: []StreamBackend{{"", 1}}}} {
		if b, ok := r.choose(); ok {
			t.Errorf("%v chose %v", r, b)
		}
	}
}

// TestTLSRoutes: pass-through by SNI, termination, both on one port, and HTTPS
// beside them.
func TestTLSRoutes(t *testing.T) {
	ca := newAuthority(t)
	behind := ca.issue(t, "through.org", "*.wild.org", "deep.wild.org", "mixed.org")
	secret := func(name string) string {
		return listenTCP(t, func(c *net.TCPConn) {
			tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*behind}})
			defer tc.Close()
			io.WriteString(tc, name+"\n")
			io.Copy(tc, tc)
		})
	}
	through, wild, deep, plain := secret("through"), secret("wild"), secret("deep"), listenTCP(t, naming("plain"))
	front := ca.issue(t, "ended.org", "https.org")
	bind := freeBind(t)
	var events failures
	s := startStreams(t, ServerConfig{Events: events.events()}, []string{through, wild, deep, plain}, &Port{
		Bind: bind, Gateway: "infra/gw", Public: 443, Listeners: []*Listener{
			{Owner: "Gateway/infra/gw", Name: "through", Hostname: "through.org", Protocol: TLS, Streams: []*StreamRoute{streamRoute("through", nil, false, through)}},
			{Owner: "Gateway/infra/gw", Name: "wild", Hostname: "*.wild.org", Protocol: TLS, Streams: []*StreamRoute{
				streamRoute("wild", []string{"*.wild.org"}, false, wild), streamRoute("deep", []string{"deep.wild.org"}, false, deep)}},
			{Owner: "Gateway/infra/gw", Name: "ended", Hostname: "ended.org", Protocol: TLS, TLS: &TLSConfig{Certificates: []*tls.Certificate{front}},
				Streams: []*StreamRoute{streamRoute("ended", []string{"ended.org"}, true, plain)}},
			{Owner: "Gateway/infra/gw", Name: "none", Hostname: "none.org", Protocol: TLS, Streams: []*StreamRoute{streamRoute("none", []string{"x.none.org"}, false, through)}},
			{Owner: "Gateway/infra/gw", Name: "https", Hostname: "https.org", Protocol: HTTPS, TLS: &TLSConfig{Certificates: []*tls.Certificate{front}}, Routes: rules("/")},
		},
	})
	for sni, want := range map[string]string{
		"through.org": "through", "a.wild.org": "wild", "deep.wild.org": "deep", "ended.org": "plain",
	} {
		t.Run(sni, func(t *testing.T) {
			c, err := tls.Dial("tcp", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: sni})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			wantCert := behind
			if sni == "ended.org" {
				wantCert = front
			}
			if got := c.ConnectionState().PeerCertificates[0]; !got.Equal(wantCert.Leaf) {
				t.Error("the certificate is not of whom TLS should end at")
			}
			sent := strings.Repeat("0123456789", 50_000)
			go func() {
				io.WriteString(c, sent)
				c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || string(got) != want+"\n"+sent {
				t.Errorf("got %d bytes from %.10q, %v; want %d from %s", len(got), got, err, len(want)+1+len(sent), want)
			}
		})
	}
	c := dialHTTP(t, "h2", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "https.org"})
	if status, _, _ := c.get(t, "https.org", "/"); status != 200 {
		t.Errorf("HTTPS beside TLS: got %d", status)
	}
	if status, _, _ := c.get(t, "ended.org", "/"); status != 421 {
		t.Errorf("a host that is a TLS listener's: got %d, want 421", status)
	}
	h3 := dialHTTP(t, "h3", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "through.org"})
	if _, _, _, err := h3.try("through.org", "/"); err == nil {
		t.Error("a TLS listener was served over QUIC")
	}
	// Nobody here may speak for them: closed, without an alert.
	for _, sni := range []string{"none.org", "other.org"} {
		_, err := tls.Dial("tcp", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: sni})
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s is no TLSRoute's: %v; want the connection to be closed", sni, err)
		}
	}
	eventually(t, "the failures are counted", func() bool {
		return events.count(FailedNoRoute) == 1 && events.count(FailedNoListener) == 1 && events.count(FailedNotHTTP) == 1
	})
	if got := s.Explain(Question{URL: "https://deep.wild.org/"}).Ports[0].TLS; got == nil || got.Outcome != "passed through" || got.Stream.Route != "TCPRoute/infra/deep" {
		t.Errorf("Explain says %+v", got)
	}
}

// TestStreamsOutliveChanges: bytes go on after the route, and even the port, is
// gone.
func TestStreamsOutliveChanges(t *testing.T) {
	a, b := listenTCP(t, naming("a")), listenTCP(t, naming("b"))
	bind := freeBind(t)
	s := startStreams(t, ServerConfig{}, []string{a, b}, tcpPort(bind, streamRoute("r", nil, false, a)))
	c, err := net.Dial("tcp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	line := make([]byte, 2)
	io.ReadFull(c, line)
	_, clusters := backends(t)
	s.Apply(&Config{Ports: []*Port{tcpPort(bind, streamRoute("r", nil, false, b))}, Clusters: clusters(a, b)})
	d, err := net.Dial("tcp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	d.SetDeadline(time.Now().Add(10 * time.Second))
	if io.ReadFull(d, line); string(line) != "b\n" {
		t.Errorf("a new connection came to %q, want b", line)
	}
	s.Apply(&Config{})
	for _, c := range []net.Conn{c, d} {
		io.WriteString(c, "go")
		if _, err := io.ReadFull(c, line); err != nil || string(line) != "go" {
			t.Errorf("the stream ended with its route: %q %v", line, err)
		}
	}
}

func TestUDP(t *testing.T) {
	backend := func(name string) string {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 65535)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo([]byte(fmt.Sprintf("%s %s %s", name, from, buf[:n])), from)
			}
		}()
		return pc.LocalAddr().String()
	}
	a, b := backend("a"), backend("b")
	bind := freeBind(t)
	bind.UDP = true
	bind.Addr = netip.Addr{} // replies leave from where the client sent to
	port := func(to string) *Port {
		return &Port{Bind: bind, Gateway: "infra/gw", Public: 53, Listeners: []*Listener{{Owner: "Gateway/infra/gw", Name: "dns", Protocol: UDP, Streams: []*StreamRoute{streamRoute("r", nil, false, to)}}}}
	}
	var events failures
	s := startStreams(t, ServerConfig{Events: events.events(), Limits: Limits{Sessions: 4, SessionIdleTimeout: 2 * time.Second}}, []string{a, b}, port(a))
	ask := func(c net.Conn, q string) (name, via, got string, err error) {
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err = io.WriteString(c, q); err != nil {
			return
		}
		buf := make([]byte, 65535)
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		parts := strings.SplitN(string(buf[:n]), " ", 3)
		return parts[0], parts[1], parts[2], nil
	}
	dial := func(addr string) net.Conn {
		c, err := net.Dial("udp", net.JoinHostPort(addr, fmt.Sprint(bind.Port)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := dial("127.0.0.1")
	_, via, _, err := ask(c, "one")
	if err != nil {
		t.Fatal(err)
	}
	if name, again, got, err := ask(c, strings.Repeat("x", 20000)); err != nil || name != "a" || again != via || len(got) != 20000 {
		t.Errorf("the second datagram: %s %s %d bytes %v; want all of it from the first one's socket %s", name, again, len(got), err, via)
	}
	// A connected client takes replies from the address that it sent to alone.
	if name, _, _, err := ask(dial("127.0.0.7"), "two"); err != nil || name != "a" {
		t.Errorf("by another of our addresses: %s, %v", name, err)
	}
	_, clusters := backends(t)
	s.Apply(&Config{Ports: []*Port{port(b)}, Clusters: clusters(a, b)})
	if name, _, _, err := ask(c, "three"); err != nil || name != "b" {
		t.Errorf("the route leads to b now, and the answer came from %s, %v", name, err)
	}
	eventually(t, "sessions end when they are idle", func() bool { return events.open() == 0 })
	for range 6 {
		io.WriteString(dial("127.0.0.1"), "flood")
	}
	eventually(t, "sessions beyond the limit are refused", func() bool { return events.refused(RefusedSessions) >= 2 })
	s.Apply(&Config{})
	eventually(t, "the port is gone, and its sessions", func() bool { return events.open() == 0 })
}

func TestProxyProtocol(t *testing.T) {
	bind := freeBind(t)
	var events failures
	s := start(t, ServerConfig{Events: events.events(), Limits: Limits{HandshakeTimeout: time.Second}})
	port := func(from ...netip.Prefix) *Port {
		return &Port{Bind: bind, Gateway: "infra/gw", Public: 80, ClientIP: ClientIP{ProxyProtocol: from},
			Listeners: []*Listener{{Owner: "Gateway/infra/gw", Name: "http", Protocol: HTTP, Routes: rules("/")}}}
	}
	request := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
	ask := func(before string) string {
		c, err := net.Dial("tcp", bind.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, before+request)
		got, _ := io.ReadAll(c)
		return string(got)
	}
	v2 := func(local bool) string {
		h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 7}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 80})
		if local {
			h.Command, h.TransportProtocol, h.SourceAddr, h.DestinationAddr = proxyproto.LOCAL, proxyproto.UNSPEC, nil, nil
		}
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	v1 := "PROXY TCP4 203.0.113.9 192.0.2.1 4711 80\r\n"
	s.apply(t, port(netip.MustParsePrefix("127.0.0.0/8")))
	for name, tc := range map[string]struct{ header, want string }{
		"version 1":         {v1, `"Remote":"203.0.113.9:4711"`},
		"version 2":         {v2(false), `"Remote":"[2001:db8::7]:7"`},
		"version 2, LOCAL":  {v2(true), `"Remote":"127.0.0.1:`},
		"version 1 UNKNOWN": {"PROXY UNKNOWN\r\n", `"Remote":"127.0.0.1:`},
	} {
		if got := ask(tc.header); !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %q, want %s", name, got, tc.want)
		}
	}
	for name, header := range map[string]string{"none": "", "broken": "PROXY TCP4 x\r\n"} {
		if got := ask(header); got != "" {
			t.Errorf("header %s: got %q, want nothing: who the client is nobody knows", name, got)
		}
	}
	eventually(t, "both are counted", func() bool { return events.count(FailedProxyHeader) == 2 })
	s.apply(t, port(netip.MustParsePrefix("10.0.0.0/8")))
	if got := ask(v1); strings.Contains(got, "203.0.113.9") || !strings.HasPrefix(got, "HTTP/1.1 400") {
		t.Errorf("a header of somebody who is not trusted: got %q, want 400", got)
	}
	if got := ask(""); !strings.Contains(got, `"Remote":"127.0.0.1:`) {
		t.Errorf("no header of somebody who is not trusted: got %q", got)
	}
}
