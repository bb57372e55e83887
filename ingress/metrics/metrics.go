package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

// Config is what Metrics are made of.
type Config struct {
	// MaxValues bounds the values of each of the labels gateway, listener, route
	// and cluster; what is beyond is counted as "other". Zero means 10,000.
	MaxValues int
	// MaxSeries bounds their combinations. Zero means 20,000.
	MaxSeries int
	// AccessLog is told of with the rest. nil = there is none.
	AccessLog AccessLog
}

// AccessLog counts lines.
type AccessLog interface {
	Written() uint64
	Dropped() uint64
}

// Metrics is a prometheus.Collector. Its methods may be called by many goroutines.
type Metrics struct {
	requests    table
	connections connections
	log         AccessLog

	mu           sync.Mutex // guards the fields below
	certificates map[Certificate]time.Time
	generation   uint64
	applied      time.Time // zero: nothing was
}

// New returns Metrics that know of nothing.
func New(c Config) *Metrics {
	if c.MaxValues == 0 {
		c.MaxValues = 10_000
	}
	if c.MaxSeries == 0 {
		c.MaxSeries = 20_000
	}
	m := &Metrics{log: c.AccessLog}
	m.requests.init(c.MaxValues, c.MaxSeries)
	m.connections.series = make(map[socket]*connection)
	return m
}

// Begin counts a request as in flight until it is recorded. It is for
// proxy.Config.Begin, and all requests that are recorded have begun, or none.
func (m *Metrics) Begin(x *proxy.Exchange) {
	m.requests.listenerOf(x.Client.Gateway, x.Client.Listener).begun.Add(1)
}

// Record counts a request that is over. It keeps nothing of x but strings and the
// Rule, and does not allocate for a rule, backend, listener, protocol and code that
// it has counted before.
func (m *Metrics) Record(x *proxy.Exchange) {
	s := m.requests.find(x)
	s.requests.Add(1)
	s.observe(x.Duration, x.Received, x.Sent)
	s.listener.ended.Add(1)
}

// Live says what is configured. A nil func says that everything is.
type Live struct {
	Gateway  func(gateway string) bool // namespace/name
	Listener func(gateway, listener string) bool
	Route    func(route.Owner) bool
	Cluster  func(key string) bool
}

// Retain deletes the series of everything else. Requests that are still under way
// there are counted as "other". It is called before a configuration is applied, so
// that nothing of it is unknown when its first request ends; what Live asks must
// not change later.
func (m *Metrics) Retain(live Live) {
	m.requests.retain(live)
	m.connections.retain(live)
}

// Certificate is one that a listener serves. Name tells it from others, for a
// person: a host name, or the Secret it is in.
type Certificate struct{ Gateway, Listener, Name string }

// SetCertificates replaces the certificates, with the end of their validity.
func (m *Metrics) SetCertificates(notAfter map[Certificate]time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.certificates = make(map[Certificate]time.Time, len(notAfter))
	for c, t := range notAfter {
		c = Certificate{valid(c.Gateway), valid(c.Listener), valid(c.Name)}
		if was, ok := m.certificates[c]; !ok || t.Before(was) {
			m.certificates[c] = t
		}
	}
}

// Applied tells which configuration is served since when. The generation counts
// configurations.
func (m *Metrics) Applied(generation uint64, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.generation, m.applied = generation, at
}

var (
	notAfterDesc = prometheus.NewDesc("adit_ingress_certificate_not_after_timestamp_seconds",
		"When a certificate that a listener serves ends.", []string{"gateway", "listener", "certificate"}, nil)
	generationDesc = prometheus.NewDesc("adit_ingress_config_generation",
		"Number of the configuration that is served.", nil, nil)
	appliedDesc = prometheus.NewDesc("adit_ingress_config_applied_timestamp_seconds",
		"Since when it is served.", nil, nil)
	linesDesc = prometheus.NewDesc("adit_ingress_access_log_lines_total",
		"Access-log lines written.", nil, nil)
	droppedDesc = prometheus.NewDesc("adit_ingress_access_log_dropped_total",
		"Access-log lines lost because the log was not written fast enough, or not at all.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	m.requests.describe(ch)
	m.connections.describe(ch)
	for _, d := range []*prometheus.Desc{notAfterDesc, generationDesc, appliedDesc} {
		ch <- d
	}
	if m.log != nil {
		ch <- linesDesc
		ch <- droppedDesc
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.requests.collect(ch)
	m.connections.collect(ch)
	m.mu.Lock()
	certificates, generation, applied := m.certificates, m.generation, m.applied
	m.mu.Unlock()
	for c, t := range certificates { // it is replaced, never changed
		ch <- prometheus.MustNewConstMetric(notAfterDesc, prometheus.GaugeValue, float64(t.Unix()), c.Gateway, c.Listener, c.Name)
	}
	if !applied.IsZero() {
		ch <- prometheus.MustNewConstMetric(generationDesc, prometheus.GaugeValue, float64(generation))
		ch <- prometheus.MustNewConstMetric(appliedDesc, prometheus.GaugeValue, float64(applied.UnixMilli())/1000)
	}
	if m.log != nil {
		counter(ch, linesDesc, m.log.Written())
		counter(ch, droppedDesc, m.log.Dropped())
	}
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v int64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

// total is a counter of bytes or events.
type total = atomic.Uint64
