package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Issuer is a certificate that may sign others, with its key: a root, or an
// intermediate under one. It is immutable.
type Issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
	// chain is what comes after a leaf when it is presented: cert and what is
	// between it and the root. A root has none.
	chain []*x509.Certificate
	// notBefore and notAfter bound what is signed: the time in which the whole
	// chain, the root included, is valid.
	notBefore, notAfter time.Time
}

// Certificate returns the certificate whose key signs.
func (i *Issuer) Certificate() *x509.Certificate { return i.cert }

// NotAfter is when the issuer, or what it depends on, expires.
func (i *Issuer) NotAfter() time.Time { return i.notAfter }

func rootIssuer(cert *x509.Certificate, key crypto.Signer) *Issuer {
	return &Issuer{cert: cert, key: key, notBefore: cert.NotBefore, notAfter: cert.NotAfter}
}

// NewRoot makes a self-signed root of a trust domain that lives for ttl and
// signs leaves, no other CAs.
func NewRoot(td spiffeid.TrustDomain, ttl time.Duration) (*Issuer, error) {
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
	return rootIssuer(cert, key), nil
}

// SignSVID issues an SVID for id and the holder of public's private key: the
// certificates to present, leaf first. It begins a little in the past, for
// peers whose clocks are behind, and ends after ttl or with the issuer. Who may
// have which identity is for the caller to know.
func (i *Issuer) SignSVID(id spiffeid.ID, public crypto.PublicKey, ttl time.Duration) ([]*x509.Certificate, error) {
	// The profile of X509-SVID sections 2 to 4. The subject stays empty,
	// which makes the subject alternative name critical (RFC 5280 4.2.1.6).
	chain, err := i.sign(&x509.Certificate{
		URIs:        []*url.URL{id.URL()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public, ttl)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", id, err)
	}
	return chain, nil
}

// SignServer issues a certificate for a server of the given DNS names and
// addresses. It names no workload, so it is nobody in the mesh; and no SVID
// names a host, so no workload can pose as the server.
func (i *Issuer) SignServer(names []string, public crypto.PublicKey, ttl time.Duration) ([]*x509.Certificate, error) {
	template := &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	chain, err := i.sign(template, public, ttl)
	if err != nil {
		return nil, fmt.Errorf("sign the server certificate: %w", err)
	}
	return chain, nil
}

// sign completes the template of a leaf and signs it.
func (i *Issuer) sign(template *x509.Certificate, public crypto.PublicKey, ttl time.Duration) ([]*x509.Certificate, error) {
	now := time.Now()
	notBefore, notAfter := now.Add(-backdate(ttl)), now.Add(ttl)
	if notBefore.Before(i.notBefore) {
		notBefore = i.notBefore
	}
	if notAfter.After(i.notAfter) {
		notAfter = i.notAfter
	}
	if !now.Before(notAfter) {
		return nil, fmt.Errorf("the root certificate expired at %s, or one between it and the leaf; it must be replaced",
			stamp(i.notAfter))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = notBefore, notAfter
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, public, i.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{leaf}, i.chain...), nil
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
