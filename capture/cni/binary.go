package cni

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// fingerprint tells whether a file has been replaced or written since, without reading it.
type fingerprint struct {
	ino   uint64
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func fingerprintOf(path string) (fingerprint, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fingerprint{}, err
	}
	f := fingerprint{size: info.Size(), mode: info.Mode(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		f.ino = st.Ino
	}
	return f, nil
}

// installBinary puts the plugin where the runtime looks for it, unless what is there is the same already.
func (i *Installer) installBinary() error {
	path := filepath.Join(i.BinDir, PluginName)
	there, err := fingerprintOf(path)
	if err == nil && there == i.binary {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	missing := err != nil
	from, err := os.Open(i.Binary)
	if err != nil {
		return fmt.Errorf("the plugin that came with the agent: %w", err)
	}
	defer from.Close()
	if missing || there.mode != pluginMode || !sameContent(from, path) {
		if _, err := from.Seek(0, io.SeekStart); err != nil {
			return err
		}
		err := replace(path, pluginMode, func(to *os.File) error {
			_, err := io.Copy(to, from)
			return err
		})
		if err != nil {
			return err
		}
		i.Logger.Info("CNI plugin is in place", "file", path)
	}
	i.binary, err = fingerprintOf(path)
	return err
}

const pluginMode fs.FileMode = 0o755

func sameContent(a io.Reader, path string) bool {
	b, err := os.Open(path)
	if err != nil {
		return false
	}
	defer b.Close()
	sumA, sumB := sha256.New(), sha256.New()
	_, errA := io.Copy(sumA, a)
	_, errB := io.Copy(sumB, b)
	return errA == nil && errB == nil && [sha256.Size]byte(sumA.Sum(nil)) == [sha256.Size]byte(sumB.Sum(nil))
}
