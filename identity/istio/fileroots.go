package istio

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/adit-mesh/adit/identity"
)

const (
	// rereadEvery is how often a file of roots is looked at. Reading it is
	// robust where watching is not: kubelet replaces directories of symbolic
	// links, and network file systems tell of nothing.
	rereadEvery = 2 * time.Second
	// maxRootFile bounds a file of roots. A ConfigMap is 1 MiB at most.
	maxRootFile = 1 << 20
)

// FileRoots is a [RootSource] that follows a file of PEM certificates.
type FileRoots struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex // guards the fields below
	data    []byte     // what roots were read from
	roots   []*x509.Certificate
	err     error // of the latest read; nil after a success
	waiting map[chan struct{}]struct{}
}

var _ RootSource = (*FileRoots)(nil)

// NewFileRoots reads the file. One that is missing or unreadable is for Err to
// tell; until Run has found it there are no roots. A nil log discards.
func NewFileRoots(path string, log *slog.Logger) *FileRoots {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	f := &FileRoots{path: path, log: log, waiting: make(map[chan struct{}]struct{})}
	f.reread()
	return f
}

// Run follows the file until ctx ends and returns nil. What cannot be read, as
// in the middle of a change, leaves the old roots in force.
func (f *FileRoots) Run(ctx context.Context) error {
	tick := time.NewTicker(rereadEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.reread()
		case <-ctx.Done():
			return nil
		}
	}
}

// Current returns the roots of the latest good read.
func (f *FileRoots) Current() []*x509.Certificate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.roots
}

// Err returns why the latest read changed nothing, nil if it was good.
func (f *FileRoots) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Subscribe implements [RootSource].
func (f *FileRoots) Subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting[c] = struct{}{}
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.waiting, c)
	}
}

func (f *FileRoots) reread() {
	data, err := readRootFile(f.path)

	f.mu.Lock()
	if err == nil && f.err == nil && bytes.Equal(data, f.data) {
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()

	var roots []*x509.Certificate
	if err == nil {
		if roots, err = identity.ParseRoots(data); err != nil {
			err = fmt.Errorf("%s: %w", f.path, err)
		}
	}

	f.mu.Lock()
	news := err != nil && (f.err == nil || f.err.Error() != err.Error())
	changed := err == nil && !bytes.Equal(data, f.data)
	f.err = err
	if changed {
		f.data, f.roots = data, roots
		for c := range f.waiting {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	f.mu.Unlock()

	switch {
	case news:
		f.log.Error("trusted roots not read, the old ones stay in force", "file", f.path, "error", err)
	case changed:
		f.log.Info("trusted roots read", "file", f.path, "roots", len(roots))
	}
}

func readRootFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRootFile+1))
	if err != nil {
		return nil, fmt.Errorf("trust bundle: %w", err)
	}
	if len(data) > maxRootFile {
		return nil, fmt.Errorf("trust bundle: %s is larger than %d KiB; is this the right file?", path, maxRootFile>>10)
	}
	return data, nil
}
