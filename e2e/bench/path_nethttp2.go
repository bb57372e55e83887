//lint:file-ignore SA1019 The rival is this package itself, which is what others build on, deprecated or not.

package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// What golang.org/x/net/http2 does best with, found by trying: large frames and buffers make up for its one write per frame,
// windows beyond ztunnel's gain nothing on a loopback.
const (
	netHTTP2Frame        = 1 << 20
	netHTTP2StreamWindow = 4 << 20
	netHTTP2ConnWindow   = 1 << 30
	netHTTP2Streams      = 1 << 20
	netHTTP2Buffer       = 256 << 10 // per copy
	netHTTP2SocketBuffer = 128 << 10 // read from the tunnel's socket at once
)

// newNetHTTP2Half returns the half of a pair that tunnels in CONNECT streams of x/net's own client and server.
func newNetHTTP2Half(o agentOrder) (half, error) {
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	if o.Side == sideB {
		return &netHTTP2Server{config: config}, nil
	}
	// Only by way of an http.Transport can the client's windows be set.
	t, err := http2.ConfigureTransports(&http.Transport{
		DisableCompression: true,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: netHTTP2ConnWindow - 1,
			MaxReceiveBufferPerStream:     netHTTP2StreamWindow,
			MaxReadFrameSize:              netHTTP2Frame,
		},
	})
	if err != nil {
		return nil, err
	}
	return &netHTTP2Client{config: config, next: o.Next, target: o.Target.String(), transport: t}, nil
}

// bigReads reads from the socket in larger pieces than crypto/tls, which asks for a record at a time.
type bigReads struct {
	*net.TCPConn
	r *bufio.Reader
}

func withBigReads(c *net.TCPConn) *bigReads {
	return &bigReads{c, bufio.NewReaderSize(c, netHTTP2SocketBuffer)}
}

func (b *bigReads) Read(p []byte) (int, error) { return b.r.Read(p) }

type netHTTP2Client struct {
	config    *tls.Config
	next      netip.AddrPort
	target    string
	transport *http2.Transport
	cold      atomic.Bool

	mu     sync.Mutex
	tunnel *http2.ClientConn
}

func (h *netHTTP2Client) setCold(on bool) { h.cold.Store(on) }

func (h *netHTTP2Client) serve(l net.Listener) {
	serveEach(l, func(c *net.TCPConn) {
		defer c.Close()
		if err := h.tunnelOne(c); err != nil {
			c.SetLinger(0)
		}
	})
}

func (h *netHTTP2Client) tunnelOne(c *net.TCPConn) error {
	tunnel, err := h.open()
	if err != nil {
		return err
	}
	if h.cold.Load() {
		defer tunnel.Close()
	}
	req := &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: h.target}, Host: h.target,
		Header:        http.Header{},
		Body:          requestBody{c}, // the transport reads the socket itself: no pipe between
		ContentLength: -1,
	}
	resp, err := tunnel.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT %s: %s", h.target, resp.Status)
	}
	if err := copyBytes(c, resp.Body, netHTTP2Buffer); err != nil {
		return err
	}
	// The server's handler has returned, so both directions are over.
	return c.CloseWrite()
}

// open returns the one tunnel, or a new one if cold.
func (h *netHTTP2Client) open() (*http2.ClientConn, error) {
	if h.cold.Load() {
		return h.dial()
	}
	h.mu.Lock() // across the dial: all who wait want this very tunnel
	defer h.mu.Unlock()
	if h.tunnel != nil && h.tunnel.CanTakeNewRequest() {
		return h.tunnel, nil
	}
	var err error
	h.tunnel, err = h.dial()
	return h.tunnel, err
}

func (h *netHTTP2Client) dial() (*http2.ClientConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	raw, err := dialTCP(h.next)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(withBigReads(raw), h.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	cc, err := h.transport.NewClientConn(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return cc, awaitSettings(ctx, cc)
}

// awaitSettings waits for the server's SETTINGS: before them the transport believes in 100 streams and 64 KiB windows.
// A PING is answered after them.
func awaitSettings(ctx context.Context, cc *http2.ClientConn) error {
	if err := cc.Ping(ctx); err != nil {
		cc.Close()
		return err
	}
	return nil
}

// requestBody is a connection that the transport reads. Closing it stops the reading only: the response may go on.
type requestBody struct{ c *net.TCPConn }

func (b requestBody) Read(p []byte) (int, error) { return b.c.Read(p) }
func (b requestBody) Close() error               { return b.c.SetReadDeadline(time.Unix(1, 0)) }

type netHTTP2Server struct {
	warm
	config *tls.Config
}

func (h *netHTTP2Server) serve(l net.Listener) {
	server := &http2.Server{
		MaxConcurrentStreams:         netHTTP2Streams,
		MaxReadFrameSize:             netHTTP2Frame,
		MaxUploadBufferPerConnection: netHTTP2ConnWindow,
		MaxUploadBufferPerStream:     netHTTP2StreamWindow,
	}
	options := &http2.ServeConnOpts{Handler: http.HandlerFunc(serveCONNECT), BaseConfig: new(http.Server)}
	serveEach(l, func(c *net.TCPConn) {
		conn := tls.Server(withBigReads(c), h.config)
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		defer cancel()
		if err := conn.HandshakeContext(ctx); err != nil {
			reset(c)
			return
		}
		server.ServeConn(conn, options)
	})
}

func serveCONNECT(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	c, err := dialAuthority(r.Host)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer c.Close()
	flusher := w.(http.Flusher)
	w.WriteHeader(http.StatusOK)
	flusher.Flush()
	var up sync.WaitGroup
	up.Go(func() {
		if err := copyBytes(c, r.Body, netHTTP2Buffer); err != nil {
			reset(c)
			return
		}
		c.CloseWrite()
	})
	if err := copyAndFlush(w, flusher, c); err != nil {
		reset(c)
		r.Body.Close()
		up.Wait()
		panic(http.ErrAbortHandler) // the only way to end a response with RST_STREAM
	}
	// Returning is the only way to end the response, and cuts what is still coming up: wait for neither.
	r.Body.Close()
	up.Wait()
}

// copyAndFlush writes each read at once: what the server buffers would otherwise wait for more.
func copyAndFlush(w io.Writer, f http.Flusher, c *net.TCPConn) error {
	buf := takeBuffer(netHTTP2Buffer)
	defer giveBuffer(buf)
	for {
		n, err := c.Read(*buf)
		if n > 0 {
			if _, err := w.Write((*buf)[:n]); err != nil {
				return err
			}
			f.Flush()
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
