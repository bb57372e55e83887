package mesh

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
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

var workloadFields = []string{
	"uid", "name", "namespace", "serviceAccount", "trustDomain", "workloadIps", "workloadIp", "protocol",
	"network", "networkMode", "node", "clusterId", "hostname", "canonicalName", "canonicalRevision",
	"workloadName", "workloadType", "nativeTunnel", "waypoint", "networkGateway", "applicationTunnel",
	"locality", "services", "authorizationPolicies", "status", "capacity", "netns",
}

func (p *worldParser) workload(a at) *Workload {
	w := &Workload{TrustDomain: p.trustDomain}
	got := p.object(a, workloadFields)
	uidAt, netnsAt := a, a
	addressAt := map[netip.Addr]at{}
	for _, e := range got {
		v := e.value
		switch e.key {
		case "uid":
			w.UID = p.str(v)
			uidAt = v
		case "name":
			w.Name = p.str(v)
		case "namespace":
			w.Namespace = p.str(v)
		case "serviceAccount":
			w.ServiceAccount = p.str(v)
		case "trustDomain":
			w.TrustDomain = or(p.str(v), p.trustDomain)
		case "workloadIps":
			for _, item := range p.list(v) {
				w.Addresses = p.address(item, w.Addresses, addressAt)
			}
		case "workloadIp":
			w.Addresses = p.address(v, w.Addresses, addressAt)
		case "protocol":
			w.Protocol = enum(p, v, enumNames[Protocol]{{"TCP", TCP}, {"HBONE", HBONE}, {"NONE", TCP}})
		case "network":
			w.Network = p.str(v)
		case "networkMode":
			w.NetworkMode = enum(p, v, enumNames[NetworkMode]{{"Standard", Standard}, {"HostNetwork", HostNetwork}})
		case "node":
			w.Node = p.str(v)
		case "clusterId":
			w.ClusterID = p.str(v)
		case "hostname":
			w.Hostname = p.str(v)
		case "canonicalName":
			w.CanonicalName = p.str(v)
		case "canonicalRevision":
			w.CanonicalRevision = p.str(v)
		case "workloadName":
			w.WorkloadName = p.str(v)
		case "workloadType":
			w.WorkloadType = enum(p, v, enumNames[WorkloadType]{
				{"deployment", Deployment}, {"cronjob", CronJob}, {"pod", Pod}, {"job", Job}, {"", Deployment}})
		case "nativeTunnel":
			w.NativeTunnel = p.boolean(v)
		case "waypoint":
			w.Waypoint = p.gateway(v)
		case "networkGateway":
			w.NetworkGateway = p.gateway(v)
		case "applicationTunnel":
			w.ApplicationTunnel = p.applicationTunnel(v)
		case "locality":
			w.Locality = p.locality(v)
		case "services":
			w.Services = p.memberships(v)
		case "authorizationPolicies":
			w.AuthorizationPolicies = p.policyKeys(v)
		case "status":
			w.Status = enum(p, v, enumNames[Health]{{"Healthy", Healthy}, {"Unhealthy", Unhealthy}})
		case "capacity":
			w.Capacity = new(uint32(p.number(v, 0, math.MaxUint32)))
		case "netns":
			w.Netns = p.str(v)
			netnsAt = v
		}
	}
	if !p.require(a, got, "namespace") {
		return w
	}
	if w.UID == "" && w.Name == "" {
		p.errorf(a, "neither uid nor name; add a uid, by convention cluster//Pod/namespace/name")
		return w
	}
	if w.UID == "" {
		w.UID = or(w.ClusterID, "Kubernetes") + "//Pod/" + w.Namespace + "/" + w.Name
	}
	p.unique(uidAt, "uid", quote(w.UID), "give each workload its own")
	if w.Netns != "" {
		p.unique(netnsAt, "netns", quote(w.Netns)+" on node "+quote(w.Node), "each pod has its own")
	}
	if len(w.Addresses) == 0 && len(addressAt) == 0 && w.Hostname == "" {
		p.errorf(a, "no address; add workloadIps: [...]")
	}
	if w.NetworkMode != HostNetwork {
		for _, addr := range w.Addresses {
			p.unique(addressAt[addr], "address", NetworkAddress{w.Network, addr}.String(),
				"one address is one identity; pods of the host network have networkMode: HostNetwork")
		}
	}
	if _, err := w.identity(); err != nil {
		p.errorf(a, "trustDomain %q, namespace %q and serviceAccount %q make no SPIFFE ID: %v", or(w.TrustDomain, "cluster.local"), w.Namespace, or(w.ServiceAccount, "default"), err)
	}
	return w
}

