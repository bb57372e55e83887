package ingress

import (
	"crypto/tls"
	"slices"
	"strings"
)

// Dump is what a Server serves, for people and for JSON. There is no secret in it.
type Dump struct {
	Ports       []DumpPort               `json:"ports"`
	Clusters    map[string]BackendAnswer `json:"clusters"`
	Connections int64                    `json:"connections"`
	Handshakes  int64                    `json:"handshakes"`
}

// DumpPort is a socket, those that drain included.
type DumpPort struct {
	Bind        string         `json:"bind"`
	Gateway     string         `json:"gateway"`
	Port        uint16         `json:"port"`
	State       string         `json:"state"` // open, draining, or why there is no socket
	HTTP3       string         `json:"http3"` // serving, off, none, or why not
	ProxyHeader []string       `json:"proxyHeader,omitempty"`
	TrustedHops int            `json:"trustedHops,omitempty"`
	Connections int            `json:"connections"`
	Listeners   []DumpListener `json:"listeners"`
}

// DumpListener is a listener and what is attached to it.
type DumpListener struct {
	ListenerAnswer
	Protocol     string               `json:"protocol"`
	Certificates []*CertificateAnswer `json:"certificates,omitempty"`
	Clients      string               `json:"clients,omitempty"`
	Routes       []RuleAnswer         `json:"routes,omitempty"`
	Streams      []StreamAnswer       `json:"streams,omitempty"`
}

var protocolNames = [...]string{HTTP: "HTTP", HTTPS: "HTTPS", TLS: "TLS", TCP: "TCP", UDP: "UDP"}

// String is the name that Gateway API has for p.
func (p Protocol) String() string { return protocolNames[p] }

// Dump tells what is served at the moment.
func (s *Server) Dump() Dump {
	s.applying.Lock()
	defer s.applying.Unlock()
	cfg := s.config.Load()
	d := Dump{
		Clusters:    make(map[string]BackendAnswer, len(cfg.Clusters)),
		Connections: s.admit.conns.Load(),
		Handshakes:  s.admit.handshakes.Load(),
	}
	for key := range cfg.Clusters {
		d.Clusters[key] = clusterAnswer(cfg, key)
	}
	for bind, lp := range s.ports {
		x := lp.index.Load()
		p := DumpPort{
			Bind: bind.String(), Gateway: x.port.Gateway, Port: x.port.Public,
			State: "open", HTTP3: "none", TrustedHops: x.port.ClientIP.Trust.Hops, Connections: lp.connections(),
		}
		lp.mu.Lock()
		retired := lp.retired
		lp.mu.Unlock()
		if err := s.failed[bind]; err != nil {
			p.State = err.Error()
		} else if retired {
			p.State = "draining"
		}
		switch err := lp.quicError(); {
		case !x.hasQUIC:
		case err != nil:
			p.HTTP3 = err.Error()
		case lp.serving.Load():
			p.HTTP3 = "serving"
		default:
			p.HTTP3 = "off"
		}
		for _, from := range x.port.ClientIP.ProxyProtocol {
			p.ProxyHeader = append(p.ProxyHeader, from.String())
		}
		for _, st := range x.sites {
			p.Listeners = append(p.Listeners, dumpListener(cfg, st))
		}
		d.Ports = append(d.Ports, p)
	}
	slices.SortFunc(d.Ports, func(a, b DumpPort) int { return strings.Compare(a.Bind, b.Bind) })
	return d
}

func dumpListener(cfg *Config, st *site) DumpListener {
	l := DumpListener{ListenerAnswer: *listenerAnswer(st), Protocol: st.Protocol.String()}
	if st.TLS != nil {
		for _, c := range st.TLS.Certificates {
			if a := certificateAnswer(&TLSConfig{Certificates: []*tls.Certificate{c}}, ""); a != nil {
				l.Certificates = append(l.Certificates, a)
			}
		}
		l.Clients = demandText(st.TLS)
	}
	for e := range st.Routes.All() {
		l.Routes = append(l.Routes, *ruleAnswer(cfg, e))
	}
	for _, r := range st.Streams {
		l.Streams = append(l.Streams, StreamAnswer{Route: owner(r), Hosts: r.Hostnames, Backends: streamBackends(cfg, r)})
	}
	return l
}
