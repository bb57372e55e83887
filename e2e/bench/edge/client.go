package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// Protocols, as in the names of cases.
const (
	protoH1  = "h1"  // HTTP/1.1 over TCP
	protoH1S = "h1s" // HTTP/1.1 over TLS
	protoH2  = "h2"  // over TLS
	protoH3  = "h3"
)

// A client is the load client for what wrk and h2load do not do.
type client struct {
	idle  []io.Closer
	churn *visitors
}

func (c *client) handle(do string, arg json.RawMessage) (any, error) {
	switch do {
	case "free":
		return order(arg, proc.FreePorts)
	case "await":
		return order(arg, await)
	case "handshakes":
		return order(arg, shakeHands)
	case "bulk":
		return order(arg, moveBulk)
	case "h3":
		return order(arg, loadH3)
	case "idle":
		return order(arg, c.hold)
	case "drop":
		return nil, c.drop()
	case "change":
		return order(arg, change)
	case "visit":
		return order(arg, c.visit)
	case "leave":
		return c.leave()
	}
	return proc.HandleCommon(do)
}

// order decodes an argument and carries out what it orders.
func order[A, R any](arg json.RawMessage, do func(A) (R, error)) (any, error) {
	a, err := proc.DecodeArg[A](arg)
	if err != nil {
		return nil, err
	}
	return do(a)
}

// awaitOrder asks for Path until the answer is 200.
type awaitOrder struct {
	Proto, Addr, Path string
	Patience          time.Duration
}

func await(o awaitOrder) (any, error) {
	deadline := time.Now().Add(o.Patience)
	for {
		err := ask(o.Proto, o.Addr, o.Path)
		if err == nil {
			return nil, nil
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%s at %s does not answer %s after its start: %w", o.Proto, o.Addr, o.Patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ask makes one request on a connection of its own. The whole answer must be the backend's.
func ask(proto, addr, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	rt, scheme, done := transport(proto)
	defer done()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+addr+path, nil)
	if err != nil {
		return err
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(body) != string(smallBody) {
		return fmt.Errorf("status %d with %d bytes is not the backend's answer", resp.StatusCode, len(body))
	}
	want := map[string]int{protoH1: 1, protoH1S: 1, protoH2: 2, protoH3: 3}[proto]
	if resp.ProtoMajor != want {
		return fmt.Errorf("answered over %s, want %s", resp.Proto, proto)
	}
	return nil
}

// transport is a fresh one, with no connection yet; done closes those it has made.
func transport(proto string) (rt http.RoundTripper, scheme string, done func()) {
	if proto == protoH3 {
		t := &http3.Transport{TLSClientConfig: clientTLS(), QUICConfig: quicConfig()}
		return t, "https", func() { t.Close() }
	}
	t := &http.Transport{TLSClientConfig: clientTLS(), DisableCompression: true, ReadBufferSize: 128 << 10, WriteBufferSize: 128 << 10}
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(proto != protoH2)
	t.Protocols.SetHTTP2(proto == protoH2)
	scheme = "https"
	if proto == protoH1 {
		scheme = "http"
	}
	return t, scheme, t.CloseIdleConnections
}

// clientTLS trusts anybody: the certificate is of this run, and verifying it is the client's work, which is not measured.
func clientTLS(alpn ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: alpn}
}

// dial opens a connection for HTTP/1.1.
func dial(proto, addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, 5*time.Second)
	if err != nil || proto == protoH1 {
		return c, err
	}
	t := tls.Client(c, clientTLS("http/1.1"))
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// exchangeH1 makes a request by hand and reads the answer's head; its body is what r has next.
func exchangeH1(c net.Conn, r *bufio.Reader, host, path string) (*http.Response, error) {
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host); err != nil {
		return nil, err
	}
	return http.ReadResponse(r, nil)
}

func dialH2(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp4", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, clientTLS("h2"))
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	if p := t.ConnectionState().NegotiatedProtocol; p != "h2" {
		c.Close()
		return nil, fmt.Errorf("ALPN chose %q, want h2", p)
	}
	return t, nil
}
