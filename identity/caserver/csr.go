package caserver

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxCSR bounds a signing request. One with an RSA key of 4096 bits has under
// 2 KiB.
const maxCSR = 16 << 10

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// parseCSR reads a signing request and returns the key to certify and the one
// identity that the request names. Its signature proves that whoever made it
// holds the private key. Everything else in it is ignored: the certificate's
// profile is the CA's.
func parseCSR(data string) (crypto.PublicKey, spiffeid.ID, error) {
	if len(data) > maxCSR {
		return nil, spiffeid.ID{}, fmt.Errorf("it has %d bytes, more than %d", len(data), maxCSR)
	}
	block, rest := pem.Decode([]byte(data))
	switch {
	case block == nil || block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, spiffeid.ID{}, errors.New("it is not a certificate request in PEM")
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, spiffeid.ID{}, errors.New("something follows the certificate request")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	// Before the signature is verified, which a huge key makes expensive.
	if err := checkKey(req.PublicKey); err != nil {
		return nil, spiffeid.ID{}, err
	}
	if err := req.CheckSignature(); err != nil {
		return nil, spiffeid.ID{}, fmt.Errorf("it is not signed with its own key: %w", err)
	}
	if err := checkNames(req); err != nil {
		return nil, spiffeid.ID{}, err
	}
	id, err := spiffeid.FromURI(req.URIs[0])
	if err != nil {
		return nil, spiffeid.ID{}, fmt.Errorf("its URI: %w", err)
	}
	return req.PublicKey, id, nil
}

func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("its key is on curve %s; want P-256 or P-384", key.Curve.Params().Name)
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < 2048 || bits > 4096 {
			return fmt.Errorf("its RSA key has %d bits; want 2048 to 4096", bits)
		}
		return nil
	}
	return fmt.Errorf("its key is %T; want ECDSA or RSA", key)
}

// checkNames wants one URI among the subject alternative names and nothing
// else. crypto/x509 passes over kinds of names that it does not know, so the
// extension is looked at as it stands.
func checkNames(req *x509.CertificateRequest) error {
	found := 0
	for _, ext := range req.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		found++
		var names []asn1.RawValue
		rest, err := asn1.Unmarshal(ext.Value, &names)
		const uri = 6 // GeneralName's uniformResourceIdentifier, RFC 5280 4.2.1.6
		if err != nil || len(rest) != 0 || len(names) != 1 ||
			names[0].Class != asn1.ClassContextSpecific || names[0].Tag != uri {
			return errors.New("its subject alternative names are not one URI alone")
		}
	}
	if found != 1 || len(req.URIs) != 1 {
		return errors.New("it does not name one URI as its subject alternative name")
	}
	return nil
}
