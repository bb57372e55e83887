package mesh

import (
	"context"
	"log/slog"
	"time"
)

// File is a source that reads the world from a YAML file and follows its
// changes.
type File struct {
	Path string
	// TrustDomain is for workloads that name none. "" = cluster.local.
	TrustDomain string
	// Debounce is how long the file must be quiet before it is read again.
	// 0 = 100 ms.
	Debounce time.Duration
	Logger   *slog.Logger // nil = discard
	// OnReload is called after each attempt to read the file; err says why the
	// old world stays.
	OnReload func(err error)
}

// Run follows the file until ctx ends. The first load must succeed.
func (f *File) Run(ctx context.Context, s *Store) error { return nil }

// Load reads the file once into s.
func (f *File) Load(s *Store) error { return nil }

// ParseFile reads a world from YAML; name is for error messages.
func ParseFile(name string, data []byte) (World, error) { return World{}, nil }
