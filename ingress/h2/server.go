package h2

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Server serves HTTP/2 on connections that others accept. The zero value works. A
// field may not be changed once a connection is served.
type Server struct {
	// PrefaceTimeout bounds the wait for the client's preface and SETTINGS. Zero
	// means 10 s.
	PrefaceTimeout time.Duration
	// ReadHeaderTimeout bounds the time from the first byte of a frame other than
	// DATA to the end of it, and of the header block that it begins. Zero means
	// 10 s.
	ReadHeaderTimeout time.Duration
	// IdleTimeout is how long a connection without a stream stays open. Zero means
	// 60 s.
	IdleTimeout time.Duration
	// BodyTimeout is how long a stream may carry nothing in either direction while
	// its handler waits for the request's body; it does not bound the whole of it,
	// nor the streams of CONNECT. Zero means 5 min, as Envoy's stream_idle_timeout,
	// negative no bound.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may leave the connection unread, and how
	// long it may leave the window of a stream shut that has something to send.
	// Zero means 60 s.
	WriteTimeout time.Duration
	// DrainTimeout bounds the wait for the client to see the first GOAWAY of a
	// drain. Zero means 1 s.
	DrainTimeout time.Duration

	// MaxStreams is how many streams a connection may have, handlers of streams that
	// were reset included: more are refused with REFUSED_STREAM. Zero means 250.
	MaxStreams int
	// MaxHeaderBytes bounds a request's header as RFC 9113 section 6.5.2 counts it:
	// more is answered with 431. Zero means 64 KiB; Envoy's default is 60 KiB.
	MaxHeaderBytes int
	// MaxHeaders bounds the number of fields, those of Cookie not counted: 431. Zero
	// means 100, as Envoy's default.
	MaxHeaders int
	// MaxTarget bounds :path, in bytes: 414. Zero means 16 KiB.
	MaxTarget int
	// MaxResets is how many streams per second a client may reset before they are
	// answered (CVE-2023-44487), over and above as many as were answered meanwhile.
	// Zero means 500. The connection of one that goes over is ended with
	// ENHANCE_YOUR_CALM.
	MaxResets int
	// StreamWindow is the window that a stream's body begins with, in bytes: what a
	// stream whose handler does not read can hold. Zero means 64 KiB. It grows up to
	// sixteen times that while the handler keeps up, within GrowthBudget.
	StreamWindow int
	// GrowthBudget bounds by how much the windows of all streams of the server may
	// grow together. Zero means 64 MiB.
	GrowthBudget int64
	// MaxUnread is how much of requests' bodies the server holds before it returns a
	// connection's credit only as handlers read: until then it is returned on
	// receipt, so that no slow stream can hold up the others. Zero means 256 MiB.
	MaxUnread int64

	// OnMalformed is told of requests that are refused before there is anything for
	// a handler. nil = nobody.
	OnMalformed func(p Peer, err *MalformedError)
	// Log gets the panics of handlers, and on level debug why connections end. nil =
	// nowhere.
	Log *slog.Logger

	unread, grown atomic.Int64
}

func (s *Server) prefaceTimeout() time.Duration { return cmp.Or(s.PrefaceTimeout, 10*time.Second) }
func (s *Server) readHeaderTimeout() time.Duration {
	return cmp.Or(s.ReadHeaderTimeout, 10*time.Second)
}
func (s *Server) idleTimeout() time.Duration  { return cmp.Or(s.IdleTimeout, 60*time.Second) }
func (s *Server) bodyTimeout() time.Duration  { return cmp.Or(s.BodyTimeout, 5*time.Minute) }
func (s *Server) writeTimeout() time.Duration { return cmp.Or(s.WriteTimeout, 60*time.Second) }
func (s *Server) drainTimeout() time.Duration { return cmp.Or(s.DrainTimeout, time.Second) }
func (s *Server) maxStreams() int             { return cmp.Or(s.MaxStreams, 250) }
func (s *Server) maxHeaderBytes() int         { return cmp.Or(s.MaxHeaderBytes, 64<<10) }
func (s *Server) maxHeaders() int             { return cmp.Or(s.MaxHeaders, 100) }
func (s *Server) maxTarget() int              { return cmp.Or(s.MaxTarget, 16<<10) }
func (s *Server) maxResets() int              { return cmp.Or(s.MaxResets, 500) }
func (s *Server) streamWindow() int64         { return int64(cmp.Or(s.StreamWindow, 64<<10)) }
func (s *Server) growthBudget() int64         { return cmp.Or(s.GrowthBudget, 64<<20) }
func (s *Server) maxUnread() int64            { return cmp.Or(s.MaxUnread, 256<<20) }

// Peer is what a handler is told of the client's connection, if the connection
// itself does not tell.
type Peer struct {
	RemoteAddr string               // of http.Request; "" = the connection's
	TLS        *tls.ConnectionState // nil = that of a *tls.Conn
	// Read are bytes of the connection that were read already.
	Read []byte
}

// ServeConn serves c until it is over, and closes it. The preface is the first that
// it reads, on TLS or in the clear ("prior knowledge"). The end of ctx is a drain:
// GOAWAY is sent, the streams that are under way or on their way are the last, and
// then the connection is closed; requests do not end with ctx, whose values they
// carry. Whoever cannot wait closes c.
//
// ServeConn returns when all handlers have. A request's context ends when the client
// resets the stream, when the connection is over and when its handler returns.
//
// A ResponseWriter also implements http.Flusher, io.ReaderFrom, io.StringWriter and
// what http.ResponseController looks for, Hijack excepted, and the interfaces
//
//	Written() int64      // bytes of body so far
//	Status() int         // that was sent, 0 = none yet
//	CloseWrite() error   // ends the answer before the handler returns
//
// and a request's body
//
//	Buffered() int       // bytes that Read gives without waiting
//	BytesRead() int64
//
// A handler may read the body while it writes the answer, and from another
// goroutine, whose Read ends when the handler returns.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, h http.Handler) {
	s.ServePeer(ctx, c, h, Peer{})
}

// ServePeer is ServeConn for a connection of which more is known.
func (s *Server) ServePeer(ctx context.Context, nc net.Conn, h http.Handler, p Peer) {
	c := newConn(s, nc, h, p)
	c.base = context.WithoutCancel(ctx)
	stop := context.AfterFunc(ctx, c.drain)
	defer stop()
	c.serve(p.Read)
}
