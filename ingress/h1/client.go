package h1

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/ingress/lifetime"
)

// ClientOptions are the limits of a ClientConn. The zero value works.
type ClientOptions struct {
	// MaxHeaderBytes bounds the header of an answer, and of each informational
	// one. Zero means 64 KiB; Envoy's default is 60 KiB.
	MaxHeaderBytes int
	// MaxHeaders bounds the number of field lines. Zero means 100, as Envoy's
	// default.
	MaxHeaders int
	// ContinueTimeout is how long a request with Expect: 100-continue waits for
	// leave to send its body, which it then does without. Zero means 1 s.
	ContinueTimeout time.Duration
}

// ClientConn is a connection to a backend: it carries one request at a time. It
// has no goroutine of its own.
//
// It is free again when the answer's body has been read to its end or closed;
// Reusable then says whether it may be used again.
type ClientConn struct {
	c    net.Conn
	opt  ClientOptions
	read reader
	sock syscall.RawConn // at the bottom of c; nil = c is none
	look poll            // at sock
	tcp  *net.TCPConn    // c, if it is one

	busy   atomic.Bool
	broken atomic.Bool // not to be used again
	used   atomic.Bool // has carried a request

	// The exchange under way, owned by whoever set busy.
	ctx    context.Context
	stop   func() bool
	abort  func() // closes the connection because ctx is over
	upload *upload
	wrote  bool // a byte of the request may have reached the peer
	// bodyRead says that the request's body has been read from, or is about to.
	bodyRead bool
}

// NewClientConn makes a connection to a backend of c, which it owns from now on.
func NewClientConn(c net.Conn, opt ClientOptions) *ClientConn {
	cc := &ClientConn{c: c, opt: opt}
	cc.opt.MaxHeaderBytes = cmp.Or(opt.MaxHeaderBytes, 64<<10)
	cc.opt.MaxHeaders = cmp.Or(opt.MaxHeaders, 100)
	cc.opt.ContinueTimeout = cmp.Or(opt.ContinueTimeout, time.Second)
	cc.read.init(c)
	cc.tcp, _ = c.(*net.TCPConn)
	cc.sock = rawConn(c)
	cc.look.raw = cc.sock
	cc.abort = cc.shut
	return cc
}

// Close closes the connection at once. It may be called from any goroutine; a
// request under way ends with an error.
func (cc *ClientConn) Close() error {
	cc.broken.Store(true)
	return cc.c.Close()
}

// shut is Close for those who do not wait for TLS to say goodbye.
func (cc *ClientConn) shut() {
	cc.broken.Store(true)
	cc.c.SetDeadline(longAgo)
	cc.c.Close()
}

// Reusable says whether another request may be sent: the last one is wholly over
// in both directions, and the peer has neither closed the connection nor sent
// anything since. It does not wait, and reads nothing of a socket. It must not be
// called while a RoundTrip may begin.
func (cc *ClientConn) Reusable() bool {
	if !cc.Free() {
		return false
	}
	if cc.alive() {
		return true
	}
	cc.broken.Store(true)
	return false
}

// Free is Reusable without a look at the peer, which costs a system call: enough
// for the moment when an exchange is over.
func (cc *ClientConn) Free() bool { return !cc.broken.Load() && !cc.busy.Load() }

// alive looks for news of a peer who should be silent. On a socket it polls: what
// lies there is the end, or an answer to nothing, and under TLS it may be the
// session tickets of a connection that has not been used, which count for nothing.
// On anything else, a stream of a tunnel, it reads with a deadline that has
// passed: a stream gives what it has before it looks at the deadline.
func (cc *ClientConn) alive() bool {
	if cc.read.buffered() > 0 {
		return false
	}
	if cc.sock != nil {
		// Anything sent, or the end; or the end alone.
		events := int16(unix.POLLIN | unix.POLLRDHUP)
		if cc.read.isTLS && !cc.used.Load() {
			events = unix.POLLRDHUP
		}
		return !cc.look.any(events)
	}
	cc.c.SetReadDeadline(longAgo)
	n, err := cc.c.Read(cc.read.one[:])
	cc.c.SetReadDeadline(time.Time{})
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// RoundTrip sends req and reads the header of its answer; the rest is read through
// Response.Body, which the caller closes. Errors are *ClientError.
//
// The request line and Host are of req.URL and req.Host, and req.Header is sent as
// it stands but for the fields that frame a message; nothing is added to it. The
// body is closed, unless the error says that it was not read. An end of the
// request's context closes the connection, until the answer's body is at its end.
//
// Informational answers besides 100 Continue go to httptrace.ClientTrace.Got1xxResponse of the context.
// The Body of a 101 is an io.ReadWriteCloser with CloseWrite; see [Upgraded].
func (cc *ClientConn) RoundTrip(req *http.Request) (*http.Response, error) {
	if !cc.busy.CompareAndSwap(false, true) {
		return nil, &ClientError{Err: errBusy}
	}
	ctx := req.Context()
	cc.ctx, cc.stop, cc.upload = ctx, nil, nil
	cc.wrote, cc.bodyRead = false, false
	cc.read.seen = false
	if cc.broken.Load() {
		return nil, cc.fail(errClosed)
	}
	if ctx.Err() != nil {
		// Nothing has happened to the connection.
		cc.busy.Store(false)
		return nil, &ClientError{Err: context.Cause(ctx)}
	}
	cc.stop = lifetime.AfterFunc(ctx, cc.abort)
	waits, err := cc.send(req)
	if err != nil {
		return nil, cc.failWith(req, err)
	}
	resp, err := cc.receive(req, waits)
	if err != nil {
		return nil, cc.failWith(req, err)
	}
	return resp, nil
}

// failWith ends the exchange and closes the request's body if it has been read.
func (cc *ClientConn) failWith(req *http.Request, err error) error {
	up := cc.upload
	cerr := cc.fail(err)
	if up == nil && cerr.BodyRead {
		req.Body.Close()
	}
	return cerr
}

// fail ends the exchange, closes the connection and makes the error of what has
// happened.
func (cc *ClientConn) fail(err error) *ClientError {
	stopped := cc.stop == nil || cc.stop()
	cc.shut()
	var m *malformed
	var bodyErr *BodyError
	if up := cc.upload; up != nil {
		bodyErr = up.bodyErr.Load()
		up.abandon()
	}
	switch {
	case !stopped:
		err = context.Cause(cc.ctx)
	case bodyErr != nil:
		err = bodyErr
	case errors.As(err, &m):
		err = &ProtocolError{m.err}
	}
	cerr := &ClientError{Wrote: cc.wrote, BodyRead: cc.bodyRead, Received: cc.read.seen, Err: err}
	cc.read.free()
	cc.ctx, cc.stop, cc.upload = nil, nil, nil
	cc.busy.Store(false)
	return cerr
}

// release ends the exchange: the answer is at its end.
func (cc *ClientConn) release() {
	if cc.stop != nil && !cc.stop() {
		cc.broken.Store(true)
	}
	if cc.upload != nil && !cc.upload.finished() {
		cc.shut()
		cc.upload.abandon()
	}
	if cc.read.buffered() > 0 {
		// More than was promised: whatever it is, nobody asked for it.
		cc.broken.Store(true)
	}
	cc.read.free()
	if cc.broken.Load() {
		cc.shut()
	}
	cc.ctx, cc.stop, cc.upload = nil, nil, nil
	cc.used.Store(true)
	cc.busy.Store(false)
}
