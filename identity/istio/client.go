package istio

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity"
)

const defaultTTL = 24 * time.Hour

// RootSource holds the roots that are trusted at the moment.
type RootSource interface {
	// Current returns the roots, none if they are not known yet. It answers
	// from memory: every handshake asks. The slice is shared and is not
	// changed; another one takes its place.
	Current() []*x509.Certificate
	// Subscribe returns a channel that holds one value once Current has
	// changed since the last receive. cancel ends the subscription; the
	// channel is never closed.
	Subscribe() (changed <-chan struct{}, cancel func())
}

// Config configures a [Client].
type Config struct {
	// Address is the server's host:port. Required.
	Address string
	// ServerName is the name or address that the server's certificate must
	// carry. "" is the host of Address.
	ServerName string
	// TokenFile holds the agent's own service account token, of audience
	// istio-ca. It is read again for every request. Required.
	TokenFile string
	// Roots are what the server and peers are verified against. Required.
	Roots RootSource
	// TrustDomain is the one whose identities are asked for. Required.
	TrustDomain spiffeid.TrustDomain
	// Aliases are further trust domains that the roots vouch for: the former
	// names of this mesh.
	Aliases []spiffeid.TrustDomain
	// ClusterID says to istiod which cluster's tokens these are. "" sends
	// none.
	ClusterID string
	// TTL is the life of an SVID that is asked for; the server may give less.
	// Zero means 24 h.
	TTL time.Duration
	// DialContext makes the connection to Address. nil is [net.Dialer]'s.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Logger receives changes of the roots. nil discards them.
	Logger *slog.Logger
}

// Client implements [identity.Source]. All requests share one connection, made
// at the first one and made again after trouble. Its methods may be called
// concurrently.
type Client struct {
	cfg        Config
	serverName string
	log        *slog.Logger
	denials    denials

	mu     sync.Mutex         // guards the fields below and those of conn
	conn   *conn              // the one for new calls; nil until the first
	conns  map[*conn]struct{} // all that are open
	bundle []*x509.Certificate
	named  map[spiffeid.TrustDomain]*x509bundle.Bundle // of bundle
	closed bool
}

var _ identity.Source = (*Client)(nil)

// New checks cfg and returns a client. It does no I/O.
func New(cfg Config) (*Client, error) {
	host, port, err := net.SplitHostPort(cfg.Address)
	switch {
	case err != nil:
		return nil, fmt.Errorf("ca address: %w; want host:port", err)
	case host == "" || port == "":
		return nil, fmt.Errorf("ca address %q: want host:port", cfg.Address)
	case cfg.TokenFile == "":
		return nil, errors.New("ca: no token file configured")
	case cfg.Roots == nil:
		return nil, errors.New("ca: no source of trusted roots configured")
	case cfg.TrustDomain.IsZero():
		return nil, errors.New("ca: no trust domain configured")
	case cfg.TTL < 0:
		return nil, fmt.Errorf("ca: negative ttl %s", cfg.TTL)
	}
	c := &Client{cfg: cfg, serverName: cfg.ServerName, log: cfg.Logger, conns: make(map[*conn]struct{})}
	c.cfg.Aliases = slices.Clone(cfg.Aliases)
	if c.serverName == "" {
		c.serverName = host
	}
	if c.cfg.TTL == 0 {
		c.cfg.TTL = defaultTTL
	}
	if c.cfg.DialContext == nil {
		c.cfg.DialContext = new(net.Dialer).DialContext
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Close ends the requests under way and the connection. Bundles can be had
// after that, SVIDs cannot.
func (c *Client) Close() error {
	c.mu.Lock()
	open := c.conns
	c.conn, c.conns, c.closed = nil, nil, true
	c.mu.Unlock()
	var errs []error
	for cn := range open {
		errs = append(errs, cn.cc.Close())
	}
	return errors.Join(errs...)
}

// FetchX509SVID asks for an SVID with a new key. While no root is trusted it
// waits for one. An error wraps [identity.ErrRefused] if the server finds fault
// with the request, or has said for a while that this agent may not have the
// identity; see [patience].
func (c *Client) FetchX509SVID(ctx context.Context, id spiffeid.ID) (*x509svid.SVID, error) {
	if id.TrustDomain() != c.cfg.TrustDomain {
		return nil, fmt.Errorf("%w: %q is not in trust domain %q", identity.ErrRefused, id, c.cfg.TrustDomain.Name())
	}
	key, csr, err := newRequest(id)
	if err != nil {
		return nil, fmt.Errorf("make the request for %s: %w", id, err)
	}
	if err := c.awaitRoots(ctx); err != nil {
		return nil, err
	}
	token, err := readToken(c.cfg.TokenFile)
	if err != nil {
		return nil, err
	}
	reply, err := c.call(ctx, token, &securityv1alpha1.IstioCertificateRequest{
		Csr:              string(csr),
		ValidityDuration: int64((c.cfg.TTL + time.Second - 1) / time.Second),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"ImpersonatedIdentity": structpb.NewStringValue(id.String()),
		}},
	})
	if err != nil {
		return nil, c.explain(id, err)
	}
	c.denials.forget(id)

	chain, err := parseChain(reply.GetCertChain())
	if err != nil {
		return nil, fmt.Errorf("ca %s answered with a broken certificate: %w", c.cfg.Address, err)
	}
	if err := checkLeaf(chain[0], id, key); err != nil {
		return nil, fmt.Errorf("ca %s answered with another certificate than asked for: %w", c.cfg.Address, err)
	}
	return &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key}, nil
}

func (c *Client) call(ctx context.Context, token string, req *securityv1alpha1.IstioCertificateRequest) (*securityv1alpha1.IstioCertificateResponse, error) {
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	defer c.release(conn)
	if c.cfg.ClusterID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "clusterid", c.cfg.ClusterID)
	}
	return securityv1alpha1.NewIstioCertificateServiceClient(conn.cc).
		CreateCertificate(ctx, req, grpc.PerRPCCredentials(bearer(token)))
}

// GetX509BundleForTrustDomain returns the roots of this moment, for the trust
// domain and its aliases.
func (c *Client) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != c.cfg.TrustDomain && !slices.Contains(c.cfg.Aliases, td) {
		return nil, fmt.Errorf("no trust bundle for %q, the CA is of %q", td.Name(), c.cfg.TrustDomain.Name())
	}
	current := c.cfg.Roots.Current()
	if len(current) == 0 {
		return nil, errNoRoots
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.bundle, current) {
		c.bundle = current
		c.named = make(map[spiffeid.TrustDomain]*x509bundle.Bundle)
		for _, td := range append([]spiffeid.TrustDomain{c.cfg.TrustDomain}, c.cfg.Aliases...) {
			c.named[td] = x509bundle.FromX509Authorities(td, current)
		}
	}
	return c.named[td], nil
}

var errNoRoots = errors.New("no root certificate is trusted yet; is the trust bundle there?")

// awaitRoots returns once there is a root, or errNoRoots when ctx ends.
func (c *Client) awaitRoots(ctx context.Context) error {
	if len(c.cfg.Roots.Current()) > 0 {
		return nil
	}
	changed, cancel := c.cfg.Roots.Subscribe()
	defer cancel()
	for len(c.cfg.Roots.Current()) == 0 {
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", errNoRoots, ctx.Err())
		}
	}
	return nil
}
