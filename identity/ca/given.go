package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/adit-mesh/adit/identity"
)

// givenNames are the files of a given issuer: Istio's names, of its Secret
// cacerts, and those of cert-manager.
// https://istio.io/latest/docs/tasks/security/cert-management/plugin-ca-cert/
// https://cert-manager.io/docs/usage/certificate/
var givenNames = []struct{ cert, key, chain, roots string }{
	{"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"},
	{"tls.crt", "tls.key", "tls.crt", "ca.crt"},
}

// LoadGiven reads an issuer that somebody else made, an intermediate as a rule,
// from a directory, with the chain that leads from it to its roots. Files are
// named as in Istio's Secret cacerts (ca-cert.pem, ca-key.pem, cert-chain.pem,
// root-cert.pem) or as cert-manager does it (tls.crt, tls.key, ca.crt); the
// chain may be missing. Every root in the file of roots is to be trusted.
func LoadGiven(dir string, maxTTL time.Duration) (*Authority, error) {
	for _, names := range givenNames {
		_, err := os.Stat(filepath.Join(dir, names.cert))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		a, err := loadGiven(dir, names.cert, names.key, names.chain, names.roots, maxTTL)
		if err != nil {
			return nil, fmt.Errorf("ca: %s: %w", dir, err)
		}
		return a, nil
	}
	return nil, fmt.Errorf("ca: %s holds neither ca-cert.pem (Istio's cacerts) nor tls.crt (cert-manager's)", dir)
}

func loadGiven(dir, certName, keyName, chainName, rootsName string, maxTTL time.Duration) (*Authority, error) {
	certs, err := readCertificates(filepath.Join(dir, certName))
	if err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, keyName))
	if err != nil {
		return nil, err
	}
	intermediates, err := readCertificates(filepath.Join(dir, chainName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	rootData, err := readFile(filepath.Join(dir, rootsName))
	if err != nil {
		return nil, err
	}
	roots, err := identity.ParseRoots(rootData)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", rootsName, err)
	}

	cert := certs[0]
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case !ok || !public.Equal(key.Public()):
		return nil, fmt.Errorf("%s is not the key of %s; were they replaced one after the other?", keyName, certName)
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, fmt.Errorf("%s is not of a CA (CA:TRUE is missing)", certName)
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("%s may not sign others (key usage keyCertSign is missing)", certName)
	}
	issuer, err := chainIssuer(cert, key, append(certs[1:], intermediates...), roots)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certName, err)
	}
	return &Authority{Issuer: issuer, Roots: roots, MaxTTL: maxTTL}, nil
}

// chainIssuer finds the way from cert to one of roots.
func chainIssuer(cert *x509.Certificate, key crypto.Signer, intermediates, roots []*x509.Certificate) (*Issuer, error) {
	rootPool, pool := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range roots {
		rootPool.AddCert(c)
	}
	for _, c := range intermediates {
		pool.AddCert(c)
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: rootPool, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, fmt.Errorf("no chain leads from it to a trusted root: %w", err)
	}
	chain := chains[0]
	i := &Issuer{cert: cert, key: key, chain: chain[:len(chain)-1], notBefore: cert.NotBefore, notAfter: cert.NotAfter}
	for _, c := range chain {
		if c.NotBefore.After(i.notBefore) {
			i.notBefore = c.NotBefore
		}
		if c.NotAfter.Before(i.notAfter) {
			i.notAfter = c.NotAfter
		}
	}
	return i, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRootFile+1))
	if err == nil && len(data) > maxRootFile {
		err = fmt.Errorf("%s is larger than %d KiB; is this the right file?", path, maxRootFile>>10)
	}
	return data, err
}

func readCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := identity.ParseRoots(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return certs, nil
}

// readKey reads a private key, PKCS #8, PKCS #1 or SEC 1.
func readKey(path string) (crypto.Signer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%s holds no private key in PEM", base)
		}
		data = rest
		var key any
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			continue // EC PARAMETERS, as openssl writes them
		}
		if err != nil {
			return nil, fmt.Errorf("%s: unreadable private key: %w", base, err)
		}
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			return key, nil
		case *rsa.PrivateKey:
			return key, nil
		}
		return nil, fmt.Errorf("%s: the key is %T; want ECDSA or RSA", base, key)
	}
}
