package hbone

import "time"

// Sizes in bytes, as sent in SETTINGS.
const (
	// InitialStreamWindow is a stream's first receive window. It bounds what a
	// destination that does not read costs; see MaxStreamWindow.
	InitialStreamWindow = 256 << 10
	// MaxStreamWindow is how far a stream's window grows while its destination
	// keeps up.
	MaxStreamWindow = 4 << 20
	// TunnelWindow is a tunnel's receive window; credit is returned on receipt.
	TunnelWindow = 16 << 20
	// MaxFrame is the largest frame taken.
	MaxFrame = 1 << 20
)

// Limits bounds what one peer may cost and how long it may take. The zero value
// of a field is its default.
type Limits struct {
	// MaxStreams is how many CONNECT streams a server lets one tunnel have at a
	// time, and how many a client opens on one before it opens another tunnel.
	// Default: 200 for a server, 100 for a client, as in Istio's proxies.
	MaxStreams uint32
	// MaxHeaderBytes bounds a header list as RFC 9113 section 6.5.2 counts it.
	// Default: 64 KiB for a server, 16 KiB for a client, as in Istio's
	// proxies.
	MaxHeaderBytes uint32
	// HandshakeTimeout bounds TLS and the HTTP/2 preface of an accepted
	// connection. Default: 10 s.
	HandshakeTimeout time.Duration
	// MaxHandshakes is how many handshakes a server has under way. One more
	// ends the oldest of them: a peer that means it is done in milliseconds.
	// Default: 256.
	MaxHandshakes int
	// PingInterval is how long a peer may be silent before it is asked for a
	// sign of life. Default: 10 s. PingTimeout, how long it may then stay
	// silent. Default: 20 s.
	PingInterval, PingTimeout time.Duration
	// IdleTimeout is how long a tunnel without streams is kept. Default: 5 min.
	IdleTimeout time.Duration
	// MaxAge is how long a tunnel takes new streams; never longer than the
	// peer's certificate is valid. Streams that are open go on. Default: as
	// long as the certificate.
	MaxAge time.Duration
}

// options are the limits with defaults filled in, for one end.
type options struct {
	maxStreams                uint32
	maxHeader                 uint32
	maxFrame                  int
	streamWindow              int64
	tunnelWindow              int64
	handshakeTimeout          time.Duration
	maxHandshakes             int
	pingInterval, pingTimeout time.Duration
	idleTimeout               time.Duration
	maxAge                    time.Duration
}

func (l Limits) options(client bool) options {
	o := options{
		maxStreams: 200, maxHeader: 64 << 10, maxFrame: MaxFrame,
		streamWindow: InitialStreamWindow, tunnelWindow: TunnelWindow,
		handshakeTimeout: 10 * time.Second, maxHandshakes: 256,
		pingInterval: 10 * time.Second, pingTimeout: 20 * time.Second,
		idleTimeout: 5 * time.Minute, maxAge: l.MaxAge,
	}
	if client {
		o.maxStreams, o.maxHeader = 100, 16<<10
	}
	set(&o.maxStreams, l.MaxStreams)
	set(&o.maxHeader, l.MaxHeaderBytes)
	set(&o.handshakeTimeout, l.HandshakeTimeout)
	set(&o.maxHandshakes, l.MaxHandshakes)
	set(&o.pingInterval, l.PingInterval)
	set(&o.pingTimeout, l.PingTimeout)
	set(&o.idleTimeout, l.IdleTimeout)
	return o
}

func set[T comparable](dst *T, v T) {
	var zero T
	if v != zero {
		*dst = v
	}
}
