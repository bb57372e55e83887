package accesslog

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// withArgument are the operators that take something in parentheses.
var withArgument = map[string]func(name string, arg argument) (*operator, error){
	"START_TIME": startTime,
	"REQ":        header(requestField),
	"RESP":       header(responseField),
	"TRAILER":    header(trailerField),
}

// operators are the others, named and meant as in Envoy's manual.
var operators = map[string]operator{
	"RESPONSE_CODE":         {number: func(x *proxy.Exchange) (int64, bool) { return int64(x.Status), true }},
	"RESPONSE_CODE_DETAILS": {value: details},
	"RESPONSE_FLAGS":        {value: func(x *proxy.Exchange) string { return x.Flags }},
	"BYTES_RECEIVED":        {number: func(x *proxy.Exchange) (int64, bool) { return x.Received, true }},
	"BYTES_SENT":            {number: func(x *proxy.Exchange) (int64, bool) { return x.Sent, true }},
	"PROTOCOL":              {value: func(x *proxy.Exchange) string { return x.Proto }},
	"ROUTE_NAME":            {plain: routeName},

	"DURATION":             {number: func(x *proxy.Exchange) (int64, bool) { return x.Duration.Milliseconds(), true }},
	"REQUEST_DURATION":     {number: func(x *proxy.Exchange) (int64, bool) { return milliseconds(x.RequestTime) }},
	"RESPONSE_DURATION":    {number: func(x *proxy.Exchange) (int64, bool) { return milliseconds(x.ResponseTime) }},
	"RESPONSE_TX_DURATION": {number: sending},

	"UPSTREAM_HOST":                  {value: func(x *proxy.Exchange) string { return x.Upstream }},
	"UPSTREAM_CLUSTER":               {value: func(x *proxy.Exchange) string { return x.Cluster }},
	"UPSTREAM_REQUEST_ATTEMPT_COUNT": {number: func(x *proxy.Exchange) (int64, bool) { return int64(x.Attempts), true }},

	"DOWNSTREAM_REMOTE_ADDRESS":                     {plain: client(true)},
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT":        {plain: client(false)},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS":              {plain: func(b []byte, x *proxy.Exchange) ([]byte, bool) { return address(b, x.Client.Remote) }},
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": {plain: func(b []byte, x *proxy.Exchange) ([]byte, bool) { return host(b, x.Client.Remote) }},
	"DOWNSTREAM_REMOTE_PORT":                        {number: func(x *proxy.Exchange) (int64, bool) { return port(x.Client.Remote) }},
	"DOWNSTREAM_LOCAL_ADDRESS":                      {plain: func(b []byte, x *proxy.Exchange) ([]byte, bool) { return address(b, x.Client.Local) }},
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":         {plain: func(b []byte, x *proxy.Exchange) ([]byte, bool) { return host(b, x.Client.Local) }},
	"DOWNSTREAM_LOCAL_PORT":                         {number: func(x *proxy.Exchange) (int64, bool) { return port(x.Client.Local) }},

	"REQUESTED_SERVER_NAME": {value: ofTLS(func(s *tls.ConnectionState) string { return s.ServerName })},
	"DOWNSTREAM_TLS_VERSION": {value: ofTLS(func(s *tls.ConnectionState) string {
		return strings.Replace(tls.VersionName(s.Version), " ", "v", 1) // as OpenSSL spells it: TLSv1.3
	})},
	"DOWNSTREAM_TLS_CIPHER":   {value: ofTLS(func(s *tls.ConnectionState) string { return tls.CipherSuiteName(s.CipherSuite) })},
	"DOWNSTREAM_PEER_SUBJECT": {value: ofPeer(func(c *x509.Certificate) string { return c.Subject.String() })},
	"DOWNSTREAM_PEER_ISSUER":  {value: ofPeer(func(c *x509.Certificate) string { return c.Issuer.String() })},
	"DOWNSTREAM_PEER_SERIAL":  {value: ofPeer(func(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) })},
	"DOWNSTREAM_PEER_DNS_SAN": {value: ofPeer(func(c *x509.Certificate) string { return strings.Join(c.DNSNames, ",") })},
	"DOWNSTREAM_PEER_URI_SAN": {value: ofPeer(uris)},
	"DOWNSTREAM_PEER_FINGERPRINT_256": {value: ofPeer(func(c *x509.Certificate) string {
		sum := sha256.Sum256(c.Raw)
		return hex.EncodeToString(sum[:])
	})},
	"DOWNSTREAM_PEER_CERT_V_END": {value: ofPeer(func(c *x509.Certificate) string { return c.NotAfter.UTC().Format(iso) })},
}

// details are Envoy's word for an answer that a backend gave, and our reason for
// one that it did not.
func details(x *proxy.Exchange) string {
	if x.Detail == "" && x.Upstream != "" && x.Status != 0 {
		return "via_upstream"
	}
	return x.Detail
}

func milliseconds(d time.Duration) (int64, bool) { return d.Milliseconds(), d > 0 }

func sending(x *proxy.Exchange) (int64, bool) {
	return (x.Duration - x.ResponseTime).Milliseconds(), x.ResponseTime > 0
}

func routeName(b []byte, x *proxy.Exchange) ([]byte, bool) {
	r := x.Rule
	if r == nil {
		return b, false
	}
	b = append(append(b, r.Owner.Kind...), '/')
	b = append(append(b, r.Owner.Namespace...), '/')
	b = append(b, r.Owner.Name...)
	if r.Name != "" {
		return append(append(b, '/'), r.Name...), true
	}
	return strconv.AppendInt(append(b, "/rule/"...), int64(r.Index), 10), true
}

// client is who trusted hops say that it is, which have no port of it, or else the
// peer.
func client(withPort bool) func([]byte, *proxy.Exchange) ([]byte, bool) {
	return func(b []byte, x *proxy.Exchange) ([]byte, bool) {
		ap := x.Client.Remote
		if first, _, hops := strings.Cut(x.ForwardedFor, ","); hops {
			if a, err := netip.ParseAddr(first); err == nil {
				ap = netip.AddrPortFrom(a, 0)
			}
		}
		if withPort {
			return address(b, ap)
		}
		return host(b, ap)
	}
}

func address(b []byte, ap netip.AddrPort) ([]byte, bool) {
	if !ap.IsValid() {
		return b, false
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()).AppendTo(b), true
}

func host(b []byte, ap netip.AddrPort) ([]byte, bool) {
	if !ap.IsValid() {
		return b, false
	}
	return ap.Addr().Unmap().AppendTo(b), true
}

func port(ap netip.AddrPort) (int64, bool) { return int64(ap.Port()), ap.IsValid() }

func ofTLS(f func(*tls.ConnectionState) string) field {
	return func(x *proxy.Exchange) string {
		if x.Client.TLS == nil {
			return ""
		}
		return f(x.Client.TLS)
	}
}

// ofPeer looks at certificates of clients that were verified: what others say of
// themselves is nothing to write down as who they are.
func ofPeer(f func(*x509.Certificate) string) field {
	return ofTLS(func(s *tls.ConnectionState) string {
		if len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
			return ""
		}
		return f(s.VerifiedChains[0][0])
	})
}

func uris(c *x509.Certificate) string {
	var s []string
	for _, u := range c.URIs {
		s = append(s, u.String())
	}
	return strings.Join(s, ",")
}
