package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxRoots bounds a trust bundle. Every handshake weighs all of them.
const maxRoots = 64

// ParseRoots reads a trust bundle: CA certificates in PEM, with any text
// between them, as in Istio's root-cert.pem. A certificate that is there twice
// counts once; the order is kept. One that cannot be read spoils the whole: a
// bundle with a root missing would refuse peers with no reason in sight.
func ParseRoots(data []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	seen := make(map[string]bool)
	for n := 1; ; n++ {
		block, rest := pem.Decode(data)
		if block == nil {
			if bytes.Contains(rest, []byte("-----BEGIN")) {
				return nil, fmt.Errorf("trust bundle: PEM block %d is damaged", n)
			}
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("trust bundle: PEM block %d is %q; want certificates only", n, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("trust bundle: certificate %d: %w", n, err)
		case !cert.BasicConstraintsValid || !cert.IsCA:
			return nil, fmt.Errorf("trust bundle: certificate %d (%s) is not of a CA (CA:TRUE is missing)", n, cert.Subject)
		case seen[string(cert.Raw)]:
			continue
		case len(roots) == maxRoots:
			return nil, fmt.Errorf("trust bundle: more than %d certificates", maxRoots)
		}
		seen[string(cert.Raw)] = true
		roots = append(roots, cert)
	}
	if len(roots) == 0 {
		return nil, errors.New("trust bundle: holds no certificate in PEM")
	}
	return roots, nil
}

// EncodeCertificates is the inverse of [ParseRoots], for chains as well.
func EncodeCertificates(certs []*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		// A bytes.Buffer takes every write.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}
