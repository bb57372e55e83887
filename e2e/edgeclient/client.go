package edgeclient

//lint:file-ignore SA1019 a client that others bring; extended CONNECT takes its connections

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Version is one of HTTP's, as ALPN writes it (RFC 7301, RFC 9114 section 3.1).
type Version string

// The versions that there are.
const (
	HTTP1 Version = "http/1.1"
	HTTP2 Version = "h2"
	HTTP3 Version = "h3"
)

// Versions are all of them.
var Versions = []Version{HTTP1, HTTP2, HTTP3}

// Target is where a client goes, whatever name it asks for.
type Target struct {
	NS    *lab.Namespace
	Addr  netip.AddrPort
	Roots *x509.CertPool
	// Verify replaces the verification of the server's certificate; nil-able.
	Verify func(tls.ConnectionState) error
	// ClientCertificate is shown if it is asked for; nil-able.
	ClientCertificate *tls.Certificate
}

func (t Target) tls(v Version) *tls.Config {
	c := &tls.Config{RootCAs: t.Roots, NextProtos: []string{string(v)}}
	if t.ClientCertificate != nil {
		c.Certificates = []tls.Certificate{*t.ClientCertificate}
	}
	if t.Verify != nil {
		c.InsecureSkipVerify, c.VerifyConnection = true, t.Verify
	}
	return c
}

const dialTimeout = 5 * time.Second

// dialTLS opens a TLS connection for name by TCP.
func (t Target) dialTLS(ctx context.Context, name string, v Version) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := t.NS.Dial(ctx, nil, "tcp", t.Addr.String())
	if err != nil {
		return nil, err
	}
	config := t.tls(v)
	config.ServerName = name
	c := tls.Client(raw, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != string(v) && (v != HTTP1 || got != "") {
		_ = c.Close()
		return nil, fmt.Errorf("the server chose %q, and not %s", got, v)
	}
	return c, nil
}

// Client speaks one version of HTTP to one target. Close it.
type Client struct {
	http.Client
	Version Version

	closing func() error
	mu      sync.Mutex // guards quic
	quic    []*quicSocket
}

type quicSocket struct {
	socket    net.PacketConn
	transport *quic.Transport
}

func (q *quicSocket) Close() error { return errors.Join(q.transport.Close(), q.socket.Close()) }

// New returns a client of a version. It keeps its connections, and follows no
// redirect.
func New(t Target, v Version) *Client {
	c := &Client{Version: v}
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	switch v {
	case HTTP1:
		tr := &http.Transport{
			DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				return t.dialTLS(ctx, host, v)
			},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return t.NS.Dial(ctx, &net.Dialer{Timeout: dialTimeout}, "tcp", t.Addr.String())
			},
		}
		c.Transport = tr
		c.closing = func() error { tr.CloseIdleConnections(); return nil }
	case HTTP2:
		tr := &http2.Transport{DialTLSContext: func(ctx context.Context, _, addr string, _ *tls.Config) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return t.dialTLS(ctx, host, v)
		}}
		c.Transport = tr
		c.closing = func() error { tr.CloseIdleConnections(); return nil }
	case HTTP3:
		tr := &http3.Transport{TLSClientConfig: t.tls(v), Dial: func(ctx context.Context, _ string, tc *tls.Config, qc *quic.Config) (*quic.Conn, error) {
			q, err := t.open()
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			c.quic = append(c.quic, q)
			c.mu.Unlock()
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return q.transport.Dial(ctx, udpAddr(t), tc, qc)
		}}
		c.Transport = tr
		c.closing = tr.Close
	}
	return c
}

// open is a socket for QUIC.
func (t Target) open() (*quicSocket, error) {
	local := "0.0.0.0:0"
	if t.Addr.Addr().Is6() {
		local = "[::]:0"
	}
	s, err := t.NS.ListenPacket("udp", local)
	if err != nil {
		return nil, err
	}
	return &quicSocket{s, &quic.Transport{Conn: s}}, nil
}

// Close ends the client's connections that carry no request.
func (c *Client) Close() error {
	errs := []error{c.closing()}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, q := range c.quic {
		errs = append(errs, q.Close())
	}
	c.quic = nil
	return errors.Join(errs...)
}

// Answer is what came back.
type Answer struct {
	*http.Response
	Content []byte
}

// maxContent bounds what is kept of an answer.
const maxContent = 8 << 20

// Get asks for a URL and reads all of the answer. Headers are pairs of a name
// and a value.
func (c *Client) Get(ctx context.Context, url string, headers ...string) (Answer, error) {
	return c.Send(ctx, http.MethodGet, url, nil, headers...)
}

// Send is Get with a method and a body.
func (c *Client) Send(ctx context.Context, method, url string, body io.Reader, headers ...string) (Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return Answer{}, err
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(io.LimitReader(res.Body, maxContent))
	return Answer{res, content}, err
}

func udpAddr(t Target) net.Addr { return net.UDPAddrFromAddrPort(t.Addr) }
