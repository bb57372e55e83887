package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/agent/policy"
)

func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func key(s string) NamespacedHostname {
	k, err := ParseNamespacedHostname(s)
	if err != nil {
		panic(err)
	}
	return k
}

func vip(s string) VIP {
	network, rest, _ := strings.Cut(s, "/")
	if p, err := netip.ParsePrefix(rest); err == nil {
		return VIP{network, p}
	}
	a := addr(rest)
	return VIP{network, netip.PrefixFrom(a, a.BitLen())}
}

// pod is an HBONE workload default/<name> at ip, changed by the options.
func pod(name, ip string, opts ...func(*Workload)) *Workload {
	w := &Workload{
		UID: "Kubernetes//Pod/default/" + name, Name: name, Namespace: "default", ServiceAccount: name,
		Addresses: []netip.Addr{addr(ip)}, Protocol: HBONE,
	}
	for _, o := range opts {
		o(w)
	}
	return w
}

func plainTCP(w *Workload)  { w.Protocol = TCP }
func unhealthy(w *Workload) { w.Status = Unhealthy }
func onNetwork(n string) func(*Workload) {
	return func(w *Workload) { w.Network = n }
}
func serviceAccount(sa string) func(*Workload) {
	return func(w *Workload) { w.ServiceAccount = sa }
}
func also(ips ...string) func(*Workload) {
	return func(w *Workload) {
		for _, ip := range ips {
			w.Addresses = append(w.Addresses, addr(ip))
		}
	}
}
func weight(n uint32) func(*Workload) {
	return func(w *Workload) { w.Capacity = &n }
}
func in(region, zone string) func(*Workload) {
	return func(w *Workload) { w.Locality.Region, w.Locality.Zone = region, zone }
}

// serves adds service ports, port and target in turn.
func serves(service string, ports ...uint16) func(*Workload) {
	return func(w *Workload) {
		if w.Services == nil {
			w.Services = map[NamespacedHostname]PortMap{}
		}
		m := PortMap{}
		for i := 0; i+1 < len(ports); i += 2 {
			m[ports[i]] = ports[i+1]
		}
		w.Services[key(service)] = m
	}
}
func via(gateway string) func(*Workload) {
	return func(w *Workload) { w.Waypoint = gatewayAt(gateway) }
}

// gatewayAt reads namespace/hostname or network/address.
func gatewayAt(s string) *GatewayAddress {
	network, rest, _ := strings.Cut(s, "/")
	if a, err := netip.ParseAddr(rest); err == nil {
		return &GatewayAddress{Address: NetworkAddress{network, a}}
	}
	return &GatewayAddress{Hostname: key(s)}
}

// svc is a service namespace/hostname with port 80 -> 8080, changed by the
// options.
func svc(name string, vips []string, opts ...func(*Service)) *Service {
	k := key(name)
	s := &Service{Name: strings.Split(k.Hostname, ".")[0], Namespace: k.Namespace, Hostname: k.Hostname, Ports: PortMap{80: 8080}}
	for _, v := range vips {
		s.VIPs = append(s.VIPs, vip(v))
	}
	for _, o := range opts {
		o(s)
	}
	return s
}

// store holds workloads, services and policies, with the first random choice
// always the lowest.
func store(t testing.TB, objects ...any) *Store {
	t.Helper()
	s := NewStore()
	s.Random = func(uint64) uint64 { return 0 }
	if err := s.Replace(world(objects...)); err != nil {
		t.Fatal(err)
	}
	return s
}

func world(objects ...any) World {
	var w World
	for _, o := range objects {
		switch o := o.(type) {
		case *Workload:
			w.Workloads = append(w.Workloads, o)
		case *Service:
			w.Services = append(w.Services, o)
		case policy.Policy:
			w.Policies = append(w.Policies, o)
		default:
			panic(fmt.Sprintf("%T", o))
		}
	}
	return w
}

// describe writes a route as text, so that tests compare it whole and read
// well.
func describe(r Route) string {
	var b strings.Builder
	b.WriteString(r.Kind.String())
	if r.Service != nil {
		fmt.Fprintf(&b, " %s", r.Service.Key())
	}
	if r.Reason != "" {
		fmt.Fprintf(&b, ": %s", r.Reason)
	}
	for _, h := range r.Hops {
		fmt.Fprintf(&b, " | %s %s", h.Protocol, h.Dial)
		if h.Authority != "" {
			fmt.Fprintf(&b, " for %s", h.Authority)
		}
		if h.Waypoint {
			b.WriteString(" waypoint")
		}
		if h.Workload != nil {
			fmt.Fprintf(&b, " = %s", h.Workload.Name)
		}
		for i, id := range h.Expect {
			b.WriteString([]string{" as ", ","}[min(i, 1)])
			b.WriteString(strings.TrimPrefix(id.String(), "spiffe://cluster.local/ns/"))
		}
	}
	return b.String()
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, addr(a))
	}
	return out
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}
