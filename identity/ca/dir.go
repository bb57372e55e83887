package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	rootFile    = "root.pem"
	maxRootFile = 1 << 20
)

// openDir loads the root of cfg.Dir or makes it.
//
// Certificate and key are in one file, which appears whole under its name by
// link(2). link fails if the name is taken: whoever comes second throws its
// own root away and loads the winner's.
func openDir(cfg Config) (*Issuer, error) {
	if err := makeDir(cfg.Dir); err != nil {
		return nil, err
	}
	path := filepath.Join(cfg.Dir, rootFile)
	r, err := loadRoot(path, cfg)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}

	r, err = NewRoot(cfg.TrustDomain, cfg.RootTTL)
	if err != nil {
		return nil, err
	}
	err = storeRoot(path, r)
	switch {
	case err == nil:
		cfg.Logger.Info("made the root certificate", "file", path,
			"trust_domain", cfg.TrustDomain.Name(), "not_after", r.cert.NotAfter)
		return r, nil
	case errors.Is(err, fs.ErrExist):
		return loadRoot(path, cfg)
	}
	return nil, fmt.Errorf("store the new root: %w", err)
}

func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the root: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	// Who may write here may put his own root in place of ours.
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("directory %s may be written by others (mode %04o); run: chmod 0700 %s", dir, info.Mode().Perm(), dir)
	}
	return nil
}

func storeRoot(path string, r *Issuer) error {
	data, err := encodeRoot(r)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".root-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func loadRoot(path string, cfg Config) (*Issuer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	defer f.Close()
	// Of the open file, so that what was checked is what is read.
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("root %s is not a regular file", path)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("root %s holds a private key and is open to others (mode %04o); if nobody has read it run: chmod 0600 %s", path, perm, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRootFile))
	if err != nil {
		return nil, fmt.Errorf("read the root: %w", err)
	}
	r, err := decodeRoot(data)
	if err == nil {
		err = checkRoot(r.cert, time.Now(), append([]spiffeid.TrustDomain{cfg.TrustDomain}, cfg.Aliases...))
	}
	if err != nil {
		return nil, fmt.Errorf("root %s: %w", path, err)
	}
	return r, nil
}

func encodeRoot(r *Issuer) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(r.key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, block := range []*pem.Block{
		{Type: "CERTIFICATE", Bytes: r.cert.Raw},
		{Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := pem.Encode(&b, block); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// decodeRoot parses one certificate and its PKCS #8 key, in either order.
func decodeRoot(data []byte) (*Issuer, error) {
	var cert *x509.Certificate
	var key *ecdsa.PrivateKey
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			if len(bytes.TrimSpace(rest)) != 0 {
				return nil, errors.New("holds something that is not PEM")
			}
			break
		}
		data = rest
		var err error
		switch {
		case block.Type == "CERTIFICATE" && cert == nil:
			if cert, err = x509.ParseCertificate(block.Bytes); err != nil {
				return nil, fmt.Errorf("unreadable certificate: %w", err)
			}
		case block.Type == "PRIVATE KEY" && key == nil:
			parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("unreadable private key: %w", err)
			}
			var ok bool
			if key, ok = parsed.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() {
				return nil, fmt.Errorf("private key is not ECDSA P-256 but %T", parsed)
			}
		default:
			return nil, fmt.Errorf("unexpected PEM block %q: want one CERTIFICATE and one PRIVATE KEY", block.Type)
		}
	}
	switch {
	case cert == nil:
		return nil, errors.New("holds no certificate")
	case key == nil:
		return nil, errors.New("holds no private key")
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, errors.New("private key does not match the certificate; restore both from one backup")
	}
	return rootIssuer(cert, key), nil
}

// checkRoot refuses a certificate that cannot be the root of one of domains at
// time now.
func checkRoot(cert *x509.Certificate, now time.Time, domains []spiffeid.TrustDomain) error {
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Errorf("certificate is valid from %s and it is now %s; check the clock", stamp(cert.NotBefore), stamp(now))
	case !now.Before(cert.NotAfter):
		return fmt.Errorf("certificate expired at %s; move the file away on every node that shares it to have a new one made", stamp(cert.NotAfter))
	}
	return checkRootShape(cert, domains)
}

// checkRootShape refuses a certificate that can never be the root of one of
// domains.
func checkRootShape(cert *x509.Certificate, domains []spiffeid.TrustDomain) error {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return errors.New("certificate is not of a CA (CA:TRUE is missing)")
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("certificate may not sign others (key usage keyCertSign is missing)")
	case len(cert.URIs) != 1:
		return fmt.Errorf("certificate has %d URIs; want one, its trust domain", len(cert.URIs))
	}
	id, err := spiffeid.FromURI(cert.URIs[0])
	if err != nil || id.Path() != "" {
		return fmt.Errorf("certificate's URI %q is not that of a trust domain", cert.URIs[0])
	}
	if !slices.Contains(domains, id.TrustDomain()) {
		return fmt.Errorf("certificate is of trust domain %q, configured is %q; name the former as an alias if the mesh was renamed",
			id.TrustDomain().Name(), domains[0].Name())
	}
	return nil
}
