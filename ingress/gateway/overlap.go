package gateway

import (
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// markOverlaps marks the listeners of one port on which TLS ends and of which a
// client may use the connection for another one's hosts (OverlappingTLSConfig).
// What other owners have is not told.
func markOverlaps(owners []*owner) {
	ports := make(map[uint16][]*listener)
	for _, o := range owners {
		for _, l := range o.listeners {
			l.overlap = verdict{}
			if l.valid() && l.tls != nil {
				ports[l.port] = append(ports[l.port], l)
			}
		}
	}
	for _, group := range ports {
		if len(group) < 2 {
			continue
		}
		markOverlap(group, func(l *listener) []string { return []string{l.host} },
			because(gatewayv1.ListenerReasonOverlappingHostnames,
				"another listener of the port has hostnames of this one; a client may reuse its connection for either"))
		markOverlap(group, (*listener).certificateNames,
			because(gatewayv1.ListenerReasonOverlappingCertificates,
				"a certificate of another listener of the port is valid for names of this one's; a client may reuse its connection for either"))
	}
}

// markOverlap gives v to each listener of which a name intersects with another's.
func markOverlap(group []*listener, of func(*listener) []string, v verdict) {
	exact := make(map[string]set[*listener])
	below := make(map[string]set[*listener])
	note := func(m map[string]set[*listener], key string, l *listener) {
		if m[key] == nil {
			m[key] = make(set[*listener])
		}
		m[key].add(l)
	}
	named := make(set[*listener])
	for _, l := range group {
		for _, name := range of(l) {
			named.add(l)
			note(exact, name, l)
			for suffix := range parents(name) {
				note(below, suffix, l)
			}
		}
	}
	others := func(s set[*listener], l *listener) bool {
		return len(s) > 1 || len(s) == 1 && !s.has(l)
	}
	for l := range named {
		for _, name := range of(l) {
			if others(exact[name], l) || others(exact[""], l) || name == "" && len(named) > 1 {
				l.overlap = v
			}
			for suffix := range parents(name) {
				if others(exact["*"+suffix], l) {
					l.overlap = v
				}
			}
			if suffix, ok := strings.CutPrefix(name, "*"); ok && others(below[suffix], l) {
				l.overlap = v
			}
		}
	}
}

// certificateNames are the DNS names of the listener's certificates, in lower
// case, each once.
func (l *listener) certificateNames() []string {
	seen := make(set[string])
	var list []string
	for _, c := range l.tls.Certificates {
		if c.Leaf == nil {
			continue
		}
		for _, name := range c.Leaf.DNSNames {
			if name = strings.ToLower(name); name != "" && !seen.has(name) {
				seen.add(name)
				list = append(list, name)
			}
		}
	}
	return list
}
