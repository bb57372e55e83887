package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Why a peer's certificate was refused. Handshake errors of this package's
// TLS configurations wrap exactly one of them.
var (
	// ErrNoCertificate: the peer presented none.
	ErrNoCertificate = errors.New("peer presented no certificate")
	// ErrNotSVID: its leaf is not an X.509-SVID.
	ErrNotSVID = errors.New("certificate is not an X.509-SVID")
	// ErrForeignTrustDomain: its trust domain is not one of ours.
	ErrForeignTrustDomain = errors.New("peer is of a foreign trust domain")
	// ErrExpired: the leaf, or a certificate it depends on, is not valid now.
	ErrExpired = errors.New("certificate is expired or not yet valid")
	// ErrUntrusted: no chain leads to a root of its trust domain.
	ErrUntrusted = errors.New("certificate is not signed by a root of its trust domain")
	// ErrUnexpectedPeer: the certificate is good and not who was dialled.
	ErrUnexpectedPeer = errors.New("peer is not who was expected")
)

var (
	anyPurpose = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	asServer   = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	asClient   = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
)

// PeerID returns the SPIFFE ID of the peer's leaf certificate. It was verified
// if the connection was made with a configuration of a [Manager].
func PeerID(cs tls.ConnectionState) (spiffeid.ID, error) {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return spiffeid.ID{}, ErrNoCertificate
	}
	return leafID(cs.PeerCertificates[0])
}

func leafID(leaf *x509.Certificate) (spiffeid.ID, error) {
	// X509-SVID section 2: exactly one URI SAN, and it is the SPIFFE ID. A
	// second URI would leave it to each reader which one it believes.
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %w (serial %x)", ErrNotSVID, err, leaf.SerialNumber)
	}
	return id, nil
}

// verifyChain verifies certs, leaf first, as an X.509-SVID at time now and
// returns its SPIFFE ID.
// https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md#5-validation
func verifyChain(certs []*x509.Certificate, bundles x509bundle.Source, now time.Time, purpose []x509.ExtKeyUsage) (spiffeid.ID, error) {
	if len(certs) == 0 {
		return spiffeid.ID{}, ErrNoCertificate
	}
	leaf := certs[0]
	id, err := leafID(leaf)
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case id.Path() == "":
		return spiffeid.ID{}, fmt.Errorf("%w: %s names a trust domain, not a workload", ErrNotSVID, id)
	case leaf.IsCA:
		return spiffeid.ID{}, fmt.Errorf("%w: %s presented a CA certificate", ErrNotSVID, id)
	case leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return spiffeid.ID{}, fmt.Errorf("%w: %s presented a certificate that may sign others", ErrNotSVID, id)
	}

	bundle, err := bundles.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("%w: %s: no trust bundle: %w", ErrForeignTrustDomain, id, err)
	}
	roots := x509.NewCertPool()
	for _, c := range bundle.X509Authorities() {
		roots.AddCert(c)
	}
	intermediates := x509.NewCertPool()
	for _, c := range certs[1:] {
		intermediates.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     purpose,
	})
	if err == nil {
		return id, nil
	}

	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		c := invalid.Cert
		if c == nil {
			c = leaf
		}
		which := "that of"
		if !c.Equal(leaf) {
			which = "that of the issuer of"
		}
		return spiffeid.ID{}, fmt.Errorf("%w: %s %s is valid from %s to %s and it is now %s; check the renewal where it comes from, and both clocks",
			ErrExpired, which, id, stamp(c.NotBefore), stamp(c.NotAfter), stamp(now))
	}
	return spiffeid.ID{}, fmt.Errorf("%w: %s: %w", ErrUntrusted, id, err)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// verifyClient is what a server asks of its client: any workload of our trust
// domains. What it may do is for policy to say.
func (m *Manager) verifyClient(cs tls.ConnectionState) error {
	if err := m.ours(cs.PeerCertificates); err != nil {
		return err
	}
	_, err := verifyChain(cs.PeerCertificates, m.source, time.Now(), asClient)
	return err
}

// ours refuses a foreign trust domain before its chain is looked at: the
// operator then reads the reason, not its consequence.
func (m *Manager) ours(certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return ErrNoCertificate
	}
	id, err := leafID(certs[0])
	if err != nil {
		return err
	}
	if !m.trustDomains[id.TrustDomain()] {
		return fmt.Errorf("%w: %s; accepted: %s", ErrForeignTrustDomain, id, m.accepted)
	}
	return nil
}

// verifyServer is what a client asks of its server: to be one of expect.
func (m *Manager) verifyServer(cs tls.ConnectionState, expect []spiffeid.ID) error {
	if err := m.ours(cs.PeerCertificates); err != nil {
		return err
	}
	id, err := verifyChain(cs.PeerCertificates, m.source, time.Now(), asServer)
	if err != nil {
		return err
	}
	for _, want := range expect {
		// The zero ID means nobody and matches nobody.
		if id == want && !want.IsZero() {
			return nil
		}
	}
	if len(expect) == 0 {
		return fmt.Errorf("%w: it is %s; no identity is known for this destination", ErrUnexpectedPeer, id)
	}
	return fmt.Errorf("%w: it is %s; expected %s", ErrUnexpectedPeer, id, joinNames(expect))
}

// joinNames lists up to four names.
func joinNames[T interface{ String() string }](names []T) string {
	if len(names) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, n := range names {
		if i == 4 {
			fmt.Fprintf(&b, " and %d more", len(names)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(n.String())
	}
	return b.String()
}
