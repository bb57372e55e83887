package agent

import (
	"crypto/x509"
	"time"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/metrics"
	"github.com/adit-mesh/adit/ingress/route"
)

// edgeEvents counts what connections do.
func edgeEvents(m *metrics.Metrics) ingress.Events {
	return ingress.Events{
		Opened: func(w ingress.Where) { m.ConnectionOpened(w.Gateway, w.Port, w.Transport) },
		Closed: func(w ingress.Where) { m.ConnectionClosed(w.Gateway, w.Port, w.Transport) },
		Refused: func(w ingress.Where, r ingress.RefuseReason) {
			m.ConnectionRefused(w.Gateway, w.Port, w.Transport, string(r))
		},
		HandshakeFailed: func(w ingress.Where, r ingress.HandshakeReason) {
			m.HandshakeFailed(w.Gateway, w.Port, w.Transport, string(r))
		},
	}
}

// liveSeries says of which gateways, listeners, routes and backends there is
// anything to count under cfg.
func liveSeries(cfg *ingress.Config) metrics.Live {
	type listener struct{ gateway, name string }
	gateways := make(map[string]bool)
	listeners := make(map[listener]bool)
	routes := make(map[route.Owner]bool)
	for _, p := range cfg.Ports {
		gateways[p.Gateway] = true
		for _, l := range p.Listeners {
			listeners[listener{p.Gateway, l.Name}] = true
			for e := range l.Routes.All() {
				routes[e.Owner] = true
			}
			for _, s := range l.Streams {
				routes[s.Owner] = true
			}
		}
	}
	return metrics.Live{
		Gateway:  func(g string) bool { return gateways[g] },
		Listener: func(g, l string) bool { return listeners[listener{g, l}] },
		Route:    func(o route.Owner) bool { return routes[o] },
		Cluster:  func(key string) bool { return cfg.Clusters[key] != nil },
	}
}

// expiries is until when each certificate of cfg is valid.
func expiries(cfg *ingress.Config) map[metrics.Certificate]time.Time {
	out := make(map[metrics.Certificate]time.Time)
	for _, p := range cfg.Ports {
		for _, l := range p.Listeners {
			if l.TLS == nil {
				continue
			}
			for _, c := range l.TLS.Certificates {
				if leaf := c.Leaf; leaf != nil {
					out[metrics.Certificate{Gateway: p.Gateway, Listener: l.Name, Name: certificateName(leaf)}] = leaf.NotAfter
				}
			}
		}
	}
	return out
}

func certificateName(leaf *x509.Certificate) string {
	if len(leaf.DNSNames) > 0 {
		return leaf.DNSNames[0]
	}
	return leaf.Subject.CommonName
}
