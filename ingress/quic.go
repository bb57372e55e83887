package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// mirror serves HTTP/3 on the UDP port of the same number. It stays for as long as
// a QUIC connection lives, and the socket with it: while it is not wanted it
// refuses new connections and drains the others.
type mirror struct {
	lp        *livePort
	udp       *net.UDPConn
	transport *quic.Transport
	listener  *quic.EarlyListener
	accepting sync.WaitGroup

	mu      sync.Mutex // guards the rest
	conns   map[*quicConn]struct{}
	soft    context.Context // ends when connections have to drain
	endSoft context.CancelFunc
	off     bool // no new connections
	gone    bool // closed, or about to be
}

// mirrorQUIC opens the port's mirror or lets it go, as the port asks for. It is
// called by one goroutine at a time.
func (lp *livePort) mirrorQUIC() {
	x := lp.index.Load()
	lp.mu.Lock()
	m, was := lp.mirror, lp.noQUIC
	lp.noQUIC = nil
	lp.mu.Unlock()
	if !x.hasQUIC || x.port.QUIC.Off {
		if m != nil {
			m.stop()
		}
		return
	}
	if m != nil && m.revive() {
		return
	}
	m, err := newMirror(lp)
	lp.mu.Lock()
	lp.mirror, lp.noQUIC = m, err
	lp.mu.Unlock()
	switch {
	case err == nil:
		m.run()
	case was == nil:
		lp.srv.log.Error("no HTTP/3; trying again every second", "bind", lp.bind, "gateway", x.port.Gateway, "error", err)
	}
}

func newMirror(lp *livePort) (*mirror, error) {
	s := lp.srv
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), lp.bind.network("udp"), lp.bind.address())
	if err != nil {
		return nil, bindError(lp.bind, "udp", err)
	}
	m := &mirror{lp: lp, udp: pc.(*net.UDPConn), conns: make(map[*quicConn]struct{})}
	reset := quic.StatelessResetKey(s.keys.derive("stateless reset", 0))
	token := quic.TokenGeneratorKey(s.keys.derive("token", 0))
	m.transport = &quic.Transport{
		Conn: m.udp, // as it is: GSO, ECN and batches need a UDPConn
		// Longer than the default of 4, so that guessing one is no way to make us
		// send stateless resets for a connection that lives.
		ConnectionIDLength: 8,
		StatelessResetKey:  &reset,
		TokenGeneratorKey:  &token,
		// A spoofed address costs us nothing but a small packet then.
		VerifySourceAddress: func(net.Addr) bool { return s.admit.quic.Load() >= int64(s.limits.RetryAbove) },
		ConnContext:         m.connContext,
	}
	m.listener, err = m.transport.ListenEarly(m.tlsConfig(), m.quicConfig())
	if err != nil {
		m.udp.Close()
		return nil, bindError(lp.bind, "quic", err)
	}
	m.soft, m.endSoft = context.WithCancel(s.hard)
	return m, nil
}

func (m *mirror) run() {
	m.accepting.Add(1)
	m.lp.srv.wg.Add(1)
	m.lp.serving.Store(true) // before anything can fail
	go m.acceptLoop()
}

// stop lets no new connection in and sends those that there are away. The last
// one closes the socket.
func (m *mirror) stop() {
	m.mu.Lock()
	m.lp.serving.Store(false)
	m.off = true
	m.endSoft()
	last := m.lastLocked()
	m.mu.Unlock()
	if last {
		m.close()
	}
}

// revive takes stop back. It says false if the socket is closed already.
func (m *mirror) revive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return false
	}
	if m.off {
		m.off = false
		m.soft, m.endSoft = context.WithCancel(m.lp.srv.hard)
	}
	m.lp.serving.Store(true)
	return true
}

// lastLocked says whether the caller has to close m.
func (m *mirror) lastLocked() bool {
	if !m.off || m.gone || len(m.conns) > 0 {
		return false
	}
	m.gone = true
	return true
}

func (m *mirror) close() {
	m.listener.Close()
	m.transport.Close()
	m.udp.Close()
	m.accepting.Wait()
}

func (m *mirror) closed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone
}

// fail is called when the socket itself fails: the mirror is opened anew when the
// port is looked at the next time.
func (m *mirror) fail(err error) {
	m.mu.Lock()
	was := m.gone
	m.gone = true
	if !was {
		m.lp.serving.Store(false)
		m.endSoft()
	}
	m.mu.Unlock()
	if was {
		return
	}
	m.lp.srv.log.Error("the socket of HTTP/3 failed; opening another", "bind", m.lp.bind, "error", err)
	m.transport.Close()
	m.udp.Close()
	m.lp.mu.Lock()
	if m.lp.mirror == m {
		m.lp.mirror, m.lp.noQUIC = nil, err
	}
	m.lp.mu.Unlock()
}

// tlsConfig makes the TLS decision that TCP makes.
func (m *mirror) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{http3.NextProtoH3},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c, ok := hello.Context().Value(quicConnKey{}).(*quicConn)
			if !ok {
				return nil, errors.New("a QUIC connection without its context")
			}
			h := &quicHello{sni: normaliseSNI(hello.ServerName)}
			h.decision = m.lp.index.Load().decide(h.sni, overQUIC)
			c.hello.Store(h)
			return h.config, nil
		},
	}
}

// quicConfig bounds what a client can make the gateway hold. It is asked for each
// connection, so that early data can be turned on and off under way.
func (m *mirror) quicConfig() *quic.Config {
	l := &m.lp.srv.limits
	base := &quic.Config{
		HandshakeIdleTimeout: l.HandshakeTimeout / 2, // the whole handshake has twice of it
		// Streams that say nothing are kept by our pings; IdleTimeout ends
		// connections without a stream.
		MaxIdleTimeout:                 60 * time.Second,
		KeepAlivePeriod:                25 * time.Second,
		MaxIncomingStreams:             int64(l.Streams),
		MaxIncomingUniStreams:          8, // control, two of QPACK, and what grease asks for
		InitialStreamReceiveWindow:     256 << 10,
		MaxStreamReceiveWindow:         4 << 20,
		InitialConnectionReceiveWindow: 512 << 10,
		MaxConnectionReceiveWindow:     8 << 20,
	}
	early := base.Clone()
	early.Allow0RTT = true
	conf := base.Clone()
	conf.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) {
		if m.lp.index.Load().earlyData {
			return early, nil
		}
		return base, nil
	}
	return conf
}

var (
	errRefused = errors.New("no new connections")
	errTooMany = errors.New("too many connections")
)
