package ca

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// childDir makes the test binary a process that opens a CA directory, so that
// real processes can race for one.
const childDir = "CA_TEST_OPEN_DIR"

func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	bufio.NewReader(os.Stdin).ReadByte() // the starting gun
	c, err := Open(Config{Dir: dir, TrustDomain: domain})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("%x", c.root.cert.SerialNumber)
	os.Exit(0)
}

func TestProcessesShareOneRoot(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "ca")
	const processes = 8
	var outputs [processes]bytes.Buffer
	var children [processes]*exec.Cmd
	var guns [processes]*os.File
	for i := range processes {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		guns[i] = w
		child := exec.Command(self)
		child.Env = append(os.Environ(), childDir+"="+dir)
		child.Stdin, child.Stdout, child.Stderr = r, &outputs[i], &outputs[i]
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		r.Close()
		children[i] = child
	}
	for _, w := range guns {
		w.Close()
	}
	for i, child := range children {
		if err := child.Wait(); err != nil {
			t.Errorf("process %d: %v: %s", i, err, &outputs[i])
		}
		if got, want := outputs[i].String(), outputs[0].String(); got != want {
			t.Errorf("process %d uses root %s, process 0 root %s", i, got, want)
		}
	}
	wantOnlyRoot(t, dir)
}

func wantOnlyRoot(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || files[0].Name() != rootFile {
		t.Errorf("the directory holds %v, want %s alone", files, rootFile)
	}
}

func TestOpenersInOneProcessShareOneRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "er")
	var wg sync.WaitGroup
	cas := make([]*CA, 16)
	for i := range cas {
		wg.Go(func() {
			c, err := Open(Config{Dir: dir, TrustDomain: domain})
			if err != nil {
				t.Error(err)
				return
			}
			cas[i] = c
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, c := range cas {
		svid, err := c.FetchX509SVID(t.Context(), web)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := x509svid.Verify(svid.Certificates, cas[0]); err != nil {
			t.Errorf("one opener's SVID does not verify with another: %v", err)
		}
	}
	wantOnlyRoot(t, dir)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, rootFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %04o", path, info.Mode().Perm(), err, want)
		}
	}
}

func TestRootSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first := open(t, Config{Dir: dir})
	if again := open(t, Config{Dir: dir}); !again.root.cert.Equal(first.root.cert) {
		t.Error("a second start made a second root")
	}
	if memory := open(t, Config{}); memory.root.cert.Equal(first.root.cert) {
		t.Error("the root in memory is the one of the directory")
	}
}

func TestRenamedMesh(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	open(t, Config{Dir: dir})
	renamed := spiffeid.RequireTrustDomainFromString("new.local")
	_, err := Open(Config{Dir: dir, TrustDomain: renamed})
	if err == nil || !strings.Contains(err.Error(), `trust domain "cluster.local", configured is "new.local"`) {
		t.Errorf("root of another trust domain: %v", err)
	}
	open(t, Config{Dir: dir, TrustDomain: renamed, Aliases: []spiffeid.TrustDomain{domain}})
}

// rootPEM makes a root file with a flaw.
func rootPEM(t *testing.T, change func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "cluster.local"}},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func TestRefusesToLoad(t *testing.T) {
	cert, key := rootPEM(t, func(*x509.Certificate) {})
	_, otherKey := rootPEM(t, func(*x509.Certificate) {})
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edDER, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		t.Fatal(err)
	}
	flawed := func(change func(*x509.Certificate)) string {
		c, k := rootPEM(t, change)
		return string(c) + string(k)
	}

	tests := []struct{ why, data, want string }{
		{"empty", "", "holds no certificate"},
		{"no key", string(cert), "holds no private key"},
		{"no certificate", string(key), "holds no certificate"},
		{"another's key", string(cert) + string(otherKey), "does not match"},
		{"torn key", string(cert) + string(key[:len(key)/2]), "not PEM"},
		{"rubbish", "hello", "not PEM"},
		{"two keys", string(cert) + string(key) + string(otherKey), "unexpected PEM block"},
		{"wrong kind of key", string(cert) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: edDER})), "not ECDSA P-256"},
		{"broken key", string(cert) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})), "unreadable private key"},
		{"broken certificate", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})), "unreadable certificate"},
		{"expired", flawed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "expired at"},
		{"not yet", flawed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "check the clock"},
		{"a leaf", flawed(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), "CA:TRUE"},
		{"may not sign", flawed(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), "keyCertSign"},
		{"nobody's", flawed(func(c *x509.Certificate) { c.URIs = nil }), "0 URIs"},
		{"a workload's", flawed(func(c *x509.Certificate) { c.URIs[0].Path = "/ns/a/sa/b" }), "not that of a trust domain"},
		{"foreign", flawed(func(c *x509.Certificate) { c.URIs[0].Host = "evil.org" }), `trust domain "evil.org"`},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, rootFile)
			if err := os.WriteFile(path, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Config{Dir: dir, TrustDomain: domain})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v; want the path and %q", err, tt.want)
			}
			if after, _ := os.ReadFile(path); string(after) != tt.data {
				t.Error("a file that was refused was changed")
			}
		})
	}
}

func TestRefusesOpenPermissions(t *testing.T) {
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o644} {
		dir := filepath.Join(t.TempDir(), "ca")
		open(t, Config{Dir: dir})
		path := filepath.Join(dir, rootFile)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Dir: dir, TrustDomain: domain})
		if err == nil || !strings.Contains(err.Error(), "run: chmod 0600 "+path) {
			t.Errorf("key of mode %04o: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o777, 0o770, 0o702} {
		dir := filepath.Join(t.TempDir(), "ca")
		open(t, Config{Dir: dir})
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Dir: dir, TrustDomain: domain})
		if err == nil || !strings.Contains(err.Error(), "run: chmod 0700 "+dir) {
			t.Errorf("directory of mode %04o: %v", mode, err)
		}
	}
}

func TestRefusesWhatIsNoFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	if err := os.MkdirAll(filepath.Join(dir, rootFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, TrustDomain: domain}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("root.pem is a directory: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: file, TrustDomain: domain}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("the directory is a file: %v", err)
	}
}

// FuzzDecodeRoot: what loads is a pair, and is written back as it was read.
func FuzzDecodeRoot(f *testing.F) {
	r, err := NewRoot(domain, time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	good, err := encodeRoot(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRoot(data)
		if err != nil {
			return
		}
		if !r.key.(*ecdsa.PrivateKey).PublicKey.Equal(r.cert.PublicKey) {
			t.Error("loaded a key that is not the certificate's")
		}
		again, err := encodeRoot(r)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := decodeRoot(again); err != nil || !r2.cert.Equal(r.cert) || !r2.key.(*ecdsa.PrivateKey).Equal(r.key) {
			t.Errorf("does not survive writing and reading: %v", err)
		}
	})
}
