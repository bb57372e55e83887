package telemetry

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-mesh/adit/identity"
)

// seconds are the buckets of everything that should take milliseconds and may
// take its whole deadline.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// aditMetrics are those that Istio has no name for. Label values are clamped
// to known ones, so that no caller can make series without end.
type aditMetrics struct {
	handshakes *prometheus.HistogramVec
	connects   *prometheus.HistogramVec
	phases     map[string]prometheus.Observer // of connects, by phase; never written after New
	decisions  *prometheus.CounterVec
	repairs    *prometheus.CounterVec
	overloads  *prometheus.CounterVec

	mu       sync.Mutex // guards the field below
	repaired map[string]time.Time
}

func newAditMetrics() *aditMetrics {
	m := &aditMetrics{
		handshakes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "adit_handshake_duration_seconds",
			Help:    "TLS handshakes of tunnels by direction (client, server) and result (ok, error, timeout, refused).",
			Buckets: seconds,
		}, []string{"direction", "result"}),
		connects: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "adit_connect_duration_seconds",
			Help:    "Time to reach the next hop by phase (tcp, tls, h2, connect, hbone, app).",
			Buckets: seconds,
		}, []string{"phase"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_policy_decisions_total",
			Help: "Authorization decisions by action (allow, deny); dry runs are counted apart.",
		}, []string{"action", "dry_run"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_capture_repairs_total",
			Help: "Repairs of a pod's capture rules, which somebody else had changed.",
		}, []string{"pod", "kind"}),
		overloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_pod_overloads_total",
			Help: "Times that a pod was at a bound, by what it bounds: connections being opened (accept: the next one waits) " +
				"or handshakes under way (handshake: the oldest is dropped).",
		}, []string{"bound"}),
		repaired: make(map[string]time.Time),
		phases:   make(map[string]prometheus.Observer),
	}
	for _, phase := range []string{"tcp", "tls", "h2", "connect", "hbone", "app", "other"} {
		m.phases[phase] = m.connects.WithLabelValues(phase)
	}
	return m
}

func (m *aditMetrics) register(r prometheus.Registerer) {
	r.MustRegister(m.handshakes, m.connects, m.decisions, m.repairs, m.overloads)
}

// evict forgets the pods that have not needed a repair for ttl.
func (m *aditMetrics) evict(now time.Time, ttl time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for pod, last := range m.repaired {
		if now.Sub(last) >= ttl {
			delete(m.repaired, pod)
			m.repairs.DeletePartialMatch(prometheus.Labels{"pod": pod})
		}
	}
}

// oneOf is v in lower case if it is among known, else "other".
func oneOf(v string, known ...string) string {
	for _, k := range known {
		if strings.EqualFold(v, k) {
			return k
		}
	}
	return "other"
}

// Handshake records a TLS handshake: direction is "client" or "server", result
// "ok", "error", "timeout" or "refused".
func (t *Telemetry) Handshake(direction, result string, d time.Duration) {
	t.adit.handshakes.WithLabelValues(
		oneOf(direction, "client", "server"),
		oneOf(result, "ok", "error", "timeout", "refused"),
	).Observe(d.Seconds())
}

// ConnectLatency records how long one phase of reaching the next hop took:
// "tcp", "tls", "h2" or "connect"; "hbone" is a stream from the call to the
// peer's answer, "app" the connection to the local application.
func (t *Telemetry) ConnectLatency(phase string, d time.Duration) {
	o, known := t.adit.phases[phase]
	if !known {
		o = t.adit.phases["other"]
	}
	o.Observe(d.Seconds())
}

// PolicyDecision counts a decision, "allow" or "deny". A dry run says what a
// policy would have done.
func (t *Telemetry) PolicyDecision(action string, dryRun bool) {
	t.adit.decisions.WithLabelValues(oneOf(action, "allow", "deny"), strconv.FormatBool(dryRun)).Inc()
}

// Overload counts that a pod was at one of its bounds: "accept" or "handshake".
func (t *Telemetry) Overload(bound string) {
	t.adit.overloads.WithLabelValues(oneOf(bound, "accept", "handshake")).Inc()
}

