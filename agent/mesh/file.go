package mesh

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"
)

// File is a source that reads the world from a YAML file (see ParseFile) and
// follows its changes: in place, by rename, and by the symbolic links of a
// Kubernetes ConfigMap. A file that cannot be read or has a mistake changes
// nothing: the old world stays.
//
// Replace the file by rename if you can. One that is written in place is read
// when its writer closes it, or pauses.
//
// A File is for one goroutine.
type File struct {
	Path string
	// TrustDomain is for workloads that name none. "" = cluster.local.
	TrustDomain string
	// Debounce is how long the file must be quiet before it is read again.
	// 0 = 100 ms.
	Debounce time.Duration
	// Rescan is how often the file is looked at although nothing was reported:
	// network file systems report nothing. 0 = 30 s.
	Rescan time.Duration
	Logger *slog.Logger // nil = discard
	// OnReload is called after each attempt to read a changed file. err says
	// why the old world stays; nil says that the new one is in force.
	OnReload func(err error)

	loaded  bool   // a world from this file is in force
	last    []byte // what was read last, good or bad, and what came of it
	lastErr error
}

// maxFileSize is far beyond any mesh that a file describes; it keeps a wrong
// path from filling the memory.
const maxFileSize = 64 << 20

// Load reads the file into s now, if it has changed since it was last read.
// The error names file, line, column and field of every mistake.
func (f *File) Load(s *Store) error {
	_, err := f.load(s)
	return err
}

// load reports whether the file has changed, for better or worse.
func (f *File) load(s *Store) (changed bool, err error) {
	data, err := f.read()
	if err != nil {
		f.last = nil
		return true, err
	}
	if f.last != nil && bytes.Equal(data, f.last) {
		return false, f.lastErr
	}
	f.last, f.lastErr = data, f.replace(s, data)
	return true, f.lastErr
}

func (f *File) replace(s *Store, data []byte) error {
	w, err := parseWorld(f.Path, data, f.TrustDomain)
	if err != nil {
		return err
	}
	if err := s.Replace(w); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	f.loaded = true
	for _, warning := range w.warnings() {
		f.logger().Warn("world file: "+warning, "file", f.Path)
	}
	f.logger().Info("world loaded", "file", f.Path,
		"workloads", len(w.Workloads), "services", len(w.Services), "policies", len(w.Policies))
	return nil
}

func (f *File) read() ([]byte, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, fmt.Errorf("%w; check the path and its permissions", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return nil, err // names the file
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("%s: larger than %d MiB; is this the right file?", f.Path, maxFileSize>>20)
	}
	return data, nil
}

// Run loads the file, unless Load has, and follows its changes until ctx ends.
// It returns an error only if the first load or the watch cannot be made.
func (f *File) Run(ctx context.Context, s *Store) error {
	watch, err := newWatch()
	if err != nil {
		return err
	}
	defer watch.close()
	// The watch stands before the first read, so that no change falls between.
	watch.follow(f.Path)
	if err := f.reload(s); err != nil && !f.loaded {
		return err
	}

	quiet := time.NewTimer(time.Hour)
	quiet.Stop()
	rescan := time.NewTicker(orDuration(f.Rescan, 30*time.Second))
	defer rescan.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.changed:
			quiet.Reset(orDuration(f.Debounce, 100*time.Millisecond))
		case <-quiet.C:
			watch.follow(f.Path)
			f.reload(s)
		case <-rescan.C:
			watch.follow(f.Path)
			f.reload(s)
		}
	}
}

// reload loads the file if it has changed and tells of the outcome.
func (f *File) reload(s *Store) error {
	changed, err := f.load(s)
	if !changed {
		return err
	}
	for _, mistake := range mistakes(err) {
		f.logger().Error("world file refused, the old world stays", "err", mistake)
	}
	if f.OnReload != nil {
		f.OnReload(err)
	}
	return err
}

// mistakes takes a joined error apart, for one log line each.
func mistakes(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func (f *File) logger() *slog.Logger {
	if f.Logger != nil {
		return f.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func orDuration(d, fallback time.Duration) time.Duration {
	if d <= 0 {
		return fallback
	}
	return d
}
