package istio

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// maxChain bounds a chain. It is sent in every handshake.
const maxChain = 10

// parseChain reads the certificates to present, leaf first. elements are those
// of Istio's reply: the leaf, intermediates, and last the roots, which are not
// presented. One element alone is a leaf.
func parseChain(elements []string) ([]*x509.Certificate, error) {
	if len(elements) == 0 {
		return nil, errors.New("the chain is empty")
	}
	presented := elements
	if len(elements) > 1 {
		presented = elements[:len(elements)-1]
	}
	var chain []*x509.Certificate
	for i, element := range presented {
		certs, err := parseCertificates([]byte(element))
		if err != nil {
			return nil, fmt.Errorf("element %d of %d: %w", i+1, len(elements), err)
		}
		if chain = append(chain, certs...); len(chain) > maxChain {
			return nil, fmt.Errorf("the chain has more than %d certificates", maxChain)
		}
	}
	return chain, nil
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			if len(bytes.TrimSpace(rest)) != 0 {
				return nil, errors.New("holds something that is not PEM")
			}
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block is %.40q, want a certificate", block.Type)
		}
		if len(certs) == maxChain {
			return nil, fmt.Errorf("more than %d certificates", maxChain)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate")
	}
	return certs, nil
}

// checkLeaf holds the server to what was asked for. Whether peers will believe
// the certificate is for the manager to check.
func checkLeaf(leaf *x509.Certificate, id spiffeid.ID, key crypto.Signer) error {
	got, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return err
	}
	if got != id {
		return fmt.Errorf("it is for %s, asked for was %s", got, id)
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return errors.New("it holds another public key")
	}
	return nil
}
