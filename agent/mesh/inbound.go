package mesh

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Delivery is the decision about one inbound tunnel: where in the pod it goes.
type Delivery struct {
	Dst netip.AddrPort
	// Service is set when the authority named a service.
	Service *Service
}

// InboundError is the refusal of an inbound tunnel. Status is the HTTP status
// for the peer: 400 for an authority that no retry makes right, 503 for one
// that this workload cannot serve now.
type InboundError struct {
	Status    int
	Authority string
	Reason    string
}

func (e *InboundError) Error() string {
	return fmt.Sprintf("authority %s: %s", quote(e.Authority), e.Reason)
}

// quote makes what a stranger sent fit for a log line.
func quote(s string) string {
	const longest = 128
	if len(s) > longest {
		return strconv.Quote(s[:longest]) + "..."
	}
	return strconv.Quote(s)
}

// inbound decides about a tunnel to self that was accepted on local.
func (s *snapshot) inbound(self *Workload, local netip.Addr, authority string) (Delivery, error) {
	refuse := func(status int, format string, args ...any) (Delivery, error) {
		return Delivery{}, &InboundError{status, authority, fmt.Sprintf(format, args...)}
	}
	addr, host, port, err := parseAuthority(authority)
	if err != nil {
		return refuse(http.StatusBadRequest, "%s", err)
	}
	if self == nil {
		return refuse(http.StatusServiceUnavailable, "this workload is not known yet; is it in the mesh configuration?")
	}
	if t := self.ApplicationTunnel; t != nil && t.Protocol == TunnelPROXY {
		// Handed on bare, the application would take the stream for a PROXY header.
		return refuse(http.StatusServiceUnavailable, "workload %s wants its traffic by PROXY protocol, which is not spoken here", self)
	}
	local = plain(local)
	d := Delivery{Dst: netip.AddrPortFrom(addr, port)}
	if host != "" {
		d.Service, port = s.served(self, host, port)
		if d.Service == nil {
			return refuse(http.StatusServiceUnavailable, "workload %s serves no service of this name", self)
		}
		if port == 0 {
			return refuse(http.StatusServiceUnavailable, "service %s has no such port at workload %s", d.Service.Key(), self)
		}
		d.Dst = netip.AddrPortFrom(local, port)
	} else if !isOwn(self, local, addr) {
		return refuse(http.StatusBadRequest, "not an address of workload %s; was this address another pod's before?", self)
	}
	if isAgentPort(d.Dst.Port()) {
		return refuse(http.StatusServiceUnavailable, "port %d is the agent's own listener", d.Dst.Port())
	}
	return d, nil
}

func isOwn(self *Workload, local, addr netip.Addr) bool {
	if addr == local {
		return true
	}
	for _, a := range self.Addresses {
		if a == addr {
			return true
		}
	}
	return false
}

// served finds the service that self serves under a hostname, and the port of
// the workload for the service's port, 0 for none.
func (s *snapshot) served(self *Workload, host string, port uint16) (*Service, uint16) {
	keys, _ := s.byHost.get(host)
	var own []NamespacedHostname
	for _, key := range keys {
		if _, ok := self.Services[key]; ok {
			own = append(own, key)
		}
	}
	svc := s.best(own, self.Namespace)
	if svc == nil {
		return nil, 0
	}
	if p := self.Services[svc.Key()][port]; p != 0 {
		return svc.Service, p
	}
	return svc.Service, svc.Ports[port]
}

// parseAuthority reads the :authority of a CONNECT request (RFC 9113 section
// 8.5, RFC 3986 section 3.2): ip:port, [ipv6]:port or hostname:port. Exactly
// one of addr and host is set.
func parseAuthority(s string) (addr netip.Addr, host string, port uint16, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return addr, "", 0, fmt.Errorf("no port; want ip:port, [ipv6]:port or hostname:port")
	}
	host, digits := s[:i], s[i+1:]
	port, err = parsePort(digits)
	if err != nil {
		return addr, "", 0, err
	}
	if strings.HasPrefix(host, "[") {
		inner, ok := strings.CutSuffix(host[1:], "]")
		addr, perr := netip.ParseAddr(inner)
		if !ok || perr != nil || !addr.Is6() || addr.Zone() != "" {
			return netip.Addr{}, "", 0, fmt.Errorf("no IPv6 address between the brackets")
		}
		return addr.Unmap(), "", port, nil
	}
	if strings.Contains(host, ":") {
		return addr, "", 0, fmt.Errorf("more than one colon; an IPv6 address must be in brackets")
	}
	if addr, perr := netip.ParseAddr(host); perr == nil {
		return addr, "", port, nil
	}
	if !isHostname(host) {
		return addr, "", 0, fmt.Errorf("neither an address nor a hostname before the port")
	}
	return addr, strings.ToLower(host), port, nil
}

// parsePort is stricter than strconv: digits only, no sign, not zero.
func parsePort(s string) (uint16, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("the port is not a number")
		}
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || len(s) > 5 {
		return 0, fmt.Errorf("the port is not within 1 to 65535")
	}
	return uint16(n), nil
}

// isHostname takes the names that services have: labels of letters, digits,
// hyphens and underscores. A name whose last label is a number is a mistyped
// address (as in the URL standard), never a hostname.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
		last = label
	}
	return strings.Trim(last, "0123456789") != ""
}
