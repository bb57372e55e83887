package h1

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"
)

// Server serves HTTP/1.0 and 1.1 on connections that others accept. The zero
// value works. A field may not be changed once a connection is served.
type Server struct {
	// ReadHeaderTimeout bounds a request's header, from its first byte, and the
	// wait for the first byte of a new connection. Zero means 10 s.
	ReadHeaderTimeout time.Duration
	// IdleTimeout is how long a connection waits for the next request. Zero means
	// 60 s.
	IdleTimeout time.Duration
	// BodyTimeout is how long a request may carry nothing in either direction while
	// its body is read, as Envoy's stream_idle_timeout; it bounds neither the whole
	// body nor the wait for an answer. Zero means 60 s.
	BodyTimeout time.Duration
	// WriteTimeout is how long a client may leave what is written to it unread.
	// Zero means 60 s.
	WriteTimeout time.Duration
	// MaxHeaderBytes bounds a request's header with its request line: what is
	// longer is answered with 431. Zero means 64 KiB; Envoy's default is 60 KiB.
	MaxHeaderBytes int
	// MaxHeaders bounds the number of field lines: 431. Zero means 100, as Envoy's
	// default.
	MaxHeaders int
	// MaxTarget bounds the request target, in bytes: 414. Zero means 16 KiB.
	MaxTarget int
	// MaxBodyBytes bounds the body of a request: 413 if Content-Length says more,
	// an *http.MaxBytesError from Body if it turns out. Zero means no limit.
	MaxBodyBytes int64
	// MaxDrain is how much of a body that the handler left unread is read past so
	// that the connection can be kept; if more is left, it is closed. Zero means
	// 256 KiB.
	MaxDrain int64

	// Connect lets CONNECT requests come to the handler; otherwise they are
	// refused with 501.
	Connect bool
	// OnPreface takes a connection that begins with the preface of HTTP/2, none of
	// which c.Read has lost, and closes it. nil: refused with 505.
	OnPreface func(ctx context.Context, c net.Conn, h http.Handler)
	// OnRefuse is told of requests that are refused before there is anything for a
	// handler. nil = nobody.
	OnRefuse func(p Peer, err *RefusedError)
	// Log gets the panics of handlers. nil = nowhere.
	Log *slog.Logger
}

func (s *Server) readHeaderTimeout() time.Duration {
	return cmp.Or(s.ReadHeaderTimeout, 10*time.Second)
}
func (s *Server) idleTimeout() time.Duration  { return cmp.Or(s.IdleTimeout, 60*time.Second) }
func (s *Server) bodyTimeout() time.Duration  { return cmp.Or(s.BodyTimeout, 60*time.Second) }
func (s *Server) writeTimeout() time.Duration { return cmp.Or(s.WriteTimeout, 60*time.Second) }
func (s *Server) maxHeaderBytes() int         { return cmp.Or(s.MaxHeaderBytes, 64<<10) }
func (s *Server) maxHeaders() int             { return cmp.Or(s.MaxHeaders, 100) }
func (s *Server) maxTarget() int              { return cmp.Or(s.MaxTarget, 16<<10) }
func (s *Server) maxDrain() int64             { return cmp.Or(s.MaxDrain, 256<<10) }

// Peer is what a handler is told of the client's connection, if the connection
// itself does not tell.
type Peer struct {
	RemoteAddr string               // of http.Request; "" = the connection's
	TLS        *tls.ConnectionState // nil = that of a *tls.Conn
	// Read are bytes of the connection that were read already.
	Read []byte
}

// ServeConn serves c until it is over, and closes it, unless a handler has
// hijacked it. The end of ctx is a drain: the request under way is answered with
// Connection: close and is the last; requests do not end with ctx, whose values
// they carry. Whoever cannot wait closes c.
//
// The handler's goroutine is the caller's. A handler may read the request's body
// while it writes the answer, and may leave the reading to another goroutine: that
// is interrupted when the handler returns.
func (s *Server) ServeConn(ctx context.Context, c net.Conn, h http.Handler) {
	s.ServePeer(ctx, c, h, Peer{})
}

