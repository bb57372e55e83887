package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Protocol is what a backend speaks.
type Protocol uint8

// The protocols of a backend, from a Service port's appProtocol.
const (
	HTTP1 Protocol = iota
	// H2 is HTTP/2: by prior knowledge in the clear (h2c), by ALPN with TLS.
	H2
)

// Locality is how near endpoints have to be as long as one of them is well.
type Locality uint8

// The localities, from a Service's trafficDistribution.
const (
	Anywhere Locality = iota
	SameZone
	SameNode // then SameZone
)

// Endpoint is one address of a backend. It is comparable.
type Endpoint struct {
	Addr netip.AddrPort
	// Host is a DNS name that is resolved when it is dialled, if Addr's address is
	// the zero value; Addr's port holds. "" otherwise.
	Host string
	Port uint16 // with Host
	Zone string // topology zone, "" = unknown
	Node string
}

// Config describes a backend. It is immutable; equal configurations may share
// one value, and an unchanged pointer means that nothing changed.
type Config struct {
	// Key names the backend in logs, metrics and configuration:
	// "NAMESPACE/SERVICE:PORT".
	Key       string
	Protocol  Protocol
	Endpoints []Endpoint
	// Locality says which endpoints are preferred, as a Service's
	// trafficDistribution does.
	Locality Locality
	// TLS is that of a BackendTLSPolicy. nil = none.
	TLS *TLS
	// ConnectTimeout bounds TCP, tunnel and TLS together. Zero means 5 s.
	ConnectTimeout time.Duration
}

// TLS is how a backend is spoken to over TLS.
type TLS struct {
	ServerName string         // SNI, and what the certificate must be for unless SANs says otherwise
	Roots      *x509.CertPool // nil = the system's
	SANs       []SAN          // one of them must be in the certificate, instead of ServerName
	// Certificate is presented if the backend asks for one. nil = none.
	Certificate *tls.Certificate
	// Invalid is why nobody can be spoken to: a CA reference that does not
	// resolve. "" = valid.
	Invalid string
}

// SAN is a subject alternative name of which a backend's certificate must have
// one: a DNS name (that may begin with "*."), or a URI.
type SAN struct{ DNS, URI string }

// Dialer connects to endpoints: in the mesh or past it.
type Dialer interface {
	// DialEndpoint connects to dst on behalf of a client at src, which may be the
	// zero value. An endpoint that is in the mesh is reached in no other way than
	// over HBONE. The caller closes the connection.
	DialEndpoint(ctx context.Context, src netip.AddrPort, dst netip.AddrPort) (Conn, error)
}

// Conn is a connection to an endpoint.
type Conn struct {
	net.Conn
	// Mesh is who is at both ends of the tunnel. nil = plain TCP.
	Mesh *Mesh
}

// Mesh is what X-Forwarded-Client-Cert tells.
type Mesh struct {
	Self, Peer spiffeid.ID
	// CertHash is the SHA-256 of Self's certificate in DER.
	CertHash [32]byte
}
