package istio

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

func bundlePEM(issuers ...*ca.Issuer) []byte {
	var certs []*x509.Certificate
	for _, i := range issuers {
		certs = append(certs, i.Certificate())
	}
	return identity.EncodeCertificates(certs)
}

// TestFileRoots follows a file as kubelet changes it: a symbolic link to a
// directory is replaced, and the file with it.
func TestFileRoots(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "root-cert.pem")
	version := 0
	write := func(data []byte) {
		t.Helper()
		version++
		name := filepath.Join(dir, "..data_"+string(rune('a'+version)))
		link := filepath.Join(dir, "..data")
		for _, err := range []error{
			os.Mkdir(name, 0o755),
			os.WriteFile(filepath.Join(name, "root-cert.pem"), data, 0o644),
			os.Symlink(filepath.Base(name), link+"_tmp"),
			os.Rename(link+"_tmp", link),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Symlink("..data/root-cert.pem", path); err != nil {
		t.Fatal(err)
	}

	synctest.Test(t, func(t *testing.T) {
		first, second := newRoot(t), newRoot(t)
		f := NewFileRoots(path, nil)
		if f.Err() == nil || len(f.Current()) != 0 {
			t.Errorf("no file yet: %v, %d roots", f.Err(), len(f.Current()))
		}
		changed, cancelSubscription := f.Subscribe()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		edge := func() bool {
			time.Sleep(rereadEvery + time.Millisecond)
			synctest.Wait()
			select {
			case <-changed:
				return true
			default:
				return false
			}
		}

		write(bundlePEM(first))
		if !edge() || len(f.Current()) != 1 || f.Err() != nil {
			t.Errorf("the file is there: %d roots, %v", len(f.Current()), f.Err())
		}
		old := f.Current()
		if edge() || &f.Current()[0] != &old[0] {
			t.Error("nothing has changed, and yet")
		}
		write(bundlePEM(first, second))
		if !edge() || len(f.Current()) != 2 {
			t.Errorf("a second root: %d", len(f.Current()))
		}
		write([]byte("rubbish"))
		if edge() || len(f.Current()) != 2 || f.Err() == nil {
			t.Errorf("a broken file: %d roots, %v; want the old ones and a reason", len(f.Current()), f.Err())
		}
		write(bundlePEM(first, second))
		if edge() || f.Err() != nil {
			t.Errorf("as it was before: %v", f.Err())
		}
		cancelSubscription()
		write(bundlePEM(second))
		if edge() || len(f.Current()) != 1 {
			t.Errorf("%d roots, and a word to somebody who has left", len(f.Current()))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