// ServePeer is ServeConn for a connection of which more is known.
func (s *Server) ServePeer(ctx context.Context, c net.Conn, h http.Handler, p Peer) {
	sc := &serverConn{s: s, c: c, ctx: ctx, base: context.WithoutCancel(ctx), h: h, peer: p}
	sc.read.init(c)
	sc.dl.c = c
	sc.watch.init(c)
	_, sc.tcp = c.(*net.TCPConn)
	if p.RemoteAddr == "" {
		sc.peer.RemoteAddr = c.RemoteAddr().String()
	}
	if tc, ok := c.(*tls.Conn); ok && p.TLS == nil {
		state := tc.ConnectionState()
		sc.peer.TLS = &state
	}
	if n := len(p.Read); n > 0 {
		sc.read.hold()
		if n > len(sc.read.buf) {
			sc.read.grow(n)
		}
		sc.read.w = copy(sc.read.buf, p.Read)
		sc.peer.Read = nil
	}
	stop := context.AfterFunc(ctx, sc.dl.drain)
	defer stop()
	sc.serve()
}

// serverConn is the server's side of one connection.
type serverConn struct {
	s     *Server
	c     net.Conn
	ctx   context.Context // of ServeConn
	base  context.Context // what requests' contexts come from
	h     http.Handler
	peer  Peer
	tcp   bool
	read  reader
	dl    deadlines
	watch watch

	served   int
	writeErr error
	hijacked bool
	cur      *exchange
	vecs     [3][]byte // for writev, with vec
	vec      net.Buffers
}

// serve serves one request after another.
func (c *serverConn) serve() {
	defer c.end()
	for c.awaitRequest() {
		ex, err := c.readRequest()
		if err != nil {
			c.refuse(err)
			return
		}
		if ex == nil || !c.serveRequest(ex) {
			return
		}
		c.served++
	}
}

func (c *serverConn) end() {
	c.watch.end()
	c.read.free()
	if !c.hijacked {
		c.c.Close()
	}
}

// awaitRequest waits for the first byte of a request.
func (c *serverConn) awaitRequest() bool {
	timeout := c.s.idleTimeout()
	if c.served == 0 {
		timeout = c.s.readHeaderTimeout()
	}
	if !c.dl.beginIdle(timeout) {
		return false
	}
	err := c.read.await()
	c.dl.endIdle()
	return err == nil
}

// readRequest reads a request's head. Both results are nil if there is nobody
// left to answer.
func (c *serverConn) readRequest() (*exchange, *RefusedError) {
	r := &c.read
	// Before a request line, an empty line is let pass (RFC 9112 section 2.2).
	end, lines, err := c.readHead()
	if err != nil || end == 0 {
		return nil, err
	}
	head := string(r.bytes()[:end])
	if head == preface && c.served == 0 {
		if c.s.OnPreface == nil {
			return nil, refuse(http.StatusHTTPVersionNotSupported, errPreface)
		}
		c.handOver()
		return nil, nil
	}
	r.discard(end)
	ex := newExchange(c)
	rh, err := parseRequest(head, lines, c.s.maxTarget(), &ex.req, &ex.url)
	if err != nil {
		return nil, err
	}
	if rh.method == http.MethodConnect && !c.s.Connect {
		return nil, refuse(http.StatusNotImplemented, errConnect)
	}
	if m := c.s.MaxBodyBytes; m > 0 && rh.length > m {
		return nil, refuse(http.StatusRequestEntityTooLarge, errBodyTooLarge)
	}
	ex.start(&rh)
	if rh.length == 0 {
		r.release()
	}
	return ex, nil
}

