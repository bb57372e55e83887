package mesh

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// ParseFile reads a world from YAML, in the format of ztunnel's LOCAL_XDS_PATH
// with a netns beside each local workload. name is for error messages. The
// error joins a *FieldError for every mistake found.
func ParseFile(name string, data []byte) (World, error) {
	return parseWorld(name, data, "")
}

// parseWorld is ParseFile with the trust domain of workloads that name none.
func parseWorld(name string, data []byte, trustDomain string) (World, error) {
	p := &worldParser{
		decoder:     decoder{file: name},
		trustDomain: trustDomain,
		seen:        map[string]ast.Node{},
	}
	doc, err := p.parseYAML(data)
	if err != nil {
		return World{}, err
	}
	w := p.world(doc)
	if err := p.err(); err != nil {
		return World{}, err
	}
	return w, nil
}

type worldParser struct {
	decoder
	trustDomain string
	seen        map[string]ast.Node // what must be unique in the file, and where it was first
}

// unique reports a second use of something; kind keeps namespaces apart.
func (p *worldParser) unique(a at, kind, value, advice string) {
	key := kind + " " + value
	if prev, ok := p.seen[key]; ok {
		line, _ := position(prev)
		p.errorf(a, "%s %s is already used on line %d; %s", kind, value, line, advice)
		return
	}
	p.seen[key] = a.node
}

func (p *worldParser) world(doc ast.Node) World {
	var w World
	for _, e := range p.object(at{node: doc}, []string{"workloads", "services", "policies"}) {
		for _, item := range p.list(e.value) {
			switch e.key {
			case "workloads":
				w.Workloads = append(w.Workloads, p.workload(item))
			case "services":
				w.Services = append(w.Services, p.service(item))
			case "policies":
				w.Policies = append(w.Policies, p.policy(item))
			}
		}
	}
	return w
}

// ports reads {service port: target port}; lowest is the least target.
func (p *worldParser) ports(a at, lowest uint64) PortMap {
	m := PortMap{}
	for _, e := range p.entries(a) {
		from := p.port(e.keyAt)
		to := p.number(e.value, lowest, math.MaxUint16)
		m[from] = uint16(to)
	}
	return m
}

// gateway reads {destination: namespace/hostname or network/address,
// hboneMtlsPort}. null is no gateway.
func (p *worldParser) gateway(a at) *GatewayAddress {
	if n, _ := p.resolve(a); isNull(n) {
		return nil
	}
	g := &GatewayAddress{}
	got := p.object(a, []string{"destination", "hboneMtlsPort"})
	for _, e := range got {
		switch e.key {
		case "destination":
			s := p.str(e.value)
			left, right, ok := strings.Cut(s, "/")
			if addr, err := netip.ParseAddr(right); ok && err == nil {
				g.Address = NetworkAddress{left, addr.Unmap()}
			} else if key, err := ParseNamespacedHostname(strings.ToLower(s)); err == nil && left != "" {
				g.Hostname = key
			} else if s != "" {
				p.errorf(e.value, "%s is no destination; write namespace/hostname or network/address", quote(s))
			}
		case "hboneMtlsPort":
			g.HBONEPort = p.port(e.value)
		}
	}
	p.require(a, got, "destination")
	return g
}

// enumNames are the spellings of an enum, ztunnel's first.
type enumNames[E comparable] []struct {
	name  string
	value E
}

// enum takes a name in any case and with or without underscores, so that
// ztunnel's WorkloadSelector and the protobuf's WORKLOAD_SELECTOR are one.
func enum[E comparable](p *worldParser, a at, names enumNames[E]) E {
	var zero E
	errsBefore := len(p.errs) + p.dropped
	s := p.str(a)
	if len(p.errs)+p.dropped > errsBefore {
		return zero
	}
	var known []string
	for _, n := range names {
		if fold(n.name) == fold(s) {
			return n.value
		}
		if n.name != "" && !slices.ContainsFunc(known, func(k string) bool { return fold(k) == fold(n.name) }) {
			known = append(known, n.name)
		}
	}
	p.errorf(a, "%s is unknown; want one of %s", quote(s), strings.Join(known, ", "))
	return zero
}

func fold(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }

// warnings are what a world says that is allowed and hardly meant.
func (w World) warnings() []string {
	policies := map[string]bool{}
	for _, p := range w.Policies {
		policies[p.Key()] = true
	}
	services := map[NamespacedHostname]bool{}
	for _, s := range w.Services {
		services[s.Key()] = true
	}
	var out []string
	for _, wl := range w.Workloads {
		for _, key := range wl.AuthorizationPolicies {
			if !policies[key] {
				out = append(out, fmt.Sprintf("workload %s lists policy %s, which is not in the file: it refuses all connections", wl, key))
			}
		}
		for key := range wl.Services {
			if !services[key] {
				out = append(out, fmt.Sprintf("workload %s serves %s, which is not in the file: nobody finds it by that name", wl, key))
			}
		}
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
