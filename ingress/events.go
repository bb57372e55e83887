package ingress

// Events are told what connections do: the hooks that metrics hang on. They are
// called by the goroutine of the connection and must not block. A nil field is
// not called.
type Events struct {
	Opened func(Where)
	// Closed is called once for each Opened.
	Closed func(Where)
	// Refused says that a connection was closed before anything was read of it.
	Refused func(Where, RefuseReason)
	// HandshakeFailed says that a connection ended before it was ready for a
	// request.
	HandshakeFailed func(Where, HandshakeReason)
}

// Where is a socket of a Gateway, for labels.
type Where struct {
	Gateway   string // namespace/name
	Port      uint16 // the Gateway's
	Transport string // tcp, quic or udp
}

// RefuseReason is why a connection was not let in.
type RefuseReason string

// The reasons of Refused.
const (
	RefusedLimit      RefuseReason = "connections"
	RefusedClient     RefuseReason = "connections_per_client"
	RefusedHandshakes RefuseReason = "handshakes"
	RefusedSessions   RefuseReason = "sessions" // of UDP clients
	RefusedNoBackend  RefuseReason = "no_backend"
	RefusedNoListener RefuseReason = "no_listener"
)

// HandshakeReason is why a handshake failed.
type HandshakeReason string

// The reasons of HandshakeFailed.
const (
	FailedNoListener        HandshakeReason = "no_listener"        // none has this SNI
	FailedNoRoute           HandshakeReason = "no_route"           // of its TLSRoutes none has this SNI
	FailedNoCertificate     HandshakeReason = "no_certificate"     // the listener has no usable one
	FailedNotHTTP           HandshakeReason = "not_http"           // a TLS listener, over QUIC
	FailedClientCertificate HandshakeReason = "client_certificate" // missing or not trusted
	FailedTimeout           HandshakeReason = "timeout"
	FailedNotTLS            HandshakeReason = "not_tls"
	FailedProxyHeader       HandshakeReason = "proxy_header"
	FailedAlert             HandshakeReason = "client_alert" // it does not take our certificate, or nothing that we speak
	FailedClosed            HandshakeReason = "closed"       // by the client
	FailedProtocol          HandshakeReason = "protocol"
)

func (e *Events) opened(w Where) {
	if e.Opened != nil {
		e.Opened(w)
	}
}

func (e *Events) closed(w Where) {
	if e.Closed != nil {
		e.Closed(w)
	}
}

func (e *Events) refused(w Where, r RefuseReason) {
	if e.Refused != nil {
		e.Refused(w, r)
	}
}

func (e *Events) handshakeFailed(w Where, r HandshakeReason) {
	if e.HandshakeFailed != nil {
		e.HandshakeFailed(w, r)
	}
}