// readHead reads until a whole head is buffered, and returns its length and
// number of lines.
func (c *serverConn) readHead() (end, lines int, _ *RefusedError) {
	r := &c.read
	limit := c.s.maxHeaderBytes()
	var scan headScan
	skipped, armed := false, false
	for {
		if !skipped && r.buffered() > 0 {
			in := r.bytes()
			if in[0] != '\r' {
				skipped = true
			} else if len(in) > 1 {
				skipped = true
				if in[1] != '\n' {
					return 0, 0, refuse(http.StatusBadRequest, errRequestLine)
				}
				r.discard(2)
			}
		}
		if skipped {
			end, err := scan.scan(r.bytes())
			switch {
			case err != nil:
				return 0, 0, refuse(http.StatusBadRequest, err)
			case scan.lines == 0 && (end > 0 || scan.pos > 0 && r.bytes()[0] == '\r'):
				return 0, 0, refuse(http.StatusBadRequest, errRequestLine)
			case scan.lines == 0 && scan.pos > c.s.maxTarget()+maxRequestLine:
				return 0, 0, refuse(http.StatusRequestURITooLong, errTargetLong)
			case scan.pos > limit:
				return 0, 0, refuse(http.StatusRequestHeaderFieldsTooLarge, errHeadTooLarge)
			case scan.lines-1 > c.s.maxHeaders():
				return 0, 0, refuse(http.StatusRequestHeaderFieldsTooLarge, errTooMany)
			case end > 0:
				return end, scan.lines, nil
			}
		}
		if !armed {
			c.dl.armReadAt(time.Now().Add(c.s.readHeaderTimeout()))
			armed = true
		}
		if r.full() {
			r.grow(min(4*len(r.buf), limit+bufferSize))
		}
		if err := r.more(); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return 0, 0, refuse(http.StatusRequestTimeout, err)
			}
			return 0, 0, nil
		}
	}
}

// maxRequestLine is what method and version may take of a request line, in bytes.
const maxRequestLine = 128

// handOver gives the connection to OnPreface, with all that was read of it.
func (c *serverConn) handOver() {
	c.hijacked = true
	read := append([]byte(nil), c.read.bytes()...)
	c.read.free()
	c.dl.clear()
	c.s.OnPreface(c.ctx, &readAhead{Conn: c.c, buf: read}, c.h)
}

// readAhead is a connection of which something was read already.
type readAhead struct {
	net.Conn
	buf []byte
}

func (c *readAhead) Read(p []byte) (int, error) {
	if len(c.buf) > 0 {
		n := copy(p, c.buf)
		c.buf = c.buf[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// NetConn is the connection without what was read of it.
func (c *readAhead) NetConn() net.Conn { return c.Conn }

// serveRequest calls the handler, and says whether another request may follow.
func (c *serverConn) serveRequest(ex *exchange) (again bool) {
	defer func() {
		if again {
			return
		}
		// The handler panicked, or the connection is over.
		if p := recover(); p != nil {
			ex.cancel()
			ex.body.abandon()
			if err, ok := p.(error); (!ok || !errors.Is(err, http.ErrAbortHandler)) && c.s.Log != nil {
				c.s.Log.Error("handler panicked", "remote", c.peer.RemoteAddr, "panic", p, "stack", string(debug.Stack()))
			}
			if ex.w.framing == byClose {
				c.resetSocket()
			}
		}
	}()
	c.cur = ex
	c.h.ServeHTTP(&ex.w, &ex.req)
	return c.finish(ex)
}

// finish ends a request whose handler has returned.
func (c *serverConn) finish(ex *exchange) bool {
	if c.hijacked {
		ex.cancel()
		return false
	}
	ex.w.finish()
	whole := ex.body.finish()
	ex.cancel()
	c.dl.endOwn()
	if c.writeErr != nil {
		return false
	}
	if !whole || ex.w.close && c.read.buffered() > 0 {
		c.linger()
	}
	return whole && !ex.w.close
}

// resetSocket makes an answer that ends with the connection look cut off.
func (c *serverConn) resetSocket() {
	if t := socketOf(c.c); t != nil {
		t.SetLinger(0)
	}
}

// linger closes the sending direction and reads on for a moment, so that what the
// client still sends does not make the kernel reset the connection before the
// client has read the answer (RFC 9112 section 9.6).
func (c *serverConn) linger() {
	cw, ok := c.c.(interface{ CloseWrite() error })
	if !ok || cw.CloseWrite() != nil {
		return
	}
	c.dl.armReadAt(time.Now().Add(lingerTime))
	c.read.free()
	scratch := buffers.Get().(*buffer)
	defer buffers.Put(scratch)
	for range lingerBytes / bufferSize {
		if _, err := c.c.Read(scratch[:]); err != nil {
			return
		}
	}
}

const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 1 << 20
)

// refuse answers a request that is not for the handler.
func (c *serverConn) refuse(err *RefusedError) {
	if c.s.OnRefuse != nil {
		c.s.OnRefuse(c.peer, err)
	}
	c.dl.armWrite(c.s.writeTimeout())
	if _, werr := io.WriteString(c.c, refusal(err)); werr == nil {
		c.linger()
	}
}
