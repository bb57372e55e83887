package istio

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxToken bounds a token file. Projected tokens are one or two kilobytes.
const maxToken = 64 << 10

// newRequest makes a P-256 key and a signing request that carries the URI SAN
// and nothing else.
func newRequest(id spiffeid.ID) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}, key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// readToken reads the token that is valid now: kubelet replaces the file long
// before the one in it expires.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("token for the CA: %w; is the volume of the projected service account token mounted?", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("token for the CA: %w", err)
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", fmt.Errorf("token for the CA: %s is empty", path)
	case len(data) > maxToken:
		return "", fmt.Errorf("token for the CA: %s is larger than %d KiB; is this the right file?", path, maxToken>>10)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("token for the CA: %s: %w", path, errors.New("holds characters that no token has; is this the right file?"))
	}
	return token, nil
}
