package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// livePort is a socket, its QUIC mirror, and the connections that came through
// them. It outlives the Ports that it serves one after another.
//
//	serve ──▶ open ──retire──▶ draining ──last connection──▶ over
//	            ▲                  │
//	            └──────serve───────┘
type livePort struct {
	srv  *Server
	bind Bind
	// index is what new requests see, on old connections too.
	index atomic.Pointer[index]
	// serving says that HTTP/3 clients are let in.
	serving atomic.Bool
	// complained is when complain did so the last time, in unix nanoseconds.
	complained atomic.Int64

	mu       sync.Mutex // guards the rest
	tcp      net.Listener
	udp      *relayUDP
	mirror   *mirror
	noQUIC   error
	soft     context.Context // ends when connections have to drain; one for each opening
	endSoft  context.CancelFunc
	retired  bool
	conns    map[io.Closer]struct{}
	acceptWG sync.WaitGroup
}

func newLivePort(s *Server, bind Bind) *livePort {
	return &livePort{srv: s, bind: bind, conns: make(map[io.Closer]struct{}), retired: true}
}

// serve makes p what the port serves and opens what is not open. It is called by
// one goroutine at a time.
func (lp *livePort) serve(p *Port) error {
	old := lp.index.Load()
	if old == nil || old.port != p {
		lp.index.Store(newIndex(p, old, lp.srv.keys))
	}
	lp.mu.Lock()
	if lp.retired {
		lp.soft, lp.endSoft = context.WithCancel(lp.srv.hard)
		lp.retired = false
	}
	lp.mu.Unlock()
	if lp.bind.UDP {
		return lp.openUDP()
	}
	if err := lp.openTCP(); err != nil {
		return err
	}
	lp.mirrorQUIC()
	return nil
}

// network is that of a socket with prefix tcp or udp: a wildcard is of both
// families.
func (b Bind) network(prefix string) string {
	switch {
	case !b.Addr.IsValid():
		return prefix
	case b.Addr.Is4():
		return prefix + "4"
	}
	return prefix + "6"
}

func (b Bind) address() string {
	if !b.Addr.IsValid() {
		return fmt.Sprintf(":%d", b.Port)
	}
	return netip.AddrPortFrom(b.Addr, b.Port).String()
}

// String is for logs: "10.0.0.1:443", ":53/udp".
func (b Bind) String() string {
	if b.UDP {
		return b.address() + "/udp"
	}
	return b.address()
}

// MarshalText is String, so that a Bind can be a key in JSON.
func (b Bind) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func (lp *livePort) openTCP() error {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	if lp.tcp != nil {
		return nil
	}
	var lc net.ListenConfig
	lc.KeepAlive = 30 * time.Second
	ln, err := lc.Listen(context.Background(), lp.bind.network("tcp"), lp.bind.address())
	if err != nil {
		return bindError(lp.bind, "tcp", err)
	}
	lp.tcp = ln
	lp.srv.wg.Add(1)
	lp.acceptWG.Add(1)
	go lp.acceptLoop(ln, lp.soft)
	return nil
}

// bindError says what to do about a socket that could not be had.
func bindError(b Bind, network string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = ": another process, or another listener of this one, has it; see ss -ltnup"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		hint = ": ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = ": the address is not this machine's"
	}
	return fmt.Errorf("listen on %s %s: %w%s", network, b.address(), err, hint)
}

// retire stops accepting and lets connections drain: what is under way goes on
// for as long as it takes.
func (lp *livePort) retire() {
	lp.mu.Lock()
	if lp.retired {
		lp.mu.Unlock()
		return
	}
	lp.retired = true
	ln, udp, m := lp.tcp, lp.udp, lp.mirror
	lp.tcp, lp.udp, lp.noQUIC = nil, nil, nil
	end := lp.endSoft
	lp.mu.Unlock()
	if ln != nil {
		ln.Close()
	}
	if udp != nil {
		udp.stop()
	}
	if m != nil {
		m.stop()
	}
	end()
	lp.acceptWG.Wait()
}

// over says whether nothing is left of a retired port.
func (lp *livePort) over() bool {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	if lp.mirror != nil && lp.mirror.closed() {
		lp.mirror = nil
	}
	return lp.retired && len(lp.conns) == 0 && lp.mirror == nil
}

// track makes c one that closeAll closes. It says false if it is too late for
// that.
func (lp *livePort) track(c io.Closer) bool {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	return lp.trackLocked(c)
}

func (lp *livePort) trackLocked(c io.Closer) bool {
	if lp.srv.hard.Err() != nil {
		return false
	}
	lp.conns[c] = struct{}{}
	return true
}

func (lp *livePort) untrack(c io.Closer) {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	delete(lp.conns, c)
}

func (lp *livePort) connections() int {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	return len(lp.conns)
}

// closeAll ends what has not drained. The server's hard context has ended.
func (lp *livePort) closeAll() {
	lp.mu.Lock()
	all := make([]io.Closer, 0, len(lp.conns))
	for c := range lp.conns {
		all = append(all, c)
	}
	lp.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// acceptLoop owns ln's connections until their goroutines have them.
func (lp *livePort) acceptLoop(ln net.Listener, soft context.Context) {
	defer lp.srv.wg.Done()
	defer lp.acceptWG.Done()
	var delay time.Duration
	for {
		c, err := ln.Accept()
		if err == nil {
			delay = 0
			lp.admitTCP(c.(*net.TCPConn), soft)
			continue
		}
		if soft.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of file descriptors or memory: others may end. Never spin.
		delay = min(max(2*delay, 5*time.Millisecond), time.Second)
		lp.srv.log.Warn("accept; trying again", "bind", lp.bind, "error", err, "after", delay)
		select {
		case <-soft.Done():
			return
		case <-time.After(delay):
		}
	}
}

func (lp *livePort) admitTCP(c *net.TCPConn, soft context.Context) {
	s := lp.srv
	if !s.admit.conn() {
		s.cfg.Events.refused(lp.index.Load().where[overTCP], RefusedLimit)
		c.Close()
		return
	}
	s.wg.Add(1)
	go serveTCP(lp, c, soft)
}

// quicError is why a wanted mirror does not serve.
func (lp *livePort) quicError() error {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	return lp.noQUIC
}

// complain warns of what any client can bring about, once a second at most; the
// rest is for who looks closely.
func (lp *livePort) complain(msg string, args ...any) {
	level := slog.LevelDebug
	now := time.Now().UnixNano()
	if last := lp.complained.Load(); now-last > int64(time.Second) && lp.complained.CompareAndSwap(last, now) {
		level = slog.LevelWarn
	}
	lp.srv.log.Log(context.Background(), level, msg, args...)
}
