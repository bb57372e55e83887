package istio

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// maxReply bounds what the server may send. A chain and a bundle of many
	// RSA roots are some tens of kilobytes.
	maxReply = 1 << 20
	// maxRedial bounds the pause between attempts to connect. Pods wait for
	// the server to come back, so it is short; who asks too often is held
	// back per identity by the manager.
	maxRedial = 3 * time.Second
)

var errClosed = errors.New("the client of the CA is closed")

// conn is a connection whose server was verified against roots. Its fields
// are guarded by Client.mu.
type conn struct {
	cc      *grpc.ClientConn
	roots   []*x509.Certificate
	calls   int
	retired bool // replaced: whoever ends the last call closes it
}

// connect returns the shared connection for one call, which ends with release.
// One that was verified against other roots than today's is replaced: a root
// may have been withdrawn, and a server that was refused may be right now.
func (c *Client) connect() (*conn, error) {
	roots := c.cfg.Roots.Current()
	cn, unused, err := c.acquire(roots)
	if unused != nil {
		unused.cc.Close() // waits for the connection's goroutines, so not under the lock
	}
	return cn, err
}

func (c *Client) acquire(roots []*x509.Certificate) (cn, unused *conn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, errClosed
	}
	if c.conn == nil || !slices.EqualFunc(c.conn.roots, roots, (*x509.Certificate).Equal) {
		cc, err := c.newConn(roots)
		if err != nil {
			return nil, nil, err
		}
		if old := c.conn; old != nil {
			c.log.Info("trusted roots changed, connecting to the CA anew", "address", c.cfg.Address, "roots", len(roots))
			old.retired = true
			if old.calls == 0 {
				unused = old
				delete(c.conns, old)
			}
		}
		c.conn = &conn{cc: cc, roots: roots}
		c.conns[c.conn] = struct{}{}
	}
	c.conn.calls++
	return c.conn, unused, nil
}

func (c *Client) release(cn *conn) {
	c.mu.Lock()
	cn.calls--
	last := cn.retired && cn.calls == 0
	if last {
		delete(c.conns, cn)
	}
	c.mu.Unlock()
	if last {
		cn.cc.Close()
	}
}

// newConn does no I/O: the first call connects.
func (c *Client) newConn(roots []*x509.Certificate) (*grpc.ClientConn, error) {
	// passthrough leaves the name to the dialer, which asks at every attempt
	// and tries all addresses.
	cc, err := grpc.NewClient("passthrough:///"+c.cfg.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.tlsConfig(roots))),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return c.cfg.DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRedial},
			MinConnectTimeout: 5 * time.Second,
		}),
		// The connection is idle for hours, and its server may be gone with
		// its node: the first call then finds out before it times out.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("ca address %s: %w", c.cfg.Address, err)
	}
	return cc, nil
}

func (c *Client) tlsConfig(roots []*x509.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // istiod's
		RootCAs:    pool,
		ServerName: c.serverName,
	}
}

// bearer is a service account token, sent with one call, never in the clear.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
