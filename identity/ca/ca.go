package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net/url"
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
	root        *root
	bundles     map[spiffeid.TrustDomain]*x509bundle.Bundle
}

var _ identity.Source = (*CA)(nil)

// root is the self-signed certificate and its key. They match.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

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

func openRoot(cfg Config) (*root, error) {
	if cfg.Dir != "" {
		return openDir(cfg)
	}
	r, err := newRoot(cfg.TrustDomain, cfg.RootTTL)
	if err == nil {
		cfg.Logger.Info("made a root certificate in memory; it is lost at exit and no other node trusts it",
			"trust_domain", cfg.TrustDomain.Name())
	}
	return r, err
}

func newRoot(td spiffeid.TrustDomain, ttl time.Duration) (*root, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             now.Add(-backdate(ttl)),
		NotAfter:              now.Add(ttl),
		URIs:                  []*url.URL{td.ID().URL()},
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs leaves, nothing else
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	// RFC 5280 4.1.2.6: an issuer has a name.
	template.Subject.Organization = []string{td.Name()}
	template.Subject.CommonName = "adit root"
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &root{cert: cert, key: key}, nil
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

	now := time.Now()
	notBefore, notAfter := now.Add(-backdate(c.ttl)), now.Add(c.ttl)
	if notBefore.Before(c.root.cert.NotBefore) {
		notBefore = c.root.cert.NotBefore
	}
	if notAfter.After(c.root.cert.NotAfter) {
		notAfter = c.root.cert.NotAfter
	}
	if !now.Before(notAfter) {
		return nil, fmt.Errorf("ca: the root certificate expired at %s; replace it on every node that shares it",
			stamp(c.root.cert.NotAfter))
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	// The profile of X509-SVID sections 2 to 4. The subject stays empty,
	// which makes the subject alternative name critical (RFC 5280 4.2.1.6).
	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		URIs:                  []*url.URL{id.URL()},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.root.cert, key.Public(), c.root.key)
	if err != nil {
		return nil, fmt.Errorf("ca: sign %s: %w", id, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("ca: sign %s: %w", id, err)
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}, nil
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

// backdate lets a peer whose clock is a little behind accept a new
// certificate, without ageing a very short-lived one before its birth.
func backdate(ttl time.Duration) time.Duration { return min(maxBackdate, ttl/10) }

// newSerial returns a positive number of 128 random bits, so that no two
// processes that share a root need to talk about it.
func newSerial() (*big.Int, error) {
	for {
		n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
		if err != nil || n.Sign() > 0 {
			return n, err
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
