package hbone

import (
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"net/url"
	"strings"
)

// Port is where HBONE servers listen, by Istio's convention.
const Port = 15008

// Header is one HTTP/2 header field. Names are lower case.
type Header struct{ Name, Value string }

// Request is a CONNECT request.
type Request struct {
	// Authority is the destination: "ip:port", "[ip6]:port" or "host:port".
	Authority string
	// Header holds the fields beside the pseudo-header ones.
	Header []Header
}

// Get returns the first value of the field called name, or "".
func (r *Request) Get(name string) string { return headerValue(r.Header, name) }

func headerValue(hs []Header, name string) string {
	for _, h := range hs {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

// Baggage is what Istio tells about a workload in the W3C baggage header of a
// CONNECT request (the source) or answer (the destination). It is the peer's
// word: good for telemetry, never for policy.
type Baggage struct {
	Cluster, Namespace          string
	WorkloadType, WorkloadName  string // type: deployment, cronjob, pod or job
	ServiceName, ServiceVersion string // canonical name and revision
	Region, Zone                string
}

// String formats b as Istio's proxies do; empty members are left out.
func (b Baggage) String() string {
	var sb strings.Builder
	add := func(k, v string) {
		if v == "" {
			return
		}
		if sb.Len() > 0 {
			sb.WriteByte(',')
		}
		sb.WriteString(k)
		sb.WriteByte('=')
		sb.WriteString(escapeBaggage(v))
	}
	add("k8s.cluster.name", b.Cluster)
	add("k8s.namespace.name", b.Namespace)
	if b.WorkloadType != "" {
		add("k8s."+b.WorkloadType+".name", b.WorkloadName)
	}
	add("service.name", b.ServiceName)
	add("service.version", b.ServiceVersion)
	add("cloud.region", b.Region)
	add("cloud.availability_zone", b.Zone)
	return sb.String()
}

// escapeBaggage percent-encodes what W3C Baggage does not allow in a value.
func escapeBaggage(v string) string {
	plain := true
	for i := 0; i < len(v); i++ {
		if !baggageOctet(v[i]) {
			plain = false
			break
		}
	}
	if plain {
		return v
	}
	const hexDigits = "0123456789ABCDEF"
	var sb strings.Builder
	for i := 0; i < len(v); i++ {
		if c := v[i]; baggageOctet(c) {
			sb.WriteByte(c)
		} else {
			sb.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return sb.String()
}

func baggageOctet(c byte) bool {
	return c > 0x20 && c < 0x7f && c != '"' && c != ',' && c != ';' && c != '\\' && c != '%'
}

// maxBaggage bounds how much of a stranger's baggage is looked at, in bytes
// (the W3C limit for a whole header).
const maxBaggage = 8192

// ParseBaggage reads what it understands of a baggage header and skips the
// rest, properties included. It never fails: the header is a stranger's.
func ParseBaggage(s string) Baggage {
	var b Baggage
	if len(s) > maxBaggage {
		s = s[:maxBaggage]
	}
	for s != "" {
		var member string
		member, s, _ = strings.Cut(s, ",")
		member, _, _ = strings.Cut(member, ";")
		k, v, ok := strings.Cut(member, "=")
		if !ok {
			continue
		}
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if strings.Contains(v, "%") {
			if u, err := url.PathUnescape(v); err == nil {
				v = u
			}
		}
		switch k {
		case "k8s.cluster.name":
			b.Cluster = v
		case "k8s.namespace.name":
			b.Namespace = v
		case "k8s.deployment.name", "k8s.cronjob.name", "k8s.pod.name", "k8s.job.name":
			b.WorkloadType = strings.TrimSuffix(strings.TrimPrefix(k, "k8s."), ".name")
			b.WorkloadName = v
		case "service.name":
			b.ServiceName = v
		case "service.version":
			b.ServiceVersion = v
		case "cloud.region":
			b.Region = v
		case "cloud.availability_zone":
			b.Zone = v
		}
	}
	return b
}

// FormatForwarded makes the forwarded header (RFC 7239) of a CONNECT request:
// the client's address and, when the client addressed a service, its host name.
func FormatForwarded(src netip.AddrPort, host string) string {
	s := `for="` + src.String() + `"`
	if host != "" {
		s += ";host=" + host
	}
	return s
}

// ParseForwarded reads the first element of a forwarded header. Absent or
// malformed parts come back as zero values: the header is a stranger's and
// serves telemetry only.
func ParseForwarded(s string) (src netip.AddrPort, host string) {
	if len(s) > maxBaggage {
		return
	}
	s = firstElement(s)
	for s != "" {
		var pair string
		pair, s = cutQuoted(s, ';')
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			continue
		}
		v = unquote(strings.TrimSpace(v))
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "for":
			if ap, err := netip.ParseAddrPort(v); err == nil {
				src = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
			}
		case "host":
			host = v
		}
	}
	return src, host
}

func firstElement(s string) string {
	e, _ := cutQuoted(s, ',')
	return e
}

// cutQuoted is strings.Cut at the first sep outside a quoted string.
func cutQuoted(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

func unquote(s string) string {
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	s = s[1 : len(s)-1]
	if !strings.Contains(s, `\`) {
		return s
	}
	var sb strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		sb.WriteByte(s[i])
	}
	return sb.String()
}

// NewTraceparent makes a W3C traceparent header with random trace and parent
// ids, not sampled, as ztunnel sends it for each outbound connection.
func NewTraceparent() string {
	var id [24]byte
	rand.Read(id[:])
	var out [55]byte
	copy(out[:], "00-")
	hex.Encode(out[3:35], id[:16])
	out[35] = '-'
	hex.Encode(out[36:52], id[16:])
	copy(out[52:], "-00")
	return string(out[:])
}

// TraceID returns the trace id of a version 00 traceparent header, or "" when
// the header is malformed.
func TraceID(traceparent string) string {
	if len(traceparent) != 55 || traceparent[:3] != "00-" || traceparent[35] != '-' || traceparent[52] != '-' {
		return ""
	}
	for i, c := range []byte(traceparent) {
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	id := traceparent[3:35]
	if id == strings.Repeat("0", 32) {
		return ""
	}
	return id
}
