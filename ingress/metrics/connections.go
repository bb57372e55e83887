package metrics

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSockets bounds the label sets of connections; configurations with more are
// counted as "other".
const maxSockets = 1000

// connections are told of by the server's events.
type connections struct {
	mu     sync.Mutex // guards the fields below
	series map[socket]*connection
}

// socket is the gateway, its port, and tcp, quic or udp.
type socket struct{ gateway, port, transport string }

type connection struct {
	opened, closed uint64
	refused        map[string]uint64 // by reason
	failed         map[string]uint64 // handshakes, by reason
}

// ConnectionOpened counts a connection: that of gateway (namespace/name) on the
// Gateway's port, over tcp, quic or udp.
func (m *Metrics) ConnectionOpened(gateway string, port uint16, transport string) {
	m.connections.count(gateway, port, transport, func(c *connection) { c.opened++ })
}

// ConnectionClosed is for each ConnectionOpened.
func (m *Metrics) ConnectionClosed(gateway string, port uint16, transport string) {
	m.connections.count(gateway, port, transport, func(c *connection) { c.closed++ })
}

// ConnectionRefused counts one that was closed before anything was read of it. The
// reasons are few, and the caller's.
func (m *Metrics) ConnectionRefused(gateway string, port uint16, transport, reason string) {
	m.connections.count(gateway, port, transport, func(c *connection) { increment(&c.refused, reason) })
}

// HandshakeFailed counts one that ended before it was ready for a request. The
// reasons are few, and the caller's.
func (m *Metrics) HandshakeFailed(gateway string, port uint16, transport, reason string) {
	m.connections.count(gateway, port, transport, func(c *connection) { increment(&c.failed, reason) })
}

func increment(m *map[string]uint64, reason string) {
	if *m == nil {
		*m = make(map[string]uint64)
	}
	(*m)[valid(reason)]++
}

func (cs *connections) count(gateway string, port uint16, transport string, f func(*connection)) {
	s := socket{valid(gateway), strconv.Itoa(int(port)), valid(transport)}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.series[s] == nil && len(cs.series) >= maxSockets {
		s = socket{other, other, s.transport}
	}
	c := cs.series[s]
	if c == nil {
		c = new(connection)
		cs.series[s] = c
	}
	f(c)
}

// retain keeps what has connections: they are still to be closed.
func (cs *connections) retain(live Live) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for s, c := range cs.series {
		if !live.hasGateway(s.gateway) && c.opened == c.closed {
			delete(cs.series, s)
		}
	}
}

var (
	socketLabels = []string{"gateway", "port", "transport"}

	openDesc = prometheus.NewDesc("adit_ingress_connections_open",
		"Connections of clients.", socketLabels, nil)
	openedDesc = prometheus.NewDesc("adit_ingress_connections_total",
		"Connections of clients that were let in.", socketLabels, nil)
	refusedDesc = prometheus.NewDesc("adit_ingress_connections_refused_total",
		"Connections that were closed before anything was read of them.", append(socketLabels[:3:3], "reason"), nil)
	failedDesc = prometheus.NewDesc("adit_ingress_handshake_errors_total",
		"Connections that ended before they were ready for a request.", append(socketLabels[:3:3], "reason"), nil)
)

func (cs *connections) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{openDesc, openedDesc, refusedDesc, failedDesc} {
		ch <- d
	}
}

func (cs *connections) collect(ch chan<- prometheus.Metric) {
	for _, m := range cs.read() {
		ch <- m
	}
}

func (cs *connections) read() (all []prometheus.Metric) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	add := func(d *prometheus.Desc, t prometheus.ValueType, v uint64, labels ...string) {
		all = append(all, prometheus.MustNewConstMetric(d, t, float64(v), labels...))
	}
	for s, c := range cs.series {
		add(openDesc, prometheus.GaugeValue, c.opened-min(c.closed, c.opened), s.gateway, s.port, s.transport)
		add(openedDesc, prometheus.CounterValue, c.opened, s.gateway, s.port, s.transport)
		for reason, n := range c.refused {
			add(refusedDesc, prometheus.CounterValue, n, s.gateway, s.port, s.transport, reason)
		}
		for reason, n := range c.failed {
			add(failedDesc, prometheus.CounterValue, n, s.gateway, s.port, s.transport, reason)
		}
	}
	return all
}