var serviceFields = []string{
	"name", "namespace", "hostname", "vips", "ports", "subjectAltNames", "waypoint", "weightedWaypoints",
	"loadBalancer", "ipFamilies", "canonical", "ingressUseWaypoint", "visibility",
}

func (p *worldParser) service(a at) *Service {
	s := &Service{}
	got := p.object(a, serviceFields)
	for _, e := range got {
		v := e.value
		switch e.key {
		case "name":
			s.Name = p.str(v)
		case "namespace":
			s.Namespace = p.str(v)
		case "hostname":
			s.Hostname = strings.ToLower(p.str(v))
		case "vips":
			for _, item := range p.list(v) {
				if vip, ok := p.vip(item); ok {
					p.unique(item, "VIP", vip.String(), "services must not overlap; give each its own address or range")
					s.VIPs = append(s.VIPs, vip)
				}
			}
		case "ports":
			s.Ports = p.ports(v, 0)
		case "subjectAltNames":
			s.SubjectAltNames = p.subjectAltNames(v)
		case "waypoint":
			s.Waypoint = p.gateway(v)
		case "weightedWaypoints":
			for _, item := range p.list(v) {
				s.WeightedWaypoints = append(s.WeightedWaypoints, p.weightedWaypoint(item))
			}
		case "loadBalancer":
			s.LoadBalancing = p.loadBalancer(v)
		case "ipFamilies":
			s.IPFamilies = enum(p, v, enumNames[IPFamilies]{
				{"Dual", DualStack}, {"IPv4", IPv4Only}, {"IPv6", IPv6Only}, {"Automatic", AutomaticFamilies},
				{"IPv4Only", IPv4Only}, {"IPv6Only", IPv6Only}})
		case "canonical":
			s.Canonical = p.boolean(v)
		case "ingressUseWaypoint":
			s.IngressUseWaypoint = p.boolean(v)
		case "visibility":
			s.Visibility = enum(p, v, enumNames[Visibility]{{"Public", Public}, {"Namespace", NamespaceOnly}})
		}
	}
	if !p.require(a, got, "name", "namespace", "hostname") {
		return s
	}
	if s.Hostname == "" {
		p.errorf(at{a.node, a.field("hostname")}, "is empty; write the name that clients use")
	}
	p.unique(a, "service", s.Key().String(), "write its fields once")
	return s
}

func (p *worldParser) address(a at, addrs []netip.Addr, places map[netip.Addr]at) []netip.Addr {
	s := p.str(a)
	addr, err := netip.ParseAddr(s)
	if err != nil || addr.IsUnspecified() || addr.Zone() != "" {
		places[netip.Addr{}] = a // something was written, though not an address
		if s != "" {
			p.errorf(a, "%s is not an IP address; write it like 10.0.0.1 or fd00::1", quote(s))
		}
		return addrs
	}
	addr = addr.Unmap()
	if _, ok := places[addr]; ok {
		p.errorf(a, "address %s is listed twice; remove one", addr)
		return addrs
	}
	places[addr] = a
	return append(addrs, addr)
}

// vip reads "network/address" or "network/address/length"; the network may be
// empty.
func (p *worldParser) vip(a at) (VIP, bool) {
	s := p.str(a)
	network, rest, ok := strings.Cut(s, "/")
	if _, err := netip.ParseAddr(network); err == nil {
		p.errorf(a, "%s has no network; write /%s, or the network's name before the slash", quote(s), s)
		return VIP{}, false
	}
	if addr, err := netip.ParseAddr(rest); ok && err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return VIP{network, netip.PrefixFrom(addr, addr.BitLen())}, true
	}
	if prefix, err := netip.ParsePrefix(rest); ok && err == nil {
		if prefix != prefix.Masked() {
			p.errorf(a, "%s has bits beyond its length; write %s", quote(s), VIP{network, prefix.Masked()})
			return VIP{}, false
		}
		return VIP{network, prefix}, true
	}
	if s != "" {
		p.errorf(a, "%s is not a VIP; write network/address or network/address/length, the network may be empty: /10.1.0.1", quote(s))
	}
	return VIP{}, false
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