// CaptureRepair counts a repair of the capture of pod. kind is one of a few
// words of package capture.
func (t *Telemetry) CaptureRepair(pod, kind string) {
	pod, kind = strings.ToValidUTF8(pod, ""), strings.ToValidUTF8(kind, "")
	t.adit.mu.Lock()
	defer t.adit.mu.Unlock()
	t.adit.repaired[pod] = time.Now()
	t.adit.repairs.WithLabelValues(pod, kind).Inc()
}

// PoolStats sums up the tunnels of all pools.
type PoolStats struct {
	Tunnels  int // open, draining ones included
	Draining int // take no new streams
	Streams  int // open
}

// RegisterPool exposes what stats returns at each scrape. It is called once.
func (t *Telemetry) RegisterPool(stats func() PoolStats) {
	t.registerer.MustRegister(scrape{
		descs: []*prometheus.Desc{tunnelsDesc, drainingDesc, streamsDesc},
		collect: func(ch chan<- prometheus.Metric) {
			s := stats()
			ch <- prometheus.MustNewConstMetric(tunnelsDesc, prometheus.GaugeValue, float64(s.Tunnels))
			ch <- prometheus.MustNewConstMetric(drainingDesc, prometheus.GaugeValue, float64(s.Draining))
			ch <- prometheus.MustNewConstMetric(streamsDesc, prometheus.GaugeValue, float64(s.Streams))
		},
	})
}

// RegisterCertificates exposes what certificates returns at each scrape, as
// [identity.Manager.Certificates] does. It is called once.
func (t *Telemetry) RegisterCertificates(certificates func() []identity.CertificateInfo) {
	t.registerer.MustRegister(scrape{
		descs: []*prometheus.Desc{expiryDesc, renewalDesc},
		collect: func(ch chan<- prometheus.Metric) {
			for _, c := range certificates() {
				// No certificate yet is 0, which any alert on expiry sees.
				expiry := 0.0
				if !c.NotAfter.IsZero() {
					expiry = float64(c.NotAfter.Unix())
				}
				ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, expiry, c.ID.String())
				ch <- prometheus.MustNewConstMetric(renewalDesc, prometheus.GaugeValue, float64(c.Failures), c.ID.String())
			}
		},
	})
}

var (
	tunnelsDesc  = prometheus.NewDesc("adit_pool_tunnels", "Tunnels open to peers.", nil, nil)
	drainingDesc = prometheus.NewDesc("adit_pool_tunnels_draining", "Tunnels that take no new streams.", nil, nil)
	streamsDesc  = prometheus.NewDesc("adit_pool_streams", "Streams open in tunnels to peers.", nil, nil)
	expiryDesc   = prometheus.NewDesc("adit_certificate_expiry_timestamp_seconds",
		"When the certificate of a local identity expires, 0 if it has none.", []string{"identity"}, nil)
	renewalDesc = prometheus.NewDesc("adit_certificate_renewal_failures",
		"Failed attempts since the certificate of a local identity was last issued.", []string{"identity"}, nil)
	activeDesc = prometheus.NewDesc("adit_connections_active",
		"Connections open now.", []string{"reporter", "mode"}, nil)
)

// scrape is a prometheus.Collector that asks at each scrape.
type scrape struct {
	descs   []*prometheus.Desc
	collect func(chan<- prometheus.Metric)
}

func (s scrape) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range s.descs {
		ch <- d
	}
}

func (s scrape) Collect(ch chan<- prometheus.Metric) { s.collect(ch) }

var modes = [...]string{"hbone", "tcp", "local", "passthrough", "other"}

func modeIndex(mode string) int {
	for i, m := range modes {
		if m == mode {
			return i
		}
	}
	return len(modes) - 1
}

// activeGauge counts open connections. It is a prometheus.Collector.
type activeGauge [2][len(modes)]atomic.Int64

func (g *activeGauge) add(r Reporter, mode int, n int64) { g[r&1][mode].Add(n) }

func (g *activeGauge) Describe(ch chan<- *prometheus.Desc) { ch <- activeDesc }

func (g *activeGauge) Collect(ch chan<- prometheus.Metric) {
	for r := range g {
		for m, mode := range modes {
			ch <- prometheus.MustNewConstMetric(activeDesc, prometheus.GaugeValue,
				float64(g[r][m].Load()), Reporter(r).String(), mode)
		}
	}
}
