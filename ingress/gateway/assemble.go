package gateway

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/adit-mesh/adit/ingress"
	"k8s.io/apimachinery/pkg/types"
)

// bound is where a port of a Gateway is served.
type bound struct {
	portKey
	bind  ingress.Bind
	known bool
	// taken is the Gateway that has the socket, if it is another one.
	taken types.NamespacedName
	// noMirror says that a UDP listener has the socket that HTTP/3 would be
	// served on.
	noMirror bool
}

func (b bound) ok() bool { return b.known && b.taken == types.NamespacedName{} }

// assemble makes the next Config if anything in it is new.
func (t *Translator) assemble() {
	t.bindPorts()
	changed := false
	var ports []*ingress.Port
	for _, g := range t.ours() {
		if g.portsStale {
			g.portsStale = false
			t.assemblePorts(g)
		}
		ports = append(ports, g.ports...)
	}
	if slices.Equal(ports, t.config.Ports) {
		ports = t.config.Ports
	} else {
		changed = true
	}
	clusters, other := t.clusters.update(t.config.Clusters, t.index)
	if changed || other {
		t.config = &ingress.Config{Ports: ports, Clusters: clusters}
	}
}

// ours are the Gateways of our classes, in order of name.
func (t *Translator) ours() []*gateway {
	if t.order == nil {
		t.order = make([]*gateway, 0, len(t.gateways))
		for _, g := range t.gateways {
			if g.controller != "" {
				t.order = append(t.order, g)
			}
		}
		slices.SortFunc(t.order, func(a, b *gateway) int { return compareNames(a.name(), b.name()) })
		t.byAge = slices.Clone(t.order)
		slices.SortStableFunc(t.byAge, func(a, b *gateway) int {
			return a.obj.CreationTimestamp.Time.Compare(b.obj.CreationTimestamp.Time)
		})
	}
	return t.order
}