func (p *worldParser) memberships(a at) map[NamespacedHostname]PortMap {
	m := map[NamespacedHostname]PortMap{}
	for _, e := range p.entries(a) {
		key, err := ParseNamespacedHostname(strings.ToLower(e.key))
		if err != nil {
			p.errorf(e.keyAt, "%v, the key of a service", err)
			continue
		}
		m[key] = p.ports(e.value, 1)
	}
	return m
}

func (p *worldParser) policyKeys(a at) []string {
	var out []string
	for _, item := range p.list(a) {
		s := p.str(item)
		if ns, name, ok := strings.Cut(s, "/"); s != "" && (!ok || name == "" || strings.Contains(name, "/")) {
			p.errorf(item, "%s is not a policy's namespace/name%s", quote(s), map[bool]string{true: "; write the namespace too"}[ns == s])
		}
		out = append(out, s)
	}
	return out
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

func (p *worldParser) weightedWaypoint(a at) WeightedWaypoint {
	var w WeightedWaypoint
	got := p.object(a, []string{"destination", "weight"})
	for _, e := range got {
		switch e.key {
		case "destination":
			if g := p.gateway(e.value); g != nil {
				w.Destination = *g
			} else {
				p.errorf(e.value, "has no value; write a gateway")
			}
		case "weight":
			w.Weight = uint32(p.number(e.value, 0, math.MaxUint32))
		}
	}
	p.require(a, got, "destination", "weight")
	return w
}

func (p *worldParser) applicationTunnel(a at) *ApplicationTunnel {
	if n, _ := p.resolve(a); isNull(n) {
		return nil
	}
	t := &ApplicationTunnel{}
	for _, e := range p.object(a, []string{"protocol", "port"}) {
		switch e.key {
		case "protocol":
			t.Protocol = enum(p, e.value, enumNames[TunnelProtocol]{{"NONE", TunnelNone}, {"PROXY", TunnelPROXY}})
		case "port":
			if n, _ := p.resolve(e.value); !isNull(n) {
				t.Port = p.port(e.value)
			}
		}
	}
	return t
}

func (p *worldParser) locality(a at) Locality {
	var l Locality
	for _, e := range p.object(a, []string{"region", "zone", "subzone"}) {
		switch e.key {
		case "region":
			l.Region = p.str(e.value)
		case "zone":
			l.Zone = p.str(e.value)
		case "subzone":
			l.Subzone = p.str(e.value)
		}
	}
	return l
}

func (p *worldParser) loadBalancer(a at) LoadBalancing {
	var lb LoadBalancing
	for _, e := range p.object(a, []string{"routingPreferences", "mode", "healthPolicy"}) {
		switch e.key {
		case "routingPreferences":
			for _, item := range p.list(e.value) {
				lb.RoutingPreference = append(lb.RoutingPreference, enum(p, item, enumNames[LocalityScope]{
					{"Region", ScopeRegion}, {"Zone", ScopeZone}, {"Subzone", ScopeSubzone},
					{"Node", ScopeNode}, {"Cluster", ScopeCluster}, {"Network", ScopeNetwork}}))
			}
		case "mode":
			lb.Mode = enum(p, e.value, enumNames[LoadBalancingMode]{
				{"Standard", ModeStandard}, {"Strict", ModeStrict}, {"Failover", ModeFailover},
				{"Passthrough", ModePassthrough}, {"UnspecifiedMode", ModeStandard}})
		case "healthPolicy":
			lb.HealthPolicy = enum(p, e.value, enumNames[HealthPolicy]{{"OnlyHealthy", OnlyHealthy}, {"AllowAll", AllowAll}})
		}
	}
	if (lb.Mode == ModeStrict || lb.Mode == ModeFailover) && len(lb.RoutingPreference) == 0 {
		p.errorf(a, "mode %s compares localities, but routingPreferences is empty; list scopes such as Region, Zone", lb.Mode)
	}
	return lb
}

func (p *worldParser) subjectAltNames(a at) []string {
	items := p.list(a)
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = p.str(item)
		if strings.HasPrefix(out[i], "spiffe:") {
			if _, err := spiffeid.FromString(out[i]); err != nil {
				p.errorf(item, "%s is not a SPIFFE ID: %v", quote(out[i]), err)
			}
		}
	}
	return out
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
