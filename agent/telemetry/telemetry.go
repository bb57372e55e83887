package telemetry

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Formats of the access log.
const (
	FormatText = "text" // tab separated, as ztunnel prints it
	FormatJSON = "json" // one object per line
)

const (
	defaultLabelTTL  = 15 * time.Minute
	defaultMaxSeries = 10_000
)

// Config configures a [Telemetry].
type Config struct {
	// Registerer takes the metrics. nil keeps them to ourselves.
	Registerer prometheus.Registerer
	// AccessLog takes the lines, several per Write. nil writes none. It stays
	// the caller's to close, after the last [Telemetry.Flush].
	AccessLog io.Writer
	// Format is FormatText or FormatJSON. "" means text.
	Format string
	// Logger is told when the access log cannot be written. nil discards.
	Logger *slog.Logger
	// LabelTTL is how long the series of workloads that are gone are kept.
	// Zero means 15 minutes; it should be several scrape intervals.
	LabelTTL time.Duration
	// Exists says whether the workload of that UID is still in the mesh: its
	// series then stay, however idle. nil keeps series by use alone.
	Exists func(uid string) bool
	// MaxSeries bounds the label sets of the istio_ metrics. Connections
	// beyond it are counted with all labels unknown. Zero means 10,000.
	MaxSeries int
}

// Telemetry counts and logs connections. Its methods may be called
// concurrently, before, during and after Run.
type Telemetry struct {
	json   bool
	log    *accessLog // nil: none
	table  *table
	active *activeGauge
	adit   *aditMetrics
	ttl    time.Duration
	exists func(uid string) bool

	registerer prometheus.Registerer
}

// New returns a Telemetry whose metrics are registered. It panics if they are
// registered already.
func New(cfg Config) *Telemetry {
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.LabelTTL <= 0 {
		cfg.LabelTTL = defaultLabelTTL
	}
	if cfg.MaxSeries <= 0 {
		cfg.MaxSeries = defaultMaxSeries
	}
	t := &Telemetry{
		json:       cfg.Format == FormatJSON,
		table:      newTable(cfg.MaxSeries),
		active:     new(activeGauge),
		adit:       newAditMetrics(),
		ttl:        cfg.LabelTTL,
		exists:     cfg.Exists,
		registerer: cfg.Registerer,
	}
	cfg.Registerer.MustRegister(t.table, t.active)
	t.adit.register(cfg.Registerer)
	if cfg.AccessLog != nil {
		t.log = newAccessLog(cfg.AccessLog, cfg.Logger)
		cfg.Registerer.MustRegister(t.log)
	}
	return t
}

// Run writes the access log in the background and evicts series until ctx
// ends. Before it and after it, whoever closes a record writes its line, so
// that the last connections of a drain are logged too.
func (t *Telemetry) Run(ctx context.Context) error {
	var writer sync.WaitGroup
	defer writer.Wait()
	if t.log != nil {
		writer.Go(func() { t.log.run(ctx) })
	}

	sweep := time.NewTicker(min(max(t.ttl/4, time.Second), time.Minute))
	defer sweep.Stop()
	for {
		select {
		case now := <-sweep.C:
			t.table.evict(now, t.ttl, t.exists)
			t.adit.evict(now, t.ttl)
		case <-ctx.Done():
			return nil
		}
	}
}

// Flush returns when the lines of all records closed so far have been written,
// or after two seconds if nobody takes them.
func (t *Telemetry) Flush() {
	if t.log != nil {
		t.log.flush()
	}
}
