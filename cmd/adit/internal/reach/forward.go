package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"
)

// forwarder opens connections to a port of a pod through the API server, as
// kubectl port-forward does, without a listener on this machine for anybody
// else to find.
type forwarder struct {
	config *rest.Config
	url    *url.URL // of the pod's portforward
	port   uint16
}

// tunnelPrefix says that SPDY is spoken inside a WebSocket (KEP-4006).
const tunnelPrefix = "SPDY/3.1+"

// dial opens one connection. Closing it closes all that it needed.
func (f *forwarder) dial(ctx context.Context) (net.Conn, error) {
	session, err := f.overWebSocket(ctx)
	if httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) {
		session, err = f.overSPDY(ctx) // an API server before 1.31, or a proxy of another mind
	}
	if err != nil {
		return nil, fmt.Errorf("port-forward through the API server: %w", err)
	}
	// CreateStream waits for the other side, and takes no context.
	stop := context.AfterFunc(ctx, func() { session.Close() })
	c, err := f.connect(session)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		session.Close()
		return nil, err
	}
	return c, nil
}

func (f *forwarder) overWebSocket(ctx context.Context) (httpstream.Connection, error) {
	transport, holder, err := websocket.RoundTripperFor(f.config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return nil, err
	}
	ws, err := websocket.Negotiate(transport, holder, req, tunnelPrefix+portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	return streamspdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("adit", ws), pingPeriod)
}

// pingPeriod keeps load balancers from forgetting a tunnel between two rounds
// of a watch.
const pingPeriod = 10 * time.Second

func (f *forwarder) overSPDY(ctx context.Context) (httpstream.Connection, error) {
	transport, upgrader, err := spdy.RoundTripperFor(f.config)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url.String(), nil)
	if err != nil {
		return nil, err
	}
	session, _, err := spdy.NegotiateStreaming(upgrader, &http.Client{Transport: transport}, req, portforward.PortForwardProtocolV1Name)
	return session, err
}

// connect makes the two streams of one forwarded connection. The error stream
// comes first, and its text, if any, is why the data stream ends.
func (f *forwarder) connect(session httpstream.Connection) (net.Conn, error) {
	header := http.Header{}
	header.Set(corev1.PortHeader, strconv.Itoa(int(f.port)))
	header.Set(corev1.PortForwardRequestIDHeader, "0")
	header.Set(corev1.StreamType, corev1.StreamTypeError)
	errs, err := session.CreateStream(header)
	if err != nil {
		return nil, fmt.Errorf("open the error stream of a port-forward: %w", err)
	}
	errs.Close() // nothing is written there
	header.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := session.CreateStream(header)
	if err != nil {
		return nil, fmt.Errorf("open the data stream of a port-forward: %w", err)
	}
	c := &forwarded{session: session, data: data, failed: make(chan struct{})}
	go c.readErrors(errs)
	return c, nil
}

// forwarded is a connection through the API server.
type forwarded struct {
	session httpstream.Connection
	data    httpstream.Stream
	close   sync.Once

	failed chan struct{} // closed when the error stream has ended
	why    string        // what it said; read after failed
}

// readErrors ends with the session at the latest.
func (c *forwarded) readErrors(errs io.Reader) {
	defer close(c.failed)
	text, _ := io.ReadAll(io.LimitReader(errs, 4096))
	if c.why = strings.TrimSpace(string(text)); c.why != "" {
		c.data.Reset() // kubelet leaves it open
	}
}

func (c *forwarded) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

func (c *forwarded) Write(p []byte) (int, error) {
	n, err := c.data.Write(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// reasonWait is how long the reason of an end may come after the end.
const reasonWait = 200 * time.Millisecond

// explain puts the kubelet's words in the place of a bare end. Go's HTTP client
// wants io.EOF as it is.
func (c *forwarded) explain(err error) error {
	select {
	case <-c.failed:
	case <-time.After(reasonWait):
		return err
	}
	if c.why == "" {
		return err
	}
	return &forwardError{c.why}
}

// forwardError is why the kubelet cannot forward to a port, in its words.
type forwardError struct{ why string }

func (e *forwardError) Error() string { return e.why }

func (c *forwarded) Close() error {
	c.close.Do(func() {
		c.data.Reset()
		c.session.Close()
	})
	return nil
}

func (c *forwarded) LocalAddr() net.Addr  { return forwardedAddr{} }
func (c *forwarded) RemoteAddr() net.Addr { return forwardedAddr{} }

// Deadlines are by context: net/http closes the connection at its end.
func (c *forwarded) SetDeadline(time.Time) error      { return nil }
func (c *forwarded) SetReadDeadline(time.Time) error  { return nil }
func (c *forwarded) SetWriteDeadline(time.Time) error { return nil }

// forwardedAddr stands for the two ends, of which neither is on this machine.
type forwardedAddr struct{}

func (forwardedAddr) Network() string { return "portforward" }
func (forwardedAddr) String() string  { return "port-forward" }
