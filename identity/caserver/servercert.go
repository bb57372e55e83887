package caserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"sync"
	"time"

	"github.com/adit-mesh/adit/identity/ca"
)

// serverTTL is the life of the server's own certificate. It is made anew at
// half of it, and whenever another root signs.
const serverTTL = 24 * time.Hour

// serverCert presents the server's own certificate, which it signs itself.
type serverCert struct {
	names     []string
	authority func() (*ca.Authority, error)

	mu     sync.Mutex // guards the fields below
	issuer *ca.Issuer
	cert   *tls.Certificate
	renew  time.Time
}

func (s *serverCert) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	a, err := s.authority()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.issuer == a.Issuer && time.Now().Before(s.renew) {
		return s.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, err := a.Issuer.SignServer(s.names, key.Public(), serverTTL)
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	s.issuer, s.cert = a.Issuer, cert
	s.renew = time.Now().Add(time.Until(chain[0].NotAfter) / 2)
	return cert, nil
}

func (s *serverCert) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2"},
		GetCertificate: s.get,
		// A resumed session would outlive the certificate it was made with.
		SessionTicketsDisabled: true,
	}
}
