package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestInbound(t *testing.T) {
	self := pod("self", "10.0.0.2", also("fd00::2"),
		serves("default/web.example.com", 80, 9090), serves("default/plain.example.com"),
		serves("other/web.example.com", 80, 7070), serves("other/shared"), serves("third/shared"),
		serves("default/gone"), serves("default/agent", 80, 15006))
	s := store(t, self,
		svc("default/web.example.com", nil), svc("other/web.example.com", nil), svc("default/plain.example.com", nil),
		svc("other/shared", nil), svc("third/shared", nil, func(s *Service) { s.Canonical = true; s.Ports = PortMap{80: 3333} }),
		svc("default/elsewhere", nil), svc("default/agent", nil))

	tests := []struct {
		why       string
		local     string
		authority string
		want      string // delivery, or status and part of the reason
	}{
		{"own address", "10.0.0.2", "10.0.0.2:8080", "10.0.0.2:8080"},
		{"own address, IPv6", "fd00::2", "[fd00::2]:8080", "[fd00::2]:8080"},
		{"own address, mapped", "10.0.0.2", "[::ffff:10.0.0.2]:8080", "10.0.0.2:8080"},
		{"own address, accepted on a mapped one", "::ffff:10.0.0.2", "10.0.0.2:8080", "10.0.0.2:8080"},
		{"own other address", "10.0.0.2", "[fd00::2]:8080", "[fd00::2]:8080"},
		{"the address of the listener is own, even if the mesh does not know it", "10.0.0.77", "10.0.0.77:8080", "10.0.0.77:8080"},
		{"another pod's address", "10.0.0.2", "10.0.0.3:8080", "400 not an address of workload"},
		{"loopback is not own: it would reach what listens for the pod only", "10.0.0.2", "127.0.0.1:8080", "400 not an address of workload"},
		{"a mapped loopback neither", "10.0.0.2", "[::ffff:127.0.0.1]:8080", "400 not an address of workload"},

		{"service: the workload's own port", "10.0.0.2", "web.example.com:80", "10.0.0.2:9090 default/web.example.com"},
		{"service: arrives at the address of the tunnel", "fd00::2", "web.example.com:80", "[fd00::2]:9090 default/web.example.com"},
		{"service: hostnames have no case", "10.0.0.2", "WEB.example.COM:80", "10.0.0.2:9090 default/web.example.com"},
		{"service: the service's target port", "10.0.0.2", "plain.example.com:80", "10.0.0.2:8080 default/plain.example.com"},
		{"service: of two foreign namespaces the canonical one", "10.0.0.2", "shared:80", "10.0.0.2:3333 third/shared"},
		{"service: unknown port", "10.0.0.2", "web.example.com:81", "503 service default/web.example.com has no such port"},
		{"service that this workload does not serve", "10.0.0.2", "elsewhere:80", "503 serves no service of this name"},
		{"service that has not arrived", "10.0.0.2", "gone:80", "503 serves no service of this name"},
		{"service that nobody knows", "10.0.0.2", "nowhere.example.com:80", "503 serves no service of this name"},

		{"loop: outbound listener", "10.0.0.2", "10.0.0.2:15001", "503 port 15001 is the agent's own"},
		{"loop: inbound listener", "10.0.0.2", "10.0.0.2:15006", "503 port 15006 is the agent's own"},
		{"loop: HBONE listener", "10.0.0.2", "[fd00::2]:15008", "503 port 15008 is the agent's own"},
		{"loop: DNS listener", "10.0.0.2", "10.0.0.2:15053", "503 port 15053 is the agent's own"},
		{"loop: SOCKS listener", "10.0.0.2", "10.0.0.2:15080", "503 port 15080 is the agent's own"},
		{"loop: by way of a target port", "10.0.0.2", "agent:80", "503 port 15006 is the agent's own"},

		{"nothing", "10.0.0.2", "", "400 no port"},
		{"no port", "10.0.0.2", "10.0.0.2", "400 no port"},
		{"no port after the colon", "10.0.0.2", "10.0.0.2:", "400 the port is not within"},
		{"no host", "10.0.0.2", ":80", "400 neither an address nor a hostname"},
		{"port 0", "10.0.0.2", "10.0.0.2:0", "400 the port is not within"},
		{"port too large", "10.0.0.2", "10.0.0.2:65536", "400 the port is not within"},
		{"port much too large", "10.0.0.2", "10.0.0.2:18446744073709551696", "400 the port is not within"},
		{"port with zeros in front", "10.0.0.2", "10.0.0.2:0000080", "400 the port is not within"},
		{"port with a sign", "10.0.0.2", "10.0.0.2:+80", "400 the port is not a number"},
		{"negative port", "10.0.0.2", "10.0.0.2:-80", "400 the port is not a number"},
		{"named port", "10.0.0.2", "10.0.0.2:http", "400 the port is not a number"},
		{"port with a space", "10.0.0.2", "10.0.0.2: 80", "400 the port is not a number"},
		{"IPv6 without brackets", "10.0.0.2", "fd00::2:80", "400 more than one colon"},
		{"IPv6 without brackets and port", "10.0.0.2", "fd00::2", "400 more than one colon"},
		{"bracket not closed", "10.0.0.2", "[fd00::2:80", "400 no IPv6 address between the brackets"},
		{"bracket with more behind it", "10.0.0.2", "[fd00::2]x:80", "400 no IPv6 address between the brackets"},
		{"empty brackets", "10.0.0.2", "[]:80", "400 no IPv6 address between the brackets"},
		{"IPv4 in brackets", "10.0.0.2", "[10.0.0.2]:80", "400 no IPv6 address between the brackets"},
		{"hostname in brackets", "10.0.0.2", "[web]:80", "400 no IPv6 address between the brackets"},
		{"zone", "10.0.0.2", "[fe80::1%25eth0]:80", "400 no IPv6 address between the brackets"},
		{"octal address", "10.0.0.2", "10.0.0.02:80", "400 neither an address nor a hostname"},
		{"short address", "10.0.0.2", "10.0.2:80", "400 neither an address nor a hostname"},
		{"user", "10.0.0.2", "user@web.example.com:80", "400 neither an address nor a hostname"},
		{"path", "10.0.0.2", "web.example.com/x:80", "400 neither an address nor a hostname"},
		{"scheme", "10.0.0.2", "http://web.example.com:80", "400 more than one colon"},
		{"space", "10.0.0.2", "web example:80", "400 neither an address nor a hostname"},
		{"control byte", "10.0.0.2", "web\r\nx: y:80", "400 more than one colon"},
		{"NUL", "10.0.0.2", "web\x00:80", "400 neither an address nor a hostname"},
		{"not ASCII", "10.0.0.2", "wéb:80", "400 neither an address nor a hostname"},
		{"empty label", "10.0.0.2", "web..com:80", "400 neither an address nor a hostname"},
		{"label too long", "10.0.0.2", strings.Repeat("a", 64) + ":80", "400 neither an address nor a hostname"},
		{"name too long", "10.0.0.2", strings.Repeat("a.", 127) + "a:80", "400 neither an address nor a hostname"},
	}
	for _, tt := range tests {
		d, err := s.Inbound(self, addr(tt.local), tt.authority)
		got := d.Dst.String()
		if d.Service != nil {
			got += " " + d.Service.Key().String()
		}
		if err != nil {
			var refusal *InboundError
			if !errors.As(err, &refusal) {
				t.Fatalf("%s: error %T, want *InboundError", tt.why, err)
			}
			got = fmt.Sprint(refusal.Status, " ", refusal.Reason)
			if d != (Delivery{}) {
				t.Errorf("%s: refused, but delivered to %v", tt.why, d)
			}
			status, part, _ := strings.Cut(tt.want, " ")
			if strings.HasPrefix(got, status+" ") && strings.Contains(got, part) {
				continue
			}
		}
		if got != tt.want {
			t.Errorf("%s: Inbound(%q) = %s, want %s", tt.why, tt.authority, got, tt.want)
		}
	}
}

