package kube

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the metrics when they are asked for.
type collector struct{ source *Source }

var (
	metricPresent = prometheus.NewDesc("adit_kube_kind_present",
		"Whether the API server has the kind of objects.", []string{"kind"}, nil)
	metricConnected = prometheus.NewDesc("adit_kube_connected",
		"Whether the last request for the kind of objects succeeded. Without it, what was known stays in force.", []string{"kind"}, nil)
	metricAge = prometheus.NewDesc("adit_kube_last_event_age_seconds",
		"Time since the API server last sent anything of the kind, bookmarks included.", []string{"kind"}, nil)
	metricObjects = prometheus.NewDesc("adit_kube_objects",
		"Objects that are known.", []string{"kind"}, nil)
	metricBuilds = prometheus.NewDesc("adit_kube_builds_total",
		"Objects of the mesh that were built because something that they depend on changed.", []string{"object"}, nil)
	metricBatches = prometheus.NewDesc("adit_kube_batches_total",
		"Changes that were applied to the mesh.", nil, nil)
	metricApplied = prometheus.NewDesc("adit_kube_applied_objects_total",
		"Objects in the changes that were applied.", nil, nil)
	metricRefused = prometheus.NewDesc("adit_kube_refused_objects_total",
		"Objects that the mesh refused.", nil, nil)
	metricWrites = prometheus.NewDesc("adit_kube_writes_total",
		"Writes to the API server, by what was written and whether it was.", []string{"what", "result"}, nil)
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range [...]*prometheus.Desc{
		metricPresent, metricConnected, metricAge, metricObjects, metricBuilds,
		metricBatches, metricApplied, metricRefused, metricWrites,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s := c.source
	for _, k := range s.Kinds() {
		gauge(metricPresent, flag(k.Present), k.Name)
		gauge(metricConnected, flag(k.Connected), k.Name)
		gauge(metricObjects, float64(k.Objects), k.Name)
		if !k.LastContact.IsZero() {
			gauge(metricAge, time.Since(k.LastContact).Seconds(), k.Name)
		}
	}
	work := s.world.workDone()
	count(metricBuilds, work.workloads, "workload")
	count(metricBuilds, work.services, "service")
	count(metricBuilds, work.policies, "policy")
	count(metricBatches, s.applied.batches.Load())
	count(metricApplied, s.applied.objects.Load())
	count(metricRefused, s.applied.refused.Load())
	count(metricWrites, s.annotator.written.Load(), "annotation", "written")
	count(metricWrites, s.annotator.failed.Load(), "annotation", "failed")
	count(metricWrites, s.events.written.Load(), "event", "written")
	count(metricWrites, s.events.lost.Load(), "event", "failed")
	count(metricWrites, s.status.written.Load(), "status", "written")
	count(metricWrites, s.status.failed.Load(), "status", "failed")
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (w *world) workDone() work {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.work
}
