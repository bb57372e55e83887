package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// ServerConfig says what a [Server] serves.
type ServerConfig struct {
	// TLS is the server's side of mutual TLS. It decides which clients are let
	// in; the Server adds ALPN h2. It must ask for TLS 1.3 and a client
	// certificate.
	TLS *tls.Config
	// Handler runs in a goroutine for each stream. ctx ends when the stream is
	// reset or the tunnel ends. When Handler returns the stream is closed, and
	// reset if it was not finished.
	Handler func(ctx context.Context, s *Stream)
	Limits  Limits
	Logger  *slog.Logger // nil: silent
	// OnHandshake, if set, is told of every TLS handshake that succeeded (err
	// nil) or failed, and how long it took. err is ErrHandshakesFull for one
	// that had to make room.
	OnHandshake func(remote net.Addr, took time.Duration, err error)
}

// Server accepts tunnels and runs their streams.
type Server struct {
	cfg ServerConfig
	tls *tls.Config
	opt options
	log *slog.Logger

	wg sync.WaitGroup // a goroutine for each connection

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	pending   map[net.Conn]time.Time // in the handshake, since when
	conns     map[*conn]struct{}
}

// NewServer makes a server. Nothing happens before Serve.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{
		cfg: cfg, opt: cfg.Limits.options(false), log: cfg.Logger,
		listeners: make(map[net.Listener]struct{}),
		pending:   make(map[net.Conn]time.Time),
		conns:     make(map[*conn]struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.tls = tunnelTLS(cfg.TLS)
	return s
}

// tunnelTLS is cfg with what tunnels need: ALPN h2, and whole records at once,
// because a tunnel decides for itself what is written together.
func tunnelTLS(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2"}
	cfg.DynamicRecordSizingDisabled = true
	return cfg
}

// Serve accepts tunnels from l, which it closes, until Shutdown or Close; it
// then returns ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return ErrServerClosed
			}
			if isTemporary(err) { // out of file descriptors, most likely
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				s.log.Warn("accept of a tunnel, trying again", "listener", l.Addr(), "error", err, "pause", pause)
				time.Sleep(pause)
				continue
			}
			return fmt.Errorf("hbone: accept on %s: %w", l.Addr(), err)
		}
		pause = 0
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			nc.Close()
			return ErrServerClosed
		}
		s.makeRoomLocked()
		s.pending[nc] = time.Now()
		s.wg.Go(func() { s.serveConn(nc) })
		s.mu.Unlock()
	}
}

func isTemporary(err error) bool {
	var t interface{ Temporary() bool }
	return errors.As(err, &t) && t.Temporary()
}

// makeRoomLocked ends the oldest handshake if there are too many.
func (s *Server) makeRoomLocked() {
	if len(s.pending) < s.opt.maxHandshakes {
		return
	}
	var oldest net.Conn
	for nc, since := range s.pending {
		if oldest == nil || since.Before(s.pending[oldest]) {
			oldest = nc
		}
	}
	delete(s.pending, oldest)
	oldest.Close()
}

// serveConn runs one accepted connection until it has ended.
func (s *Server) serveConn(nc net.Conn) {
	start := time.Now()
	c, err := s.handshake(nc)
	if s.crowdedOut(nc) {
		if err == nil {
			c.fail(ErrHandshakesFull)
		}
		err = ErrHandshakesFull
	}
	if s.cfg.OnHandshake != nil {
		s.cfg.OnHandshake(nc.RemoteAddr(), time.Since(start), err)
	}
	if err != nil {
		s.mu.Lock()
		delete(s.pending, nc)
		s.mu.Unlock()
		nc.Close()
		s.log.Debug("tunnel refused", "peer", nc.RemoteAddr(), "error", err)
		return
	}
	c.hello()
	s.mu.Lock()
	delete(s.pending, nc)
	s.conns[c] = struct{}{}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		c.drain()
	}
	c.run()
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// crowdedOut reports whether nc had to make room. If not it is the last that will.
func (s *Server) crowdedOut(nc net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, kept := s.pending[nc]; !kept {
		return true
	}
	s.pending[nc] = time.Now()
	return false
}

func (s *Server) handshake(nc net.Conn) (*conn, error) {
	nc.SetDeadline(time.Now().Add(s.opt.handshakeTimeout))
	w := newWire(nc)
	tc := tls.Server(w, s.tls)
	if err := tc.Handshake(); err != nil {
		return nil, err
	}
	if p := tc.ConnectionState().NegotiatedProtocol; p != "h2" {
		return nil, fmt.Errorf("hbone: peer negotiated ALPN %q, not h2", p)
	}
	nc.SetDeadline(time.Time{})
	c := newConn(w, tc, false, s.opt, s.log)
	c.serve = func(st *Stream) { s.cfg.Handler(st.ctx, st) }
	return c, nil
}

// Shutdown stops accepting, tells every peer by GOAWAY, and lets streams finish
// until ctx ends; then it resets what is left. It returns ctx's error if it had
// to, and waits for every goroutine of the server in both cases.
func (s *Server) Shutdown(ctx context.Context) error {
	conns := s.stop()
	for _, c := range conns {
		c.drain()
	}
	finished := make(chan struct{})
	go func() { s.wg.Wait(); close(finished) }()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
	}
	s.force()
	<-finished
	return ctx.Err()
}

// Close resets every stream and closes every tunnel at once. It waits for the
// server's goroutines.
func (s *Server) Close() error {
	s.stop()
	s.force()
	s.wg.Wait()
	return nil
}

// stop closes the listeners and returns the tunnels there are.
func (s *Server) stop() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.listeners {
		l.Close()
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	return conns
}

// force ends what is left.
func (s *Server) force() {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	for nc := range s.pending {
		nc.Close()
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(c.close)
	}
	wg.Wait()
}
