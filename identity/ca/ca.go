package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/adit-mesh/adit/identity"
)

const (
	defaultTTL     = 24 * time.Hour
	defaultRootTTL = 10 * 365 * 24 * time.Hour
	// maxBackdate is how far our clock may be ahead of a peer's.
	maxBackdate = time.Minute
	// rootWarning is how long before its end an aging root is complained of.
	rootWarning = 30 * 24 * time.Hour
)

// Config configures a [CA].
type Config struct {
	// Dir keeps the root: certificate and key in one file, root.pem. It is
	// made if it is missing, and may be shared by several processes. ""
	// keeps the root in memory and makes a new one at every start.
	Dir string
	// TrustDomain is the one whose SVIDs are issued. Required.
	TrustDomain spiffeid.TrustDomain
	// Aliases are further trust domains that the root vouches for: the
	// former names of this mesh. Their SVIDs verify; none are issued.
	Aliases []spiffeid.TrustDomain
	// TTL is the life of an SVID. Zero means 24 h. It is cut short where it
	// would outlive the root.
	TTL time.Duration
	// RootTTL is the life of a root made by Open. Zero means 10 years.
	RootTTL time.Duration
	// Logger receives the making of a root and warnings about it. nil
	// discards them.
	Logger *slog.Logger
}

// CA issues SVIDs under its own root. It implements [identity.Source]. Its
// methods may be called concurrently and never block.
type CA struct {
	trustDomain spiffeid.TrustDomain
	ttl         time.Duration
	root        *Issuer
	bundles     map[spiffeid.TrustDomain]*x509bundle.Bundle
}

var _ identity.Source = (*CA)(nil)

// Open loads the root of cfg.Dir, or makes it. Of several processes that open
// an empty directory at once, one makes the root and all use it.
func Open(cfg Config) (*CA, error) {
	if cfg.TrustDomain.IsZero() {
		return nil, fmt.Errorf("ca: no trust domain configured")
	}
	if cfg.TTL < 0 || cfg.RootTTL < 0 {
		return nil, fmt.Errorf("ca: negative ttl %s, root ttl %s", cfg.TTL, cfg.RootTTL)
	}
	if cfg.TTL == 0 {
		cfg.TTL = defaultTTL
	}
	if cfg.RootTTL == 0 {
		cfg.RootTTL = max(defaultRootTTL, cfg.TTL)
	}
	if cfg.RootTTL < cfg.TTL {
		return nil, fmt.Errorf("ca: root ttl %s is shorter than the ttl of what it signs, %s", cfg.RootTTL, cfg.TTL)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}

	r, err := openRoot(cfg)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if left := time.Until(r.cert.NotAfter); left < rootWarning && cfg.RootTTL > rootWarning {
		cfg.Logger.Warn("the mesh's root certificate expires soon; SVIDs are cut short to it",
			"dir", cfg.Dir, "not_after", r.cert.NotAfter)
	}

	c := &CA{
		trustDomain: cfg.TrustDomain,
		ttl:         cfg.TTL,
		root:        r,
		bundles:     make(map[spiffeid.TrustDomain]*x509bundle.Bundle),
	}
	for _, td := range append([]spiffeid.TrustDomain{cfg.TrustDomain}, cfg.Aliases...) {
		c.bundles[td] = x509bundle.FromX509Authorities(td, []*x509.Certificate{r.cert})
	}
	return c, nil
}

func openRoot(cfg Config) (*Issuer, error) {
	if cfg.Dir != "" {
		return openDir(cfg)
	}
	r, err := NewRoot(cfg.TrustDomain, cfg.RootTTL)
	if err == nil {
		cfg.Logger.Info("made a root certificate in memory; it is lost at exit and no other node trusts it",
			"trust_domain", cfg.TrustDomain.Name())
	}
	return r, err
}

// FetchX509SVID issues an SVID with a new key. id must be a workload of the
// CA's trust domain, spiffe://<trust domain>/ns/<namespace>/sa/<account>; any
// other is refused with [identity.ErrRefused].
func (c *CA) FetchX509SVID(_ context.Context, id spiffeid.ID) (*x509svid.SVID, error) {
	if id.TrustDomain() != c.trustDomain {
		return nil, fmt.Errorf("ca: %w: %q is not in trust domain %q of this CA", identity.ErrRefused, id, c.trustDomain.Name())
	}
	if _, _, ok := identity.ParseWorkloadID(id); !ok {
		return nil, fmt.Errorf("ca: %w: %q is not of the form spiffe://%s/ns/<namespace>/sa/<service account>",
			identity.ErrRefused, id, c.trustDomain.Name())
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	chain, err := c.root.SignSVID(id, key.Public(), c.ttl)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return &x509svid.SVID{ID: id, Certificates: chain, PrivateKey: key}, nil
}

// GetX509BundleForTrustDomain returns the root, for the CA's trust domain and
// its aliases.
func (c *CA) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	b, ok := c.bundles[td]
	if !ok {
		return nil, fmt.Errorf("ca: no trust bundle for %q, this CA is of %q", td.Name(), c.trustDomain.Name())
	}
	return b, nil
}
