package mesh

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestOutbound(t *testing.T) {
	client := pod("client", "10.0.0.1")
	const web = "default/web.example.com"
	port := func(m PortMap) func(*Service) { return func(s *Service) { s.Ports = m } }
	waypoint := func(g string) func(*Service) { return func(s *Service) { s.Waypoint = gatewayAt(g) } }
	sans := func(names ...string) func(*Service) { return func(s *Service) { s.SubjectAltNames = names } }
	mode := func(m LoadBalancingMode, scopes ...LocalityScope) func(*Service) {
		return func(s *Service) { s.LoadBalancing = LoadBalancing{Mode: m, RoutingPreference: scopes} }
	}
	allowAll := func(s *Service) { s.LoadBalancing.HealthPolicy = AllowAll }
	families := func(f IPFamilies) func(*Service) { return func(s *Service) { s.IPFamilies = f } }
	canonical := func(s *Service) { s.Canonical = true }
	private := func(s *Service) { s.Visibility = NamespaceOnly }
	gatewaySvc := svc("default/waypoint", []string{"/10.1.9.9"}, port(PortMap{15008: 15008}))
	gatewayPod := pod("wp", "10.0.9.1", serves("default/waypoint", 15008, 15008))

	tests := []struct {
		why  string
		has  []any
		src  *Workload
		dst  string
		want string
	}{
		// Nothing is known.
		{"unknown destination passes through", nil, client, "93.184.216.34:443", "passthrough | TCP 93.184.216.34:443"},
		{"a mapped destination is dialled as IPv4", nil, client, "[::ffff:93.184.216.34]:443", "passthrough | TCP 93.184.216.34:443"},
		{"a zone survives the passthrough", nil, client, "[fe80::1%eth0]:443", "passthrough | TCP [fe80::1%eth0]:443"},
		{"unknown source, unknown destination", nil, nil, "93.184.216.34:443", "passthrough | TCP 93.184.216.34:443"},
		{"the agent's own listener", nil, client, "127.0.0.1:15001", "refuse: 127.0.0.1:15001 is the agent's own listener; the application must not dial it"},
		{"the agent's own listener, IPv6", nil, client, "[::1]:15008", "refuse: [::1]:15008 is the agent's own listener; the application must not dial it"},
		{"port 0", nil, client, "10.0.0.2:0", "refuse: 10.0.0.2:0 is not a destination"},

		// By the workload's address.
		{"HBONE workload: tunnel to its port 15008", []any{pod("a", "10.0.0.2")}, client, "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"HBONE workload, IPv6", []any{pod("a", "fd00::2")}, client, "[fd00::2]:8080",
			"mesh | HBONE [fd00::2]:15008 for [fd00::2]:8080 = a as default/sa/a"},
		{"HBONE workload, asked for by a mapped address", []any{pod("a", "10.0.0.2")}, client, "[::ffff:10.0.0.2]:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"TCP workload is known, and plain", []any{pod("a", "10.0.0.2", plainTCP)}, client, "10.0.0.2:8080",
			"mesh | TCP 10.0.0.2:8080 = a"},
		{"an unhealthy workload is still what is at its address", []any{pod("a", "10.0.0.2", unhealthy)}, client, "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"same address on another network is another workload", []any{pod("a", "10.0.0.2", onNetwork("remote"))}, client, "10.0.0.2:8080",
			"passthrough | TCP 10.0.0.2:8080"},
		{"same address on the source's network", []any{pod("a", "10.0.0.2", onNetwork("remote")), pod("b", "10.0.0.2")}, pod("client", "10.0.0.1", onNetwork("remote")), "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"host network workloads are not found by address", []any{pod("a", "10.0.0.2", func(w *Workload) { w.NetworkMode = HostNetwork })}, client, "10.0.0.2:8080",
			"passthrough | TCP 10.0.0.2:8080"},
		{"of two claims to an address, HBONE wins",
			[]any{pod("a", "10.0.0.2", plainTCP), pod("b", "10.0.0.2")}, client, "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = b as default/sa/b"},
		{"of two claims to an address, a pod wins over an entry",
			[]any{pod("a", "10.0.0.2", func(w *Workload) { w.UID = "Kubernetes/networking.istio.io/WorkloadEntry/default/a" }), pod("b", "10.0.0.2")}, client, "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = b as default/sa/b"},

		// By a service's VIP.
		{"VIP: endpoint with the service's target port",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"VIP: the endpoint's own mapping comes first",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web, 80, 9090))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:9090 = a as default/sa/a"},
		{"VIP: a named port is what each endpoint says; who does not say is no candidate",
			[]any{svc(web, []string{"/10.1.0.1"}, port(PortMap{80: 0})), pod("a", "10.0.0.2", serves(web, 80, 9090)), pod("b", "10.0.0.3", serves(web, 80, 9191)), pod("c", "10.0.0.4", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:9090 = a as default/sa/a | HBONE 10.0.0.3:15008 for 10.0.0.3:9191 = b as default/sa/b"},
		{"VIP: a TCP endpoint is dialled plain, an HBONE one never",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web), plainTCP), pod("b", "10.0.0.3", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | TCP 10.0.0.2:8080 = a | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b"},
		{"VIP: the service's names are accepted beside the workload's",
			[]any{svc(web, []string{"/10.1.0.1"}, sans("spiffe://cluster.local/ns/default/sa/web", "web.example.com", "spiffe://cluster.local/ns/default/sa/a")), pod("a", "10.0.0.2", serves(web)), pod("b", "10.0.0.3", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/web,default/sa/a | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/web,default/sa/a,default/sa/b"},
		{"VIP: three distinct candidates, not four",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web)), pod("b", "10.0.0.3", serves(web)), pod("c", "10.0.0.4", serves(web)), pod("d", "10.0.0.5", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b | HBONE 10.0.0.4:15008 for 10.0.0.4:8080 = c as default/sa/c"},
		{"VIP: unhealthy endpoints take no traffic",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web), unhealthy), pod("b", "10.0.0.3", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b"},
		{"VIP: unhealthy endpoints take traffic if the service allows all",
			[]any{svc(web, []string{"/10.1.0.1"}, allowAll), pod("a", "10.0.0.2", serves(web), unhealthy)}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"VIP: capacity 0 takes no traffic",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web), weight(0)), pod("b", "10.0.0.3", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b"},
		{"VIP: endpoints on another network take no traffic",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web), onNetwork("remote")), pod("b", "10.0.0.3", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b"},
		{"VIP: unknown port is refused, not passed through",
			[]any{svc(web, []string{"/10.1.0.1"}, port(PortMap{443: 1, 80: 1})), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:81",
			"refuse default/web.example.com: service default/web.example.com has no port 81; it has 80 443"},
		{"VIP: a port that only an endpoint has is not the service's",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web, 81, 81))}, client, "10.1.0.1:81",
			"refuse default/web.example.com: service default/web.example.com has no port 81; it has 80"},
		{"VIP: no endpoint is refused, not passed through",
			[]any{svc(web, []string{"/10.1.0.1"})}, client, "10.1.0.1:80",
			"refuse default/web.example.com: service default/web.example.com has no healthy endpoint for port 80: no workload serves it"},
		{"VIP: the refusal counts what is wrong",
			[]any{svc(web, []string{"/10.1.0.1"}, port(PortMap{80: 0})),
				pod("a", "10.0.0.2", serves(web, 80, 1), unhealthy), pod("b", "10.0.0.3", serves(web, 80, 1), onNetwork("remote")),
				pod("c", "10.0.0.4", serves(web, 80, 1), weight(0)), pod("d", "10.0.0.5", serves(web)),
				pod("e", "10.0.0.6", serves(web, 80, 1), func(w *Workload) { w.Addresses = nil; w.Hostname = "e.example.com" })}, client, "10.1.0.1:80",
			"refuse default/web.example.com: service default/web.example.com has no healthy endpoint for port 80: of 5 workloads, 1 unhealthy, 1 without an address, 1 with capacity 0, 1 on another network, which needs a network gateway, 1 without the port or the address family"},
		{"VIP on another network is another VIP",
			[]any{svc(web, []string{"remote/10.1.0.1"}), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:80",
			"passthrough | TCP 10.1.0.1:80"},
		{"VIP wins over a workload with the same address",
			[]any{svc(web, []string{"/10.0.0.9"}), pod("a", "10.0.0.2", serves(web)), pod("b", "10.0.0.9")}, client, "10.0.0.9:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"a source of which nothing is known finds services too",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web))}, nil, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},

		// Address families.
		{"the caller's family is preferred: IPv6",
			[]any{svc(web, []string{"/10.1.0.1", "/fd01::1"}), pod("a", "10.0.0.2", also("fd00::2"), serves(web))}, client, "[fd01::1]:80",
			"mesh default/web.example.com | HBONE [fd00::2]:15008 for [fd00::2]:8080 = a as default/sa/a"},
		{"the caller's family is preferred: IPv4",
			[]any{svc(web, []string{"/10.1.0.1", "/fd01::1"}), pod("a", "fd00::2", also("10.0.0.2"), serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"the other family, if there is no choice",
			[]any{svc(web, []string{"/10.1.0.1"}), pod("a", "fd00::2", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE [fd00::2]:15008 for [fd00::2]:8080 = a as default/sa/a"},
		{"the service's families limit the choice",
			[]any{svc(web, []string{"/10.1.0.1"}, families(IPv6Only)), pod("a", "10.0.0.2", serves(web)), pod("b", "10.0.0.3", also("fd00::3"), serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE [fd00::3]:15008 for [fd00::3]:8080 = b as default/sa/b"},

		// Which service.
		{"CIDR VIP", []any{svc(web, []string{"/10.1.0.0/16"}), pod("a", "10.0.0.2", serves(web))}, client, "10.1.7.7:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"exact VIP wins over CIDR", []any{svc("default/range", []string{"/10.1.0.0/16"}), svc(web, []string{"/10.1.0.1"})}, client, "10.1.0.1:1",
			"refuse default/web.example.com: service default/web.example.com has no port 1; it has 80"},
		{"the longer CIDR wins", []any{svc("default/wide", []string{"/10.0.0.0/8"}), svc(web, []string{"/10.1.0.0/16"})}, client, "10.1.0.1:1",
			"refuse default/web.example.com: service default/web.example.com has no port 1; it has 80"},
		{"the client's namespace wins over the longer CIDR", []any{svc("default/wide", []string{"/10.0.0.0/8"}), svc("other/narrow", []string{"/10.1.0.0/16"})}, client, "10.1.0.1:1",
			"refuse default/wide: service default/wide has no port 1; it has 80"},
		{"IPv6 CIDR", []any{svc(web, []string{"/fd01::/64"})}, client, "[fd01::99]:1",
			"refuse default/web.example.com: service default/web.example.com has no port 1; it has 80"},
		{"all of IPv4 is not IPv6", []any{svc(web, []string{"/0.0.0.0/0"})}, client, "[fd01::99]:1", "passthrough | TCP [fd01::99]:1"},
		{"one VIP, two services: the client's namespace",
			[]any{svc("other/web", []string{"/10.1.0.1"}, canonical), svc("default/web", []string{"/10.1.0.1"})}, client, "10.1.0.1:1",
			"refuse default/web: service default/web has no port 1; it has 80"},
		{"one VIP, two services: else the canonical one",
			[]any{svc("x/web", []string{"/10.1.0.1"}), svc("y/web", []string{"/10.1.0.1"}, canonical)}, client, "10.1.0.1:1",
			"refuse y/web: service y/web has no port 1; it has 80"},
		{"one VIP, two services: else the first",
			[]any{svc("x/web", []string{"/10.1.0.1"}), svc("a/web", []string{"/10.1.0.1"})}, client, "10.1.0.1:1",
			"refuse x/web: service x/web has no port 1; it has 80"},
		{"a service of another namespace that is not for us", []any{svc("x/web", []string{"/10.1.0.1"}, private)}, client, "10.1.0.1:80",
			"passthrough | TCP 10.1.0.1:80"},
		{"a service of our namespace that is for us only", []any{svc("default/web", []string{"/10.1.0.1"}, private)}, client, "10.1.0.1:1",
			"refuse default/web: service default/web has no port 1; it has 80"},

		// Load balancing modes.
		{"passthrough mode dials the original destination",
			[]any{svc(web, []string{"/10.1.0.0/16"}, mode(ModePassthrough)), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:80",
			"passthrough default/web.example.com | TCP 10.1.0.1:80"},
		{"passthrough mode to a known HBONE peer is not plaintext",
			[]any{svc(web, []string{"/10.0.0.0/16"}, mode(ModePassthrough)), pod("a", "10.0.0.2")}, client, "10.0.0.2:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:80 = a as default/sa/a"},
		{"strict: only endpoints that share every scope",
			[]any{svc(web, []string{"/10.1.0.1"}, mode(ModeStrict, ScopeRegion, ScopeZone)), pod("a", "10.0.0.2", serves(web), in("r", "z1")), pod("b", "10.0.0.3", serves(web), in("r", "z2")), pod("c", "10.0.0.4", serves(web), in("q", "z2"))},
			pod("client", "10.0.0.1", in("r", "z2")), "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b"},
		{"strict: none refuses",
			[]any{svc(web, []string{"/10.1.0.1"}, mode(ModeStrict, ScopeRegion)), pod("a", "10.0.0.2", serves(web), in("r", "z1"))},
			pod("client", "10.0.0.1", in("q", "z2")), "10.1.0.1:80",
			"refuse default/web.example.com: service default/web.example.com has no healthy endpoint for port 80: of 1 workloads, 1 outside the source's locality (mode Strict), or without the port or the address family"},
		{"failover: the longest prefix of scopes first",
			[]any{svc(web, []string{"/10.1.0.1"}, mode(ModeFailover, ScopeNetwork, ScopeRegion, ScopeZone)), pod("a", "10.0.0.2", serves(web), in("q", "z2")), pod("b", "10.0.0.3", serves(web), in("r", "z1")), pod("c", "10.0.0.4", serves(web), in("r", "z2"))},
			pod("client", "10.0.0.1", in("r", "z2")), "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.4:15008 for 10.0.0.4:8080 = c as default/sa/c | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"failover: a zone does not count where the region differs",
			[]any{svc(web, []string{"/10.1.0.1"}, mode(ModeFailover, ScopeRegion, ScopeZone)), pod("a", "10.0.0.2", serves(web), in("q", "z2")), pod("b", "10.0.0.3", serves(web), in("r", "z1"))},
			pod("client", "10.0.0.1", in("r", "z2")), "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"failover: node and cluster are scopes",
			[]any{svc(web, []string{"/10.1.0.1"}, mode(ModeFailover, ScopeCluster, ScopeNode)), pod("a", "10.0.0.2", serves(web), func(w *Workload) { w.Node = "n1" }), pod("b", "10.0.0.3", serves(web), func(w *Workload) { w.Node = "n2" })},
			pod("client", "10.0.0.1", func(w *Workload) { w.Node, w.ClusterID = "n2", "Kubernetes" }), "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.3:15008 for 10.0.0.3:8080 = b as default/sa/b | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},

		// Waypoints.
		{"service with a waypoint: by hostname, authority is the VIP",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}, waypoint("default/waypoint")), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.9.1:15008 for 10.1.0.1:80 waypoint = wp as default/sa/wp"},
		{"service with a waypoint: by the VIP of its service",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}, waypoint("/10.1.9.9")), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.9.1:15008 for 10.1.0.1:80 waypoint = wp as default/sa/wp"},
		{"service with a waypoint: by the address of a workload, which need not take HBONE otherwise",
			[]any{pod("wp", "10.0.9.1", plainTCP), svc(web, []string{"/10.1.0.1"}, waypoint("/10.0.9.1"))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.9.1:15008 for 10.1.0.1:80 waypoint = wp as default/sa/wp"},
		{"the waypoint judges the port, not we",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}, waypoint("default/waypoint"))}, client, "10.1.0.1:81",
			"mesh default/web.example.com | HBONE 10.0.9.1:15008 for 10.1.0.1:81 waypoint = wp as default/sa/wp"},
		{"traffic from the waypoint goes to the endpoints",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}, waypoint("default/waypoint")), pod("a", "10.0.0.2", serves(web))}, gatewayPod, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"a waypoint that is not known refuses: going around it goes around its policies",
			[]any{svc(web, []string{"/10.1.0.1"}, waypoint("default/waypoint")), pod("a", "10.0.0.2", serves(web))}, client, "10.1.0.1:80",
			"refuse default/web.example.com: waypoint default/waypoint of service default/web.example.com is not known; is it deployed, and in the mesh configuration?"},
		{"a waypoint by an address on another network is not ours",
			[]any{pod("wp", "10.0.9.1"), svc(web, []string{"/10.1.0.1"}, waypoint("remote/10.0.9.1"))}, client, "10.1.0.1:80",
			"refuse default/web.example.com: waypoint remote/10.0.9.1 of service default/web.example.com is not known; is it deployed, and in the mesh configuration?"},
		{"a waypoint without endpoints refuses",
			[]any{gatewaySvc, svc(web, []string{"/10.1.0.1"}, waypoint("default/waypoint"))}, client, "10.1.0.1:80",
			"refuse default/web.example.com: waypoint default/waypoint of service default/web.example.com has no healthy endpoint for port 15008: no workload serves it"},
		{"a waypoint that unwraps tunnels itself need not list the port",
			[]any{svc("default/waypoint", nil), pod("wp", "10.0.9.1", serves("default/waypoint"), func(w *Workload) { w.ApplicationTunnel = &ApplicationTunnel{Protocol: TunnelPROXY} }), svc(web, []string{"/10.1.0.1"}, waypoint("default/waypoint"))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.9.1:15008 for 10.1.0.1:80 waypoint = wp as default/sa/wp"},
		{"workload with a waypoint",
			[]any{gatewaySvc, gatewayPod, pod("a", "10.0.0.2", via("default/waypoint"))}, client, "10.0.0.2:8080",
			"mesh | HBONE 10.0.9.1:15008 for 10.0.0.2:8080 waypoint = wp as default/sa/wp"},
		{"workload with a waypoint, from the waypoint",
			[]any{gatewaySvc, gatewayPod, pod("a", "10.0.0.2", via("default/waypoint"))}, gatewayPod, "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"workload with a waypoint by workload address, from the waypoint",
			[]any{pod("wp", "10.0.9.1"), pod("a", "10.0.0.2", via("/10.0.9.1"))}, pod("wp", "10.0.9.1"), "10.0.0.2:8080",
			"mesh | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"the address of the waypoint alone does not make a waypoint of a pod on another network",
			[]any{pod("wp", "10.0.9.1"), pod("a", "10.0.0.2", via("/10.0.9.1"), onNetwork("n"))}, pod("x", "10.0.9.1", onNetwork("n")), "10.0.0.2:8080",
			"refuse: waypoint /10.0.9.1 of workload default/a (uid Kubernetes//Pod/default/a) is not known; is it deployed, and in the mesh configuration?"},
		{"a TCP workload with a waypoint is reached by it",
			[]any{gatewaySvc, gatewayPod, pod("a", "10.0.0.2", plainTCP, via("default/waypoint"))}, client, "10.0.0.2:8080",
			"mesh | HBONE 10.0.9.1:15008 for 10.0.0.2:8080 waypoint = wp as default/sa/wp"},
		{"an endpoint's waypoint is not the service's",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}), pod("a", "10.0.0.2", serves(web), via("default/waypoint"))}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
		{"weighted waypoints come before the waypoint",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}, waypoint("default/other"), func(s *Service) {
				s.WeightedWaypoints = []WeightedWaypoint{{*gatewayAt("default/none"), 0}, {*gatewayAt("default/waypoint"), 5}}
			})}, client, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.9.1:15008 for 10.1.0.1:80 waypoint = wp as default/sa/wp"},
		{"from one of the weighted waypoints",
			[]any{gatewaySvc, gatewayPod, svc(web, []string{"/10.1.0.1"}, func(s *Service) {
				s.WeightedWaypoints = []WeightedWaypoint{{*gatewayAt("default/other"), 1}, {*gatewayAt("default/waypoint"), 1}}
			}), pod("a", "10.0.0.2", serves(web))}, gatewayPod, "10.1.0.1:80",
			"mesh default/web.example.com | HBONE 10.0.0.2:15008 for 10.0.0.2:8080 = a as default/sa/a"},
	}
	for _, tt := range tests {
		s := store(t, tt.has...)
		if got := describe(s.Outbound(tt.src, addrPort(tt.dst))); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.why, got, tt.want)
		}
	}
}

func TestOutboundOfNothing(t *testing.T) {
	if r := NewStore().Outbound(nil, netip.AddrPort{}); r.Kind != RouteRefuse || r.Reason == "" {
		t.Errorf("Outbound of the zero address = %+v, want a refusal with a reason", r)
	}
	if (Route{}).Kind != RouteRefuse {
		t.Error("the zero Route must refuse")
	}
}

// Whatever is random, candidates are distinct, usable, and at most MaxHops.
func TestOutboundCandidates(t *testing.T) {
	const web = "default/web"
	objects := []any{svc(web, []string{"/10.1.0.1"}, func(s *Service) { s.Ports = PortMap{80: 0} })}
	usable := map[string]bool{}
	for i := range 40 {
		name := fmt.Sprint("p", i)
		w := pod(name, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}).String(), serves(web))
		if i%20 == 7 { // two of forty say which port
			w.Services[key(web)] = PortMap{80: 8080}
			usable[name] = true
		}
		objects = append(objects, w)
	}
	s := store(t, objects...)
	s.Random = nil // the real one
	for range 200 {
		r := s.Outbound(pod("client", "10.0.0.1"), addrPort("10.1.0.1:80"))
		var names []string
		for _, h := range r.Hops {
			if !usable[h.Workload.Name] {
				t.Fatalf("%s cannot be used: it does not have the port", h.Workload.Name)
			}
			names = append(names, h.Workload.Name)
		}
		if len(names) != 2 || names[0] == names[1] {
			t.Fatalf("candidates = %v, want the two usable endpoints, each once", names)
		}
	}
}

// Endpoints are chosen in proportion to their capacity, by search and by scan.
func TestOutboundWeights(t *testing.T) {
	for _, n := range []int{3, 30} {
		const web = "default/web"
		objects := []any{svc(web, []string{"/10.1.0.1"})}
		total := uint64(0)
		for i := range n {
			w := uint32(i%3 + 1)
			total += uint64(w)
			objects = append(objects, pod(fmt.Sprint(i), netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}).String(), serves(web), weight(w)))
		}
		s := store(t, objects...)
		// Every point of the wheel once gives the exact distribution.
		got := map[string]uint32{}
		for r := range total {
			first := true
			s.Random = func(n uint64) uint64 {
				if !first {
					return 0
				}
				first = false
				if n != total {
					t.Fatalf("random number below %d asked for, want the total capacity %d", n, total)
				}
				return r
			}
			got[s.Outbound(nil, addrPort("10.1.0.1:80")).Hops[0].Workload.Name]++
		}
		for i := range n {
			name := fmt.Sprint(i)
			if want := uint32(i%3 + 1); got[name] != want {
				t.Errorf("of %d endpoints, %s was chosen %d times in %d, want its capacity %d", n, name, got[name], total, want)
			}
		}
	}
}

func TestWeightedWaypointsShare(t *testing.T) {
	objects := []any{svc("default/web", []string{"/10.1.0.1"}, func(s *Service) {
		s.WeightedWaypoints = []WeightedWaypoint{{*gatewayAt("/10.0.9.1"), 1}, {*gatewayAt("/10.0.9.2"), 3}}
	}), pod("one", "10.0.9.1"), pod("two", "10.0.9.2")}
	s := store(t, objects...)
	var got strings.Builder
	for r := range uint64(4) {
		s.Random = func(n uint64) uint64 { return r % n }
		got.WriteString(s.Outbound(nil, addrPort("10.1.0.1:80")).Hops[0].Workload.Name + " ")
	}
	if want := "one two two two "; got.String() != want {
		t.Errorf("waypoints = %q, want %q: weights 1 and 3", got.String(), want)
	}
}
