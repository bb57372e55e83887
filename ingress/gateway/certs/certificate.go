package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// minRSABits is what a public key must have: CA/Browser Forum Baseline
// Requirements 6.1.5. Shorter ones are refused by clients anyway.
const minRSABits = 2048

// Certificate reads tls.crt and tls.key of a Secret of type kubernetes.io/tls or
// Opaque. Leaf is set. Whether the certificate is valid now is another question:
// see Validity.
func Certificate(s *corev1.Secret) (*tls.Certificate, *Error) {
	return newSecret(s).certificate()
}

func parsePair(crt, key []byte) (*tls.Certificate, *Error) {
	chain, err := parseCertificates(corev1.TLSCertKey, crt)
	if err != nil {
		return nil, err
	}
	signer, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	leaf := chain[0]
	if err := strongEnough(leaf.PublicKey); err != nil {
		return nil, err
	}
	if !sameKey(leaf, signer) {
		for i, c := range chain[1:] {
			if sameKey(c, signer) {
				return nil, &Error{KeyMismatch, fmt.Sprintf("tls.key belongs to certificate %d of tls.crt (%s), not to the first (%s): put the server's own certificate first, then its issuers",
					i+2, subject(c), subject(leaf))}
			}
		}
		return nil, &Error{KeyMismatch, fmt.Sprintf("tls.key is not the key of the certificate in tls.crt (%s): were they renewed apart?", subject(leaf))}
	}
	cert := &tls.Certificate{PrivateKey: signer, Leaf: leaf}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}

// parseCertificates reads every CERTIFICATE block; at least one is returned.
func parseCertificates(field string, data []byte) ([]*x509.Certificate, *Error) {
	var certs []*x509.Certificate
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, &Error{MalformedCertificate, fmt.Sprintf("certificate %d of %s cannot be read: %v", len(certs)+1, field, err)}
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, &Error{MalformedCertificate, fmt.Sprintf("%s has no PEM block of type CERTIFICATE", field)}
	}
	return certs, nil
}

// parseKey reads the first private key.
func parseKey(data []byte) (crypto.Signer, *Error) {
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, &Error{MalformedKey, "tls.key has no PEM block with a private key"}
		}
		if b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, &Error{MalformedKey, "tls.key is encrypted: store it without a passphrase"}
		}
		var key any
		var err error
		switch b.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(b.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(b.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(b.Bytes)
		default: // EC PARAMETERS and certificates stand before keys at times
			continue
		}
		if err != nil {
			// The error speaks of ASN.1 structure, never of the key's bytes.
			return nil, &Error{MalformedKey, fmt.Sprintf("the private key in tls.key cannot be read: %v", err)}
		}
		switch k := key.(type) {
		case *rsa.PrivateKey:
			return k, nil
		case *ecdsa.PrivateKey:
			return k, nil
		case ed25519.PrivateKey:
			return k, nil
		}
		return nil, &Error{MalformedKey, fmt.Sprintf("tls.key is of type %T: TLS takes RSA, ECDSA and Ed25519 keys", key)}
	}
}

func strongEnough(public any) *Error {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return &Error{WeakKey, fmt.Sprintf("the certificate's RSA key has %d bits: at least %d are needed", bits, minRSABits)}
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return &Error{WeakKey, "the certificate's key is on the curve P-224, which TLS does not have: use P-256"}
		}
	case ed25519.PublicKey:
	default:
		return &Error{MalformedCertificate, fmt.Sprintf("the certificate's key is of type %T: TLS takes RSA, ECDSA and Ed25519 keys", public)}
	}
	return nil
}

func sameKey(c *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// subject names a certificate in a message: by its first name, or its serial
// number if it has none.
func subject(c *x509.Certificate) string {
	switch {
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	}
	return "serial " + c.SerialNumber.Text(16)
}

// Validity says whether c's leaf is valid at now: nil, Expired or NotYetValid.
// Such a certificate can be served nevertheless: clients refuse it by themselves.
// c comes from this package.
func Validity(c *tls.Certificate, now time.Time) *Error {
	switch leaf := c.Leaf; {
	case now.After(leaf.NotAfter):
		return &Error{Expired, fmt.Sprintf("the certificate of %s expired at %s", subject(leaf), leaf.NotAfter.UTC().Format(time.RFC3339))}
	case now.Before(leaf.NotBefore):
		return &Error{NotYetValid, fmt.Sprintf("the certificate of %s is not valid before %s", subject(leaf), leaf.NotBefore.UTC().Format(time.RFC3339))}
	}
	return nil
}
