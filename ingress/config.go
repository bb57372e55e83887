package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"github.com/adit-mesh/adit/ingress/upstream"
)

// Config is everything that a Server serves: an immutable snapshot. What did not
// change since the last one is the same pointer, and costs nothing.
type Config struct {
	Ports []*Port
	// Clusters are the backends that rules and streams refer to, by Key.
	Clusters map[string]*upstream.Config
}

// Bind is a socket. It is comparable.
type Bind struct {
	Addr netip.Addr // zero value = all addresses, both families
	Port uint16
	UDP  bool // a UDP listener of Gateway API; the QUIC mirror of a TCP port is not a Bind of its own
}

// Port is what is served on one socket, and on its QUIC mirror: the listeners of
// one Gateway (and of its ListenerSets) that have the same port.
type Port struct {
	Bind    Bind
	Gateway string // namespace/name
	// Public is the port in the Gateway, which clients connect to. Bind.Port may
	// be another: a Service is in between.
	Public    uint16
	QUIC      QUIC
	ClientIP  ClientIP
	Listeners []*Listener
}

// QUIC is the HTTP/3 mirror of a port that has HTTPS listeners.
type QUIC struct {
	Off       bool   // no mirror, and answers say alt-svc: clear
	Advertise uint16 // the port that alt-svc names; 0 = Public
	ZeroRTT   bool   // early data is taken, for safe methods only, and if no listener of the port has ClientCAs
}

// ClientIP says where a client's address is taken from besides the socket.
type ClientIP struct {
	// ProxyProtocol are the peers whose connections begin with a PROXY header
	// (version 1 or 2), which is required of them. None: nobody's.
	ProxyProtocol []netip.Prefix
	Trust         proxy.Trust
}

// Protocol is that of a listener.
type Protocol uint8

// The protocols of Gateway API's listeners.
const (
	HTTP Protocol = iota
	HTTPS
	TLS // TLSRoutes: passed through by SNI, or terminated
	TCP
	UDP
)

// Listener is one listener of a Gateway or ListenerSet.
type Listener struct {
	// Owner is "Gateway/NAMESPACE/NAME" or "ListenerSet/NAMESPACE/NAME"; Name is
	// the section's.
	Owner, Name string
	Hostname    string // lower case, "" = any, or "*."…
	Protocol    Protocol
	// TLS is that of HTTPS, and of TLS where it terminates. nil with TLS: passed
	// through.
	TLS *TLSConfig
	// Routes is that of HTTP and HTTPS.
	Routes *route.Table[*proxy.Rule]
	// Streams are those of TLS, TCP and UDP.
	Streams []*StreamRoute
}

// TLSConfig is how a listener terminates TLS.
type TLSConfig struct {
	// Certificates are in the order of certificateRefs; the first that fits the
	// SNI is used, else the first. None: the listener's handshakes fail, and no
	// other's.
	Certificates []*tls.Certificate
	// ClientCAs verify certificates of clients. nil = none is asked for.
	ClientCAs *x509.CertPool
	// AllowInvalid lets clients without a valid certificate in
	// (AllowInsecureFallback).
	AllowInvalid bool
	// MinVersion is at least tls.VersionTLS12, which is also what 0 means.
	MinVersion uint16
}

// StreamRoute is one rule of a TLSRoute, TCPRoute or UDPRoute.
type StreamRoute struct {
	Owner route.Owner
	// Hostnames are those of a TLSRoute, within the listener's: as in
	// Listener.Hostname.
	Hostnames []string
	// Terminate says, for a TLS listener, whether TLS ends here. On a listener of
	// mode Terminate it is true.
	Terminate bool
	Backends  []StreamBackend // none: connections are closed
}

// StreamBackend is one place that connections or datagrams go to.
type StreamBackend struct {
	Cluster string // "" = the reference is wrong: the connection is closed
	Weight  int32
}
