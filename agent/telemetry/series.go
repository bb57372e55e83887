package telemetry

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

const unknown = "unknown"

// maxLabel bounds a label value that a peer chose. Kubernetes names are at
// most 253 bytes long.
const maxLabel = 253

// labels are the values of Istio's standard labels, apart from
// request_protocol, which is always tcp, and response_flags. The order is that
// of labelNames.
type labels [len(labelNames)]string

var labelNames = [...]string{
	"reporter",
	"source_workload",
	"source_canonical_service",
	"source_canonical_revision",
	"source_workload_namespace",
	"source_principal",
	"source_app",
	"source_version",
	"source_cluster",
	"source_region",
	"source_zone",
	"destination_service",
	"destination_service_namespace",
	"destination_service_name",
	"destination_workload",
	"destination_canonical_service",
	"destination_canonical_revision",
	"destination_workload_namespace",
	"destination_principal",
	"destination_app",
	"destination_version",
	"destination_cluster",
	"destination_region",
	"destination_zone",
	"connection_security_policy",
}

const (
	labelReporter    = 0
	labelSource      = 1  // the first of ten
	labelService     = 11 // the first of three
	labelDestination = 14 // the first of ten
	labelSecurity    = 24
)

// party holds the labels of one end, in the order of labelNames.
type party [10]string

func partyOf(w *mesh.Workload, principal string) party {
	if w == nil {
		return party{4: principal}
	}
	cluster := w.ClusterID
	if cluster == "" {
		cluster = "Kubernetes"
	}
	return party{
		w.WorkloadName, w.CanonicalName, w.CanonicalRevision, w.Namespace, principal,
		w.CanonicalName, w.CanonicalRevision, cluster, w.Locality.Region, w.Locality.Zone,
	}
}

// partyOfBaggage believes the peer where nothing contradicts it: the namespace
// is that of the verified identity if there is one.
func partyOfBaggage(b *hbone.Baggage, namespace, principal string) party {
	if namespace == "" {
		namespace = b.Namespace
	}
	p := party{
		b.WorkloadName, b.ServiceName, b.ServiceVersion, namespace, principal,
		b.ServiceName, b.ServiceVersion, b.Cluster, b.Region, b.Zone,
	}
	for i, v := range p {
		if len(v) > maxLabel && i != 4 {
			p[i] = strings.ToValidUTF8(v[:maxLabel], "")
		}
	}
	return p
}

func labelsOf(info *Info) labels {
	var l labels
	l[labelReporter] = info.Reporter.String()

	source := partyOf(info.Source, info.SourceID.String())
	if info.Source == nil && info.SourceBaggage != nil {
		namespace, _, _ := identity.ParseWorkloadID(info.SourceID)
		source = partyOfBaggage(info.SourceBaggage, namespace, info.SourceID.String())
	}
	copy(l[labelSource:], source[:])
	destination := partyOf(info.Destination, info.DestinationID.String())
	copy(l[labelDestination:], destination[:])
	if s := info.Service; s != nil {
		l[labelService], l[labelService+1], l[labelService+2] = s.Hostname, s.Namespace, s.Name
	}
	if info.MutualTLS {
		l[labelSecurity] = "mutual_tls"
	}

	for i, v := range l {
		switch {
		case v == "":
			l[i] = unknown
		case !utf8.ValidString(v):
			// One bad label would fail the whole scrape.
			l[i] = strings.ToValidUTF8(v, "\uFFFD")
		}
	}
	return l
}

// series are the counters of one label set.
type series struct {
	labels                 labels
	opened, sent, received atomic.Uint64
	closed, failed         [len(flags)]atomic.Uint64

	// Guarded by table.mu.
	live int       // records open
	last time.Time // when it was last used, or its workloads last known
	uids [2]string // source and destination of the latest use
}

// table holds the series. It is a prometheus.Collector.
type table struct {
	max        int
	overflowed atomic.Uint64

	mu     sync.Mutex // guards the fields below
	series map[labels]*series
}

func newTable(limit int) *table {
	return &table{max: limit, series: make(map[labels]*series)}
}

// open counts a connection as opened and returns its series, which stays until
// it is released.
func (t *table) open(info *Info, now time.Time) *series {
	l := labelsOf(info)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.useLocked(&l, info, now)
	s.live++
	s.opened.Add(1)
	return s
}

func (t *table) fail(info *Info, flag Flag, now time.Time) {
	l := labelsOf(info)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.useLocked(&l, info, now).failed[flag.index()].Add(1)
}

func (t *table) useLocked(l *labels, info *Info, now time.Time) *series {
	s := t.series[*l]
	if s == nil && len(t.series) >= t.max {
		t.overflowed.Add(1)
		l = overflowLabels(l)
		s = t.series[*l]
	}
	if s == nil {
		s = &series{labels: *l}
		for i, v := range s.labels {
			// Baggage is a part of a header block that should be freed.
			s.labels[i] = strings.Clone(v)
		}
		t.series[s.labels] = s
	}
	s.last = now
	s.uids = [2]string{}
	if info.Source == nil && info.SourceBaggage != nil {
		return s // labels of the peer's choice stay by use alone
	}
	if info.Source != nil {
		s.uids[0] = info.Source.UID
	}
	if info.Destination != nil {
		s.uids[1] = info.Destination.UID
	}
	return s
}