// portsOf are the ports of a Gateway that have a listener to serve, in order.
func (g *gateway) portsOf() []portKey {
	if !g.serving() {
		return nil
	}
	seen := make(set[portKey])
	var keys []portKey
	for _, o := range g.owners {
		for _, l := range o.listeners {
			if key := (portKey{l.port, l.udp}); l.usable() && !seen.has(key) {
				seen.add(key)
				keys = append(keys, key)
			}
		}
	}
	slices.SortFunc(keys, func(a, b portKey) int {
		if a.port == b.port && a.udp != b.udp {
			if a.udp {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.port, b.port)
	})
	return keys
}

// bindPorts asks for the sockets of all ports. Where two Gateways come to have
// one, the older Gateway keeps it.
func (t *Translator) bindPorts() {
	t.ours()
	owners := make(map[ingress.Bind]types.NamespacedName)
	all := t.scratch[:0]
	for _, g := range t.byAge {
		name := g.name()
		for _, key := range g.keys {
			b := bound{portKey: key}
			b.bind, b.known = t.options.Bind(name, key.port, key.udp)
			if b.known {
				if other, taken := owners[b.bind]; taken {
					b.taken = other
				} else {
					owners[b.bind] = name
				}
			}
			all = append(all, b)
		}
	}
	t.scratch = all
	for _, g := range t.byAge {
		list := all[:len(g.keys)]
		all = all[len(g.keys):]
		for i := range list {
			mirror := list[i].bind
			mirror.UDP = true
			_, list[i].noMirror = owners[mirror]
		}
		if name := g.name(); !slices.Equal(t.bound[name], list) {
			t.bound[name] = slices.Clone(list)
			g.portsStale, g.status = true, nil
		}
	}
}

// assemblePorts makes the ports of a Gateway. What did not change is what it was.
func (t *Translator) assemblePorts(g *gateway) {
	before := make(map[ingress.Bind]*ingress.Port, len(g.ports))
	for _, p := range g.ports {
		before[p.Bind] = p
	}
	g.ports = nil
	ports := make(map[portKey]*ingress.Port)
	for _, b := range t.bound[g.name()] {
		if b.ok() {
			p := &ingress.Port{Bind: b.bind, Gateway: g.name().String(), Public: b.port, ClientIP: t.options.ClientIP}
			p.QUIC.Off = b.noMirror
			ports[b.portKey] = p
			g.ports = append(g.ports, p)
		}
	}
	https := make(map[*ingress.Port]*quicOptions)
	for _, o := range g.owners {
		for _, l := range o.listeners {
			p := ports[portKey{l.port, l.udp}]
			if p == nil || !l.usable() {
				continue
			}
			p.Listeners = append(p.Listeners, l.serve())
			if l.protocol == ingress.HTTPS {
				if https[p] == nil {
					https[p] = &quicOptions{}
				}
				if l.valid() {
					_ = https[p].agree(l.quic) // who does not agree is not valid
				}
			}
		}
	}
	for i, p := range g.ports {
		if options := https[p]; options == nil {
			p.QUIC = ingress.QUIC{} // there is nothing to mirror
		} else {
			p.QUIC.Off = p.QUIC.Off || options.http3 == "off"
			p.QUIC.Advertise, p.QUIC.ZeroRTT = options.port, options.zeroRTT == "on"
		}
		if was := before[p.Bind]; was != nil && samePort(was, p) {
			g.ports[i] = was
		}
	}
}

func samePort(a, b *ingress.Port) bool {
	return a.Bind == b.Bind && a.Gateway == b.Gateway && a.Public == b.Public && a.QUIC == b.QUIC &&
		a.ClientIP.Trust.Hops == b.ClientIP.Trust.Hops &&
		slices.Equal(a.ClientIP.Trust.CIDRs, b.ClientIP.Trust.CIDRs) &&
		slices.Equal(a.ClientIP.ProxyProtocol, b.ClientIP.ProxyProtocol) &&
		slices.Equal(a.Listeners, b.Listeners)
}

// serve is the listener as it belongs in a Config: the same as before if nothing
// of it changed.
func (l *listener) serve() *ingress.Listener {
	next := ingress.Listener{
		Owner:    l.parent.String(),
		Name:     l.name,
		Hostname: l.host,
		Protocol: l.protocol,
		TLS:      l.tls,
	}
	if l.protocol >= ingress.TLS {
		next.Streams = l.streams
	} else {
		next.Routes = l.builder.Table()
	}
	if s := l.served; s == nil || s.Owner != next.Owner || s.Name != next.Name || s.Hostname != next.Hostname ||
		s.Protocol != next.Protocol || s.TLS != next.TLS || s.Routes != next.Routes ||
		!slices.Equal(s.Streams, next.Streams) {
		l.served = &next
	}
	return l.served
}

// Ports are the ports that a Gateway is to be reached on, in order: none if it is
// not ours, or not accepted. A listener counts even if it has no certificate.
func (t *Translator) Ports(gateway types.NamespacedName) []GatewayPort {
	g := t.gateways[gateway]
	if g == nil {
		return nil
	}
	mirrored := g.mirrored()
	var ports []GatewayPort
	for _, key := range g.keys {
		p := GatewayPort{Name: fmt.Sprintf("tcp-%d", key.port), Port: key.port, UDP: key.udp}
		if key.udp {
			p.Name = fmt.Sprintf("udp-%d", key.port)
		} else {
			p.QUIC = mirrored.has(key.port)
		}
		ports = append(ports, p)
	}
	return ports
}

// mirrored are the ports with HTTPS listeners that want HTTP/3, and no UDP
// listener.
func (g *gateway) mirrored() set[uint16] {
	ports, off := make(set[uint16]), make(set[uint16])
	for _, o := range g.owners {
		for _, l := range o.listeners {
			switch {
			case !l.usable():
			case l.udp || l.quic.http3 == "off":
				off.add(l.port)
			case l.protocol == ingress.HTTPS:
				ports.add(l.port)
			}
		}
	}
	for port := range off {
		delete(ports, port)
	}
	return ports
}
