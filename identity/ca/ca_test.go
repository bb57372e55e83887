package ca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/adit-mesh/adit/identity"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("cluster.local")
	web    = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/web")
)

func open(t testing.TB, cfg Config) *CA {
	t.Helper()
	if cfg.TrustDomain.IsZero() {
		cfg.TrustDomain = domain
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func issue(t testing.TB, c *CA) *x509.Certificate {
	t.Helper()
	svid, err := c.FetchX509SVID(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	return svid.Certificates[0]
}

func TestSVIDProfile(t *testing.T) {
	c := open(t, Config{})
	svid, err := c.FetchX509SVID(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.Verify(svid.Certificates, c); err != nil || id != web {
		t.Errorf("verifies as %s, %v", id, err)
	}
	leaf := svid.Certificates[0]
	if leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Error("basic constraints must say CA:FALSE")
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b, want digitalSignature only", leaf.KeyUsage)
	}
	if want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}; !slices.Equal(leaf.ExtKeyUsage, want) {
		t.Errorf("extended key usage %v, want %v", leaf.ExtKeyUsage, want)
	}
	if len(leaf.Subject.Names) != 0 || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		t.Error("an SVID names its workload by the URI and nothing else")
	}
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	for _, ext := range leaf.Extensions {
		if ext.Id.Equal(san) && !ext.Critical {
			t.Error("subject is empty, so the subject alternative name must be critical")
		}
	}
	if ttl := time.Until(leaf.NotAfter); ttl < 23*time.Hour || ttl > 24*time.Hour {
		t.Errorf("lives another %s, want 24 h", ttl)
	}
	if !leaf.NotBefore.Before(time.Now().Add(-30 * time.Second)) {
		t.Errorf("not before %s: a peer whose clock is late refuses it", leaf.NotBefore)
	}
	if !bytes.Equal(leaf.AuthorityKeyId, c.root.cert.SubjectKeyId) || len(leaf.AuthorityKeyId) == 0 {
		t.Error("authority key id does not name the root")
	}
}

func TestRootProfile(t *testing.T) {
	root := open(t, Config{}).root.cert
	if !root.IsCA || !root.MaxPathLenZero || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA %v, path length 0 %v, key usage %b", root.IsCA, root.MaxPathLenZero, root.KeyUsage)
	}
	if len(root.URIs) != 1 || root.URIs[0].String() != "spiffe://cluster.local" {
		t.Errorf("URIs %v, want the trust domain", root.URIs)
	}
	if root.Subject.String() == "" {
		t.Error("an issuer has a name")
	}
}

func TestSerialsAreRandom(t *testing.T) {
	c := open(t, Config{})
	seen := make(map[string]bool)
	bits := 0
	for range 50 {
		serial := issue(t, c).SerialNumber
		if serial.Sign() <= 0 || serial.BitLen() > 128 {
			t.Errorf("serial %x: want 1 to 128 bits", serial)
		}
		bits = max(bits, serial.BitLen())
		seen[serial.String()] = true
	}
	if len(seen) != 50 || bits < 120 {
		t.Errorf("%d serials of at most %d bits from 50 certificates", len(seen), bits)
	}
}

func TestRefusesToIssue(t *testing.T) {
	c := open(t, Config{Aliases: []spiffeid.TrustDomain{spiffeid.RequireTrustDomainFromString("old.local")}})
	for _, s := range []string{
		"spiffe://other.org/ns/default/sa/web",
		"spiffe://old.local/ns/default/sa/web",
		"spiffe://cluster.local",
		"spiffe://cluster.local/ns/default",
		"spiffe://cluster.local/spire/server",
	} {
		if _, err := c.FetchX509SVID(t.Context(), spiffeid.RequireFromString(s)); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("%s: %v; want ErrRefused", s, err)
		}
	}
	if _, err := c.FetchX509SVID(t.Context(), spiffeid.ID{}); !errors.Is(err, identity.ErrRefused) {
		t.Errorf("the zero ID: %v; want ErrRefused", err)
	}
}

func TestBundles(t *testing.T) {
	old := spiffeid.RequireTrustDomainFromString("old.local")
	c := open(t, Config{Aliases: []spiffeid.TrustDomain{old}})
	for _, td := range []spiffeid.TrustDomain{domain, old} {
		b, err := c.GetX509BundleForTrustDomain(td)
		if err != nil || b.TrustDomain() != td || !b.HasX509Authority(c.root.cert) {
			t.Errorf("%s: %v, %v", td, b, err)
		}
	}
	if _, err := c.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("evil.org")); err == nil {
		t.Error("a bundle for a trust domain nobody configured")
	}
}

func TestNothingOutlivesTheRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, Config{TTL: 24 * time.Hour, RootTTL: 36 * time.Hour})
		first := issue(t, c)
		if first.NotBefore.Before(c.root.cert.NotBefore) {
			t.Errorf("SVID from %s, root from %s", first.NotBefore, c.root.cert.NotBefore)
		}
		time.Sleep(20 * time.Hour)
		if got := issue(t, c).NotAfter; !got.Equal(c.root.cert.NotAfter) {
			t.Errorf("SVID to %s, root to %s", got, c.root.cert.NotAfter)
		}
		time.Sleep(17 * time.Hour)
		if _, err := c.FetchX509SVID(t.Context(), web); err == nil || !strings.Contains(err.Error(), "root certificate expired at") {
			t.Errorf("issued under an expired root: %v", err)
		}
	})
}

func TestConfigurationErrors(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "no trust domain"},
		{Config{TrustDomain: domain, TTL: -1}, "negative"},
		{Config{TrustDomain: domain, TTL: time.Hour, RootTTL: time.Minute}, "shorter than"},
	} {
		if _, err := Open(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v; want %q", tt.cfg, err, tt.want)
		}
	}
}