// overflowLabels keep what has few values; there are four such sets.
func overflowLabels(l *labels) *labels {
	var o labels
	for i := range o {
		o[i] = unknown
	}
	o[labelReporter], o[labelSecurity] = l[labelReporter], l[labelSecurity]
	return &o
}

// move lets a connection of old go on as info says. If its labels stay the
// same, nothing has happened that a counter could tell.
func (t *table) move(old *series, info *Info, now time.Time) *series {
	l := labelsOf(info)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.useLocked(&l, info, now)
	if s == old {
		return s
	}
	s.live++
	s.opened.Add(1)
	old.live--
	old.last = now
	old.closed[FlagConnect.index()].Add(1)
	return s
}

func (t *table) release(s *series, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.live--
	s.last = now
}

// evict forgets the series without open connections that have not been used
// for ttl, unless all their workloads still exist.
func (t *table) evict(now time.Time, ttl time.Duration, exists func(uid string) bool) {
	t.mu.Lock()
	idle := make([]*series, 0, len(t.series))
	for _, s := range t.series {
		if s.live == 0 {
			idle = append(idle, s)
		}
	}
	t.mu.Unlock()

	for _, s := range idle {
		t.mu.Lock()
		uids := s.uids
		t.mu.Unlock()
		here := stillHere(uids, exists) // asks others, so without our lock
		t.mu.Lock()
		switch {
		case s.live > 0:
		case here && uids == s.uids:
			s.last = now
		case now.Sub(s.last) >= ttl:
			delete(t.series, s.labels)
		}
		t.mu.Unlock()
	}
}

func stillHere(uids [2]string, exists func(uid string) bool) bool {
	if exists == nil {
		return false
	}
	known := false
	for _, uid := range uids {
		if uid == "" {
			continue
		}
		if !exists(uid) {
			return false
		}
		known = true
	}
	return known
}

var (
	openedDesc = trafficDesc("connections_opened_total", "TCP connections opened.")
	closedDesc = trafficDesc("connections_closed_total", "TCP connections closed.")
	failedDesc = trafficDesc("connections_failed_total", "TCP connections that were refused or could not be established.")
	sentDesc   = trafficDesc("sent_bytes_total", "Bytes that the destination sent to the source.")
	recvDesc   = trafficDesc("received_bytes_total", "Bytes that the source sent to the destination.")

	seriesDesc   = prometheus.NewDesc("adit_telemetry_series", "Label sets of the istio_tcp metrics.", nil, nil)
	overflowDesc = prometheus.NewDesc("adit_telemetry_overflow_total",
		"Connections counted with all labels unknown because there were too many label sets.", nil, nil)
)

func trafficDesc(name, help string) *prometheus.Desc {
	names := append(slices.Clone(labelNames[:]), "request_protocol", "response_flags")
	return prometheus.NewDesc("istio_tcp_"+name, help, names, nil)
}

// Describe implements prometheus.Collector.
func (t *table) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{openedDesc, closedDesc, failedDesc, sentDesc, recvDesc, seriesDesc, overflowDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (t *table) Collect(ch chan<- prometheus.Metric) {
	t.mu.Lock()
	all := make([]*series, 0, len(t.series))
	for _, s := range t.series {
		all = append(all, s)
	}
	t.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(seriesDesc, prometheus.GaugeValue, float64(len(all)))
	ch <- prometheus.MustNewConstMetric(overflowDesc, prometheus.CounterValue, float64(t.overflowed.Load()))

	for _, s := range all {
		s.collect(ch)
	}
}

func (s *series) collect(ch chan<- prometheus.Metric) {
	var pairs [len(flags)][]*dto.LabelPair // made once per scrape and flag
	emit := func(desc *prometheus.Desc, flag int, v *atomic.Uint64) {
		if pairs[flag] == nil {
			pairs[flag] = s.pairs(flags[flag])
		}
		ch <- &counter{desc: desc, labels: pairs[flag], value: float64(v.Load())}
	}
	if s.opened.Load() > 0 {
		emit(openedDesc, 0, &s.opened)
		emit(sentDesc, 0, &s.sent)
		emit(recvDesc, 0, &s.received)
	}
	for i := range flags {
		if s.closed[i].Load() > 0 {
			emit(closedDesc, i, &s.closed[i])
		}
		if s.failed[i].Load() > 0 {
			emit(failedDesc, i, &s.failed[i])
		}
	}
}

func (s *series) pairs(flag Flag) []*dto.LabelPair {
	pairs := make([]*dto.LabelPair, 0, len(labelNames)+2)
	add := func(name, value string) {
		pairs = append(pairs, &dto.LabelPair{Name: &name, Value: &value})
	}
	for i, v := range s.labels {
		add(labelNames[i], v)
	}
	add("request_protocol", "tcp")
	add("response_flags", string(flag))
	slices.SortFunc(pairs, func(a, b *dto.LabelPair) int { return strings.Compare(*a.Name, *b.Name) })
	return pairs
}

// counter is a prometheus.Metric whose labels are shared between the counters
// of a series; prometheus.NewConstMetric would build them for each.
type counter struct {
	desc   *prometheus.Desc
	labels []*dto.LabelPair
	value  float64
}

func (c *counter) Desc() *prometheus.Desc { return c.desc }

func (c *counter) Write(m *dto.Metric) error {
	m.Label = c.labels
	m.Counter = &dto.Counter{Value: &c.value}
	return nil
}