func TestInboundUnknownSelf(t *testing.T) {
	_, err := NewStore().Inbound(nil, addr("10.0.0.2"), "10.0.0.2:80")
	var refusal *InboundError
	if !errors.As(err, &refusal) || refusal.Status != 503 {
		t.Errorf("Inbound to an unknown workload = %v, want 503: it may be known soon", err)
	}
	_, err = NewStore().Inbound(nil, addr("10.0.0.2"), "rubbish")
	if !errors.As(err, &refusal) || refusal.Status != 400 {
		t.Errorf("malformed authority to an unknown workload = %v, want 400: it will not get better", err)
	}
}

func TestInboundErrorIsFitForALog(t *testing.T) {
	err := &InboundError{Status: 400, Authority: strings.Repeat("x\n", 10_000), Reason: "no port"}
	if s := err.Error(); len(s) > 400 || strings.Contains(s, "\n") {
		t.Errorf("%d bytes, line breaks %v: a peer must not write our log", len(s), strings.Contains(s, "\n"))
	}
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"10.0.0.2:80", "[fd00::2]:80", "web.example.com:80", "[::ffff:1.2.3.4]:1", "a:b:c", "[", "]:1", ":", "1:1"} {
		f.Add(s)
	}
	self := pod("self", "10.0.0.2", serves("default/web.example.com"))
	s := store(f, self, svc("default/web.example.com", nil))
	f.Fuzz(func(t *testing.T, authority string) {
		a, host, port, err := parseAuthority(authority)
		if err == nil {
			if port == 0 || a.IsValid() == (host != "") {
				t.Fatalf("parseAuthority(%q) = %v, %q, %d: want a port and one of address and hostname", authority, a, host, port)
			}
			// What was understood must be understood the same when written again.
			again := netip.AddrPortFrom(a, port).String()
			if host != "" {
				again = fmt.Sprintf("%s:%d", host, port)
			}
			if a2, h2, p2, err := parseAuthority(again); err != nil || a2 != a || h2 != host || p2 != port {
				t.Fatalf("%q reads as %q, which reads as %v, %q, %d, %v", authority, again, a2, h2, p2, err)
			}
		}
		d, err := s.Inbound(self, addr("10.0.0.2"), authority)
		if (err == nil) != d.Dst.IsValid() {
			t.Fatalf("Inbound(%q) = %v, %v", authority, d, err)
		}
		if err == nil && (d.Dst.Addr() != addr("10.0.0.2") || isAgentPort(d.Dst.Port())) {
			t.Fatalf("Inbound(%q) delivers to %v", authority, d.Dst)
		}
	})
}

// A stream handed on bare would be taken for a PROXY header by an application
// that expects one.
func TestInboundApplicationTunnel(t *testing.T) {
	for protocol, refused := range map[TunnelProtocol]bool{TunnelNone: false, TunnelPROXY: true} {
		self := pod("self", "10.0.0.2", func(w *Workload) { w.ApplicationTunnel = &ApplicationTunnel{Protocol: protocol} })
		_, err := store(t, self).Inbound(self, netip.MustParseAddr("10.0.0.2"), "10.0.0.2:8080")
		var in *InboundError
		if got := errors.As(err, &in) && in.Status == 503; got != refused {
			t.Errorf("%v: refused is %v, want %v: %v", protocol, got, refused, err)
		}
	}
}
