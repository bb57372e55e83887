package mesh

import (
	"math"
	"net/netip"
	"strings"
)

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
