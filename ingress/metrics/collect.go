package metrics

import (
	"maps"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	groupLabels    = []string{"gateway", "listener", "route", "cluster", "protocol"}
	listenerLabels = []string{"gateway", "listener"}

	requestsDesc = prometheus.NewDesc("adit_ingress_requests_total",
		"Requests that are over. Code 0: the client was gone before an answer.", append(groupLabels[:5:5], "code"), nil)
	durationDesc = prometheus.NewDesc("adit_ingress_request_duration_seconds",
		"From the head of a request to the last byte of its answer.", groupLabels, nil)
	receivedDesc = prometheus.NewDesc("adit_ingress_request_bytes_total",
		"Bytes of the bodies of requests.", groupLabels, nil)
	sentDesc = prometheus.NewDesc("adit_ingress_response_bytes_total",
		"Bytes of the bodies of answers.", groupLabels, nil)
	flightDesc = prometheus.NewDesc("adit_ingress_requests_in_flight",
		"Requests that are not over.", listenerLabels, nil)
	seriesDesc = prometheus.NewDesc("adit_ingress_request_series",
		"Label sets of adit_ingress_requests_total.", nil, nil)
	overflowDesc = prometheus.NewDesc("adit_ingress_request_series_overflow_total",
		"Label sets that were counted as other because there are too many.", nil, nil)
)

func (t *table) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, durationDesc, receivedDesc, sentDesc, flightDesc, seriesDesc, overflowDesc} {
		ch <- d
	}
}

// reading is a group with its codes, copied under the lock so that requests need
// not wait for a scrape.
type reading struct {
	*group
	codes map[uint16]*total
}

func (t *table) collect(ch chan<- prometheus.Metric) {
	t.mu.Lock()
	groups := make([]reading, 0, len(t.groups))
	for _, g := range t.groups {
		groups = append(groups, reading{g, maps.Clone(g.codes)})
	}
	series := t.series
	t.mu.Unlock()

	for _, g := range groups {
		g.collect(ch)
	}
	t.collectListeners(ch)
	gauge(ch, seriesDesc, int64(series))
	counter(ch, overflowDesc, t.overflowed.Load())
}

func (g *reading) collect(ch chan<- prometheus.Metric) {
	l := []string{g.labels.gateway, g.labels.listener, g.labels.route, g.labels.cluster, g.labels.protocol}
	for code, n := range g.codes {
		counter(ch, requestsDesc, n.Load(), append(l[:5:5], strconv.Itoa(int(code)))...)
	}
	counter(ch, receivedDesc, g.received.Load(), l...)
	counter(ch, sentDesc, g.sent.Load(), l...)

	buckets := make(map[float64]uint64, len(bounds))
	var n uint64
	for i, b := range bounds {
		n += g.buckets[i].Load()
		buckets[b.Seconds()] = n
	}
	n += g.buckets[len(bounds)].Load()
	ch <- prometheus.MustNewConstHistogram(durationDesc, n, float64(g.nanoseconds.Load())/1e9, buckets, l...)
}

func (t *table) collectListeners(ch chan<- prometheus.Metric) {
	sums := make(map[listenerKey]int64)
	for k, l := range *t.byListener.Load() {
		if l.begun.Load() == 0 {
			continue // Begin is not called
		}
		ended := l.ended.Load() // before begun, or one between the two would be missing
		sums[listenerKey{valid(k.gateway), valid(k.name)}] += max(l.begun.Load()-ended, 0)
	}
	for k, n := range sums {
		gauge(ch, flightDesc, n, k.gateway, k.name)
	}
}
