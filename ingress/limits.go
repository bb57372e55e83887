package ingress

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound what clients can make the gateway hold. Zero fields mean the
// default, which is in the comment.
type Limits struct {
	// Connections is how many there are at a time, TCP and QUIC together: 100,000.
	// More are closed as soon as they are accepted.
	Connections int
	// ConnectionsPerClient is the same for one address (IPv6: for its /64), as the
	// PROXY header tells it if there is one. Default: no limit, because many
	// clients can stand behind one address.
	ConnectionsPerClient int
	// Handshakes is how many TLS and QUIC handshakes are under way at a time:
	// 4,096. Above half of it, HandshakeTimeout is a fifth.
	Handshakes int
	// RetryAbove is how many QUIC handshakes are under way before addresses of
	// further clients are verified by a Retry packet (RFC 9000 section 8.1.2): 64.
	RetryAbove int
	// HandshakeTimeout bounds a PROXY header and a TLS or QUIC handshake, each:
	// 10 s.
	HandshakeTimeout time.Duration
	// ReadHeaderTimeout bounds the time from the first byte of a request to the
	// end of its header, and on a new connection in the clear the time to the
	// first byte: 10 s.
	ReadHeaderTimeout time.Duration
	// BodyTimeout is how long a request's body may pause: 5 min, as Envoy's
	// stream_idle_timeout.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may leave unread what is sent to it: 60 s.
	WriteTimeout time.Duration
	// IdleTimeout is how long a connection without a request stays open: 120 s.
	IdleTimeout time.Duration
	// HeaderBytes bounds the header of a request: 64 KiB. More is answered with 431.
	HeaderBytes int
	// Streams is how many requests one HTTP/2 or HTTP/3 connection has under way:
	// 250.
	Streams int
	// StreamIdleTimeout is how long a TCP or TLS stream of a TCPRoute or TLSRoute
	// may carry nothing in either direction: 1 h.
	StreamIdleTimeout time.Duration
	// Sessions is how many UDP clients one port has at a time: 10,000. Datagrams
	// of more are dropped.
	Sessions int
	// SessionIdleTimeout is how long a UDP session may carry nothing: 60 s.
	SessionIdleTimeout time.Duration
}

func (l Limits) withDefaults() Limits {
	def(&l.Connections, 100_000)
	def(&l.Handshakes, 4096)
	def(&l.RetryAbove, 64)
	def(&l.HandshakeTimeout, 10*time.Second)
	def(&l.ReadHeaderTimeout, 10*time.Second)
	def(&l.BodyTimeout, 5*time.Minute)
	def(&l.WriteTimeout, time.Minute)
	def(&l.IdleTimeout, 120*time.Second)
	def(&l.HeaderBytes, 64<<10)
	def(&l.Streams, 250)
	def(&l.StreamIdleTimeout, time.Hour)
	def(&l.Sessions, 10_000)
	def(&l.SessionIdleTimeout, 60*time.Second)
	return l
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// admission counts connections and handshakes against Limits. The zero value with
// limits is ready.
type admission struct {
	limits     Limits
	conns      atomic.Int64
	handshakes atomic.Int64
	quic       atomic.Int64 // handshakes that are QUIC's

	mu      sync.Mutex // guards clients
	clients map[netip.Addr]int
}

// conn admits one connection, which release gives back.
func (a *admission) conn() bool {
	if a.conns.Add(1) > int64(a.limits.Connections) {
		a.conns.Add(-1)
		return false
	}
	return true
}

func (a *admission) release() { a.conns.Add(-1) }

// client admits one more connection of addr, which releaseClient gives back.
func (a *admission) client(addr netip.Addr) bool {
	if a.limits.ConnectionsPerClient == 0 {
		return true
	}
	key := clientKey(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients[key] >= a.limits.ConnectionsPerClient {
		return false
	}
	if a.clients == nil {
		a.clients = make(map[netip.Addr]int)
	}
	a.clients[key]++
	return true
}

func (a *admission) releaseClient(addr netip.Addr) {
	if a.limits.ConnectionsPerClient == 0 {
		return
	}
	key := clientKey(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients[key]--; a.clients[key] <= 0 {
		delete(a.clients, key)
	}
}

// clientKey is whom a limit per client counts: an IPv6 client owns its /64.
func clientKey(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// handshake admits one handshake and says how long it may take. doneHandshake
// gives it back.
func (a *admission) handshake() (time.Duration, bool) {
	n := a.handshakes.Add(1)
	switch {
	case n > int64(a.limits.Handshakes):
		a.handshakes.Add(-1)
		return 0, false
	case n > int64(a.limits.Handshakes)/2:
		return a.limits.HandshakeTimeout / 5, true
	}
	return a.limits.HandshakeTimeout, true
}

func (a *admission) doneHandshake() { a.handshakes.Add(-1) }
