package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/identity"
)

// pair is a certificate of somebody else's CA and its key.
type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func makeCA(t *testing.T, name string, parent *pair, key crypto.Signer, life time.Duration) *pair {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	issuer := &pair{cert: template, key: key}
	if parent != nil {
		issuer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, key.Public(), issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pair{cert, key}
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyPEM(t *testing.T, key any) string {
	t.Helper()
	var block pem.Block
	var err error
	switch key := key.(type) {
	case *rsa.PrivateKey:
		block = pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	case *ecdsa.PrivateKey:
		block.Type = "EC PRIVATE KEY"
		block.Bytes, err = x509.MarshalECPrivateKey(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&block))
}

func certPEM(pairs ...*pair) string {
	var certs []*x509.Certificate
	for _, p := range pairs {
		certs = append(certs, p.cert)
	}
	return string(identity.EncodeCertificates(certs))
}

func TestGivenIntermediate(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	root := makeCA(t, "root", nil, rsaKey, 10*time.Hour)
	upper := makeCA(t, "upper", root, ecKey(t), 5*time.Hour)
	lower := makeCA(t, "lower", upper, ecKey(t), 8*time.Hour)
	next := makeCA(t, "next root", nil, ecKey(t), 100*time.Hour)
	own := makeCA(t, "own root", nil, ecKey(t), 10*time.Hour)

	tests := []struct {
		why   string
		files map[string]string
		chain int           // certificates that are presented
		life  time.Duration // of an SVID that would like 24 h
		text  string        // of the error
	}{
		{why: "Istio's names, two levels", files: map[string]string{
			"ca-cert.pem": certPEM(lower), "ca-key.pem": keyPEM(t, lower.key),
			"cert-chain.pem": certPEM(lower, upper, root), "root-cert.pem": certPEM(root, next)},
			chain: 3, life: 5 * time.Hour},
		{why: "cert-manager's names", files: map[string]string{
			"tls.crt": certPEM(lower, upper), "tls.key": keyPEM(t, lower.key), "ca.crt": certPEM(root)},
			chain: 3, life: 5 * time.Hour},
		{why: "a root itself, without a chain", files: map[string]string{
			"ca-cert.pem": certPEM(own), "ca-key.pem": keyPEM(t, own.key), "root-cert.pem": certPEM(own)},
			chain: 1, life: 10 * time.Hour},
		{why: "an RSA key", files: map[string]string{
			"ca-cert.pem": certPEM(root), "ca-key.pem": keyPEM(t, rsaKey), "root-cert.pem": certPEM(root)},
			chain: 1, life: 10 * time.Hour},
		{why: "the chain is incomplete", files: map[string]string{
			"ca-cert.pem": certPEM(lower), "ca-key.pem": keyPEM(t, lower.key), "root-cert.pem": certPEM(root)},
			text: "no chain leads"},
		{why: "the root is another", files: map[string]string{
			"ca-cert.pem": certPEM(upper), "ca-key.pem": keyPEM(t, upper.key), "root-cert.pem": certPEM(next)},
			text: "no chain leads"},
		{why: "the key is another", files: map[string]string{
			"ca-cert.pem": certPEM(upper), "ca-key.pem": keyPEM(t, lower.key), "root-cert.pem": certPEM(root)},
			text: "is not the key of"},
		{why: "no key", files: map[string]string{
			"ca-cert.pem": certPEM(upper), "ca-key.pem": "", "root-cert.pem": certPEM(root)},
			text: "no private key"},
		{why: "no roots", files: map[string]string{
			"ca-cert.pem": certPEM(upper), "ca-key.pem": keyPEM(t, upper.key)},
			text: "root-cert.pem"},
		{why: "nothing there", text: "neither ca-cert.pem"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			dir := t.TempDir()
			for name, content := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			a, err := LoadGiven(dir, 24*time.Hour)
			if tt.text != "" {
				if err == nil || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("%v; want something about %q", err, tt.text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			chain, err := a.Issuer.SignSVID(web, ecKey(t).Public(), 24*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			if len(chain) != tt.chain {
				t.Errorf("%d certificates are presented, want %d", len(chain), tt.chain)
			}
			if err := trusted(chain, a.Roots); err != nil {
				t.Errorf("does not verify: %v", err)
			}
			if d := time.Until(chain[0].NotAfter); d > tt.life || d < tt.life-time.Minute {
				t.Errorf("an SVID lives for %s, want that of the shortest certificate above it, %s", d, tt.life)
			}
		})
	}
}

func TestServerCertificateIsNobodyInTheMesh(t *testing.T) {
	root, err := NewRoot(domain, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := root.SignServer([]string{"adit-ca.adit-system.svc", "10.0.0.1", "fd00::1"}, ecKey(t).Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	for _, name := range []string{"adit-ca.adit-system.svc", "10.0.0.1", "fd00::1"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if len(leaf.URIs) != 0 {
		t.Errorf("it names %v", leaf.URIs)
	}
	for _, use := range leaf.ExtKeyUsage {
		if use != x509.ExtKeyUsageServerAuth {
			t.Error("it is good for more than a server")
		}
	}
}
