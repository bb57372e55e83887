package cakube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/adit-mesh/adit/identity"
)

// giveIssuer writes the files of a self-signed CA as Istio names them, with
// further roots to trust.
func giveIssuer(t *testing.T, dir, name string, further ...*x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"ca-cert.pem":   identity.EncodeCertificates([]*x509.Certificate{cert}),
		"ca-key.pem":    pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}),
		"root-cert.pem": identity.EncodeCertificates(append([]*x509.Certificate{cert}, further...)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert
}

func TestGivenIssuer(t *testing.T) {
	api := startAPIServer(t)
	dir := t.TempDir()
	first := giveIssuer(t, dir, "first")
	b := newBackend(t, api.config(), func(cfg *Config) { cfg.IssuerDir = dir })
	run(t, b)
	ready(t, b)
	a := newAdmin(t, api.config())
	if !signing(t, b).Equal(first) {
		t.Error("it signs with something else")
	}
	if err := a.publishes(first); err != nil {
		t.Error(err)
	}
	if err := a.c.get(t.Context(), "secrets", system, "adit-ca", new(corev1.Secret)); !apierrors.IsNotFound(err) {
		t.Errorf("a Secret is none of its business: %v", err)
	}

	// Broken files change nothing; good ones do, once the bundle has them.
	if err := os.WriteFile(filepath.Join(dir, "ca-key.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	edge(b.changed).signal()
	until(t, "it says what is wrong", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.err == nil {
			return fmt.Errorf("nothing")
		}
		return nil
	})
	if !signing(t, b).Equal(first) {
		t.Error("a broken file, and it signs with something else")
	}
	second := giveIssuer(t, dir, "second", first)
	edge(b.changed).signal()
	until(t, "the second signs", func() error {
		if err := a.publishes(second, first); err != nil {
			return err
		}
		if !signing(t, b).Equal(second) {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}
