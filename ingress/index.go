package ingress

import (
	"crypto/tls"
	"fmt"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// index is a Port made ready to be looked up. It is immutable but for the keys of
// session tickets.
type index struct {
	port *Port
	// plain are the HTTP listeners by Host.
	plain hostTable[*site]
	// secure are the HTTPS and TLS listeners by SNI, and by Host for requests.
	secure                       hostTable[*site]
	hasPlain, hasSecure, hasQUIC bool
	// hasThrough is whether a listener passes TLS through.
	hasThrough  bool
	stream      *site // of a TCP or UDP listener
	sites       []*site
	where       [3]Where // by transport
	alternative string   // alt-svc while the mirror serves
	// earlyData is taken over QUIC. Which listener a client is for is known too late
	// to say so to some clients alone, so one listener that verifies clients turns
	// it off: a replayed request would be taken for one of a client that is there.
	earlyData bool
}

// site is a Listener made ready.
type site struct {
	*Listener
	policy  *policy                 // nil: passes TLS through, or has none
	streams hostTable[*StreamRoute] // of a TLS listener, by SNI
	// client is what every request of the listener has in common.
	client proxy.Client
}

// transport is how a connection came.
type transport uint8

const (
	overTCP transport = iota
	overQUIC
	overUDP
)

// newIndex makes p ready. What did not change since old, which may be nil, is
// taken from it: TLS sessions go on.
func newIndex(p *Port, old *index, k keys) *index {
	x := &index{port: p, earlyData: p.QUIC.ZeroRTT}
	for i, name := range []string{"tcp", "quic", "udp"} {
		x.where[i] = Where{Gateway: p.Gateway, Port: p.Public, Transport: name}
	}
	reuse := make(map[[2]string]*site)
	if old != nil && old.port.Gateway == p.Gateway {
		for _, s := range old.sites {
			reuse[[2]string{s.Owner, s.Name}] = s
		}
	}
	for _, l := range p.Listeners {
		s := newSite(p, l, reuse[[2]string{l.Owner, l.Name}], k)
		x.sites = append(x.sites, s)
		if l.TLS != nil && l.TLS.ClientCAs != nil {
			x.earlyData = false
		}
		switch l.Protocol {
		case HTTP:
			x.hasPlain = true
			x.plain.set(l.Hostname, s)
		case HTTPS:
			x.hasSecure = true
			x.hasQUIC = true
			x.secure.set(l.Hostname, s)
		case TLS:
			x.hasSecure = true
			x.hasThrough = x.hasThrough || l.TLS == nil
			x.secure.set(l.Hostname, s)
		case TCP, UDP:
			if x.stream == nil {
				x.stream = s
			}
		}
	}
	if x.hasQUIC {
		x.alternative = fmt.Sprintf(`h3=":%d"; ma=86400`, x.advertised())
	}
	return x
}

func newSite(p *Port, l *Listener, old *site, k keys) *site {
	s := &site{Listener: l, client: proxy.Client{
		Port:     p.Public,
		Gateway:  p.Gateway,
		Listener: l.Name,
		Hostname: l.Hostname,
		Trust:    p.ClientIP.Trust,
	}}
	if l.TLS != nil {
		var was *policy
		if old != nil {
			was = old.policy
		}
		s.policy = newPolicy(l, p.Gateway, was, k)
	}
	if l.Protocol == TLS {
		for _, r := range l.Streams {
			if len(r.Hostnames) == 0 {
				s.streams.set("", r)
			}
			for _, h := range r.Hostnames {
				s.streams.set(h, r)
			}
		}
	}
	return s
}

// altSvc is the value of alt-svc for answers over TLS, given whether the mirror
// serves: clients are never sent to a socket that is not there.
func (x *index) altSvc(serving bool) string {
	switch {
	case !x.hasQUIC:
		return ""
	case x.port.QUIC.Off:
		return "clear"
	case serving:
		return x.alternative
	}
	return ""
}

// advertised is the port that clients find HTTP/3 on.
func (x *index) advertised() uint16 {
	if x.port.QUIC.Advertise != 0 {
		return x.port.QUIC.Advertise
	}
	return x.port.Public
}

// decision is what becomes of a TLS handshake.
type decision struct {
	site *site // the most specific listener; nil = none
	// stream is the route, and through says that TLS does not end here.
	stream  *StreamRoute
	through bool
	// config goes on with the handshake. It is never nil: that of a refused one
	// has no certificates, which crypto/tls answers with unrecognized_name
	// (RFC 6066 section 3).
	config *tls.Config
	policy *policy
	// refused is why the handshake fails. "" = it does not.
	refused HandshakeReason
	// silent is whether the connection ends without an alert: where TLS ends
	// elsewhere, nobody here speaks for it.
	silent bool
}

// decide is the TLS decision of TCP and QUIC alike. sni is normalised; without one
// only a listener for all hosts can be meant.
func (x *index) decide(sni string, via transport) decision {
	s, ok := x.secure.get(sni)
	if !ok {
		return decision{config: refusing, refused: FailedNoListener, silent: x.hasThrough}
	}
	d := decision{site: s, policy: s.policy, config: refusing}
	if s.Protocol == TLS {
		if via == overQUIC {
			d.refused = FailedNotHTTP
			return d
		}
		if d.stream, ok = s.streams.get(sni); !ok {
			d.refused, d.silent = FailedNoRoute, s.TLS == nil
			return d
		}
		if !d.stream.Terminate {
			d.through = true
			return d
		}
	}
	if s.policy == nil || !s.policy.usable {
		d.refused = FailedNoCertificate
		return d
	}
	d.config = s.policy.config(via)
	return d
}
