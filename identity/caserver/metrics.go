package caserver

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-mesh/adit/identity/ca"
)

type metrics struct {
	issued   prometheus.Counter
	refused  *prometheus.CounterVec
	duration prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, authority func() (*ca.Authority, error)) *metrics {
	m := &metrics{
		issued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "adit_ca_certificates_issued_total",
			Help: "Workload certificates issued.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "adit_ca_requests_refused_total",
			Help: "Requests refused, by reason: token, caller, identity, request, rate, unavailable, timeout.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "adit_ca_request_duration_seconds",
			Help:    "Time from request to answer, refusals included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
	for reason := range reasonCodes {
		m.refused.WithLabelValues(string(reason)) // a rate needs the zero
	}
	collectors := []prometheus.Collector{m.issued, m.refused, m.duration,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "adit_ca_root_expiry_timestamp_seconds",
			Help: "When the certificate that signs, or one that it depends on, expires, in Unix seconds; 0 while there is none.",
		}, func() float64 {
			a, err := authority()
			if err != nil {
				return 0
			}
			return float64(a.Issuer.NotAfter().Unix())
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "adit_ca_trusted_roots",
			Help: "Roots in the trust bundle; more than one during a rotation.",
		}, func() float64 {
			a, err := authority()
			if err != nil {
				return 0
			}
			return float64(len(a.Roots))
		}),
	}
	if reg != nil {
		reg.MustRegister(collectors...)
	}
	return m
}
