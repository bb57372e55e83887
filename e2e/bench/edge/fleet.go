package edge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// Processors: what is measured has one for itself, and what asks and answers it shares the other.
const (
	cpuProxy = 0
	cpuLoad  = 1
)

// loopback is the address of everything.
const loopback = "127.0.0.1"

// backends is how many ports the backend serves: where endpoints change, they change between these.
const backends = 4

// A fleet is what all measurements share.
type fleet struct {
	nursery  *proc.Nursery
	cfg      Config
	dir      string // temporary: configurations and certificates
	backends []string
	unprefer func() // nil if nothing was preferred

	client, backend, waker *proc.Worker
}

// openFleet starts load client and backend. close must be called.
// Where a network namespace was wanted and cannot be had, lone says why.
func openFleet(ctx context.Context, cfg Config) (f *fleet, lone error, err error) {
	dir, err := os.MkdirTemp("", "adit-bench-edge-")
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // nginx's worker may be another user
		return nil, nil, err
	}
	n, lone := proc.NewNursery(!cfg.NoNamespace)
	f = &fleet{nursery: n, cfg: cfg, dir: dir}
	if cfg.Prefer {
		if f.unprefer, err = n.Prefer(); err != nil {
			f.close()
			return nil, nil, err
		}
	}
	if err := f.startAll(ctx); err != nil {
		f.close()
		return nil, nil, err
	}
	return f, lone, nil
}

func (f *fleet) startAll(ctx context.Context) (err error) {
	load := f.nursery.On(cpuLoad)
	if f.backend, err = proc.StartWorker(load, f.cfg.Command, roleBackend, "backend"); err != nil {
		return err
	}
	addrs := make([]string, backends)
	for i := range addrs {
		addrs[i] = loopback + ":0"
	}
	if err = f.backend.Call(ctx, "listen", addrs, &f.backends); err != nil {
		return err
	}
	if f.client, err = proc.StartWorker(load, f.cfg.Command, roleClient, "load client"); err != nil {
		return err
	}
	if f.waker, err = proc.StartWorker(f.nursery, f.cfg.Command, roleAwake, "waker"); err != nil {
		return err
	}
	cert, key, err := certificate(loopback)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"tls.crt": cert, "tls.key": key, "both.pem": append(cert, key...)} {
		if err := os.WriteFile(filepath.Join(f.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// keepAwake keeps the processors awake until the returned function is called.
func (f *fleet) keepAwake(ctx context.Context) (sleepAgain func(), err error) {
	if err := f.waker.Call(ctx, "start", nil, nil); err != nil {
		return nil, err
	}
	return func() { f.waker.Call(context.WithoutCancel(ctx), "stop", nil, nil) }, nil
}

// ports finds n free addresses.
func (f *fleet) ports(ctx context.Context, n int) (addrs []string, err error) {
	wanted := make([]string, n)
	for i := range wanted {
		wanted[i] = loopback + ":0"
	}
	err = f.client.Call(ctx, "free", wanted, &addrs)
	return addrs, err
}

func (f *fleet) close() {
	for _, p := range []*proc.Worker{f.client, f.backend, f.waker} {
		if p != nil {
			p.Stop()
		}
	}
	if f.unprefer != nil {
		f.unprefer()
	}
	f.nursery.Close()
	os.RemoveAll(f.dir)
}

// certificate is a self-signed one, ECDSA P-256, for names and addresses.
func certificate(names ...string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate for %s: %w", names[0], err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
