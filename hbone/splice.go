package hbone

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

// SpliceResult is what went through a splice.
type SpliceResult struct {
	FromStream, ToStream int64 // payload bytes
	// Err is nil when both directions came to a plain end; otherwise the first
	// thing that went wrong: a *ResetError of the peer, an error of the socket,
	// or the end of the tunnel.
	Err error
}

// socket is what Splice wants of a connection to read and write it without a
// goroutine for each direction: a *net.TCPConn, or something that embeds one.
type socket interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	CloseRead() error
	SetLinger(sec int) error
}

// Splice joins s and c until both directions have ended, and closes both. It
// keeps what TCP says: a half-close stays a half-close, and a reset on one side
// becomes a reset on the other (RST_STREAM with CONNECT_ERROR, RFC 9113 section
// 8.5; SO_LINGER 0), never a plain end.
//
// It uses the caller's goroutine to carry c to s; s to c is carried by the
// tunnel's reader, and by one more goroutine while c does not keep up.
func Splice(s *Stream, c net.Conn) SpliceResult {
	sock, ok := c.(socket)
	var raw syscall.RawConn
	if ok {
		var err error
		if raw, err = sock.SyscallConn(); err != nil {
			ok = false
		}
	}
	if !ok {
		return spliceCopy(s, c)
	}
	k := newSink(sock, raw)
	s.attach(k)
	err := s.pump(k)
	if err == nil && k.watch() && !s.taken() {
		s.sinkFailed(k.errReset(), false)
	}
	s.mu.Lock()
	for s.draining || !s.recvDone && s.recvErr == nil {
		s.recvCond.Wait()
	}
	if s.recvErr != nil && (err == nil || !errors.As(err, new(*ResetError))) {
		err = s.recvErr
	}
	s.mu.Unlock()
	c.Close()
	s.releaseWindow()
	sent, received := s.Bytes()
	return SpliceResult{FromStream: received, ToStream: sent, Err: err}
}

// attach makes k the destination of what s receives.
func (s *Stream) attach(k *sink) {
	s.mu.Lock()
	s.sink = k
	if s.recvErr != nil {
		s.mu.Unlock()
		k.reset()
		return
	}
	s.advanceLocked()
}

// releaseWindow gives back what the stream's window took of the budget.
func (s *Stream) releaseWindow() {
	s.mu.Lock()
	n := s.grown
	s.grown = 0
	s.mu.Unlock()
	if n > 0 {
		windowBudget.give(n)
	}
}

// pump carries the socket to the stream until the socket's end, which it
// returns as nil, or an error.
func (s *Stream) pump(k *sink) error {
	p := &pump{s: s, w: &s.c.w, quiet: true}
	p.fn = p.attempt
	for {
		p.blocked, p.eof, p.err = false, false, nil
		if err := k.raw.Read(p.fn); err != nil && p.err == nil {
			p.err = err // closed under us: by a reset of the stream, or by the caller
		}
		switch {
		case p.err != nil:
			return p.failed(k)
		case p.blocked:
			if p.err = p.wait(k); p.err != nil {
				return p.failed(k)
			}
		case p.eof:
			err := s.CloseWrite()
			k.sourceEnded()
			return err
		default:
			if p.err = p.send(); p.err != nil {
				return p.failed(k)
			}
		}
	}
}

// pump reads a socket whenever it has bytes and the stream may send. While it
// waits it holds neither buffer, credit nor room.
type pump struct {
	s        *Stream
	w        *writer
	fn       func(fd uintptr) bool
	class    int
	quiet    bool
	reserved int
	buf      *buffer

	blocked, eof bool
	err          error
	stall        *time.Timer
	stalled      atomic.Bool
}

// attempt is called in the poller's terms: false means wait until readable.
func (p *pump) attempt(fd uintptr) bool {
	if p.reserved == 0 {
		p.reserved, p.err = p.w.tryReserve(p.s, payloadCap(p.class), p.quiet)
		if p.err != nil {
			return true
		}
		if p.reserved == 0 {
			p.blocked = true
			return true
		}
	}
	b := getBuffer(classFor(p.reserved))
	for {
		n, err := syscall.Read(int(fd), b.space()[:min(p.reserved, len(b.space()))])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			b.n = n
			p.buf = b
			return true
		}
		putBuffer(b)
		p.w.refund(p.s, p.reserved)
		p.reserved = 0
		if err == syscall.EAGAIN {
			return false
		}
		p.eof, p.err = err == nil, err
		return true
	}
}

// send hands what attempt read to the writer, and fits the next buffer to it.
func (p *pump) send() error {
	b, reserved := p.buf, p.reserved
	p.buf, p.reserved = nil, 0
	n := b.n
	p.quiet = n <= smallData
	switch {
	case n >= payloadCap(p.class) && p.class < classLarge:
		p.class++
	case p.class > 0 && n < payloadCap(p.class-1):
		p.class--
	}
	if err := p.w.data(p.s, b, reserved); err != nil {
		return err
	}
	p.s.sent.Add(int64(n))
	return nil
}

// stallCheck is how often a pump that waits for credit looks whether its socket
// was reset meanwhile: nobody reads the socket then.
const stallCheck = time.Second

// wait waits for leave to send.
func (p *pump) wait(k *sink) error {
	for {
		p.stalled.Store(false)
		if p.stall == nil {
			p.stall = time.AfterFunc(stallCheck, func() {
				p.w.mu.Lock()
				p.stalled.Store(true)
				p.s.sendCond.Broadcast()
				p.w.mu.Unlock()
			})
		} else {
			p.stall.Reset(stallCheck)
		}
		n, err := p.w.reserve(p.s, payloadCap(p.class), p.quiet, func() error {
			if p.stalled.Load() {
				return errStalled
			}
			return nil
		})
		p.stall.Stop()
		if err != errStalled {
			p.reserved = n
			return err
		}
		if err := k.broken(); err != nil {
			return err
		}
	}
}

var errStalled = errors.New("hbone: no credit yet")

// failed ends the stream after an error of the socket; an error of the stream
// has ended the socket already.
func (p *pump) failed(k *sink) error {
	if p.reserved > 0 {
		p.w.refund(p.s, p.reserved)
		p.reserved = 0
	}
	s := p.s
	s.mu.Lock()
	err := s.recvErr
	s.mu.Unlock()
	if err != nil {
		return err
	}
	var re *ResetError
	if errors.As(p.err, &re) {
		return p.err // the peer wants no more, but what it sent is still on its way
	}
	s.reset(http2.ErrCodeConnect, p.err)
	return p.err
}

// sink is a spliced stream's socket.
type sink struct {
	conn socket
	raw  syscall.RawConn

	// Of the write in progress; whoever set Stream.draining owns them.
	p       []byte
	n       int
	err     error
	writeFn func(fd uintptr) bool

	mu        sync.Mutex
	inputDone bool // nothing more will be written to the socket
	srcDone   bool // nothing more will be read from it
}

func newSink(c socket, raw syscall.RawConn) *sink {
	k := &sink{conn: c, raw: raw}
	k.writeFn = k.writeOnce
	return k
}

// tryWrite writes what the socket takes at once.
func (k *sink) tryWrite(p []byte) (int, error) {
	k.p, k.n, k.err = p, 0, nil
	err := k.raw.Write(k.writeFn)
	k.p = nil
	if err == nil {
		err = k.err
	}
	return k.n, err
}

func (k *sink) writeOnce(fd uintptr) bool {
	for k.n < len(k.p) {
		n, err := syscall.Write(int(fd), k.p[k.n:])
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			return true
		}
		if err != nil {
			k.err = &net.OpError{Op: "write", Net: "tcp", Source: k.conn.LocalAddr(), Addr: k.conn.RemoteAddr(), Err: err}
			return true
		}
		if k.n += n; n < len(k.p)-(k.n-n) {
			return true // a short write: the next would be EAGAIN
		}
	}
	return true
}

// reset closes the socket with RST and wakes whoever waits on it.
func (k *sink) reset() {
	k.conn.SetLinger(0)
	k.conn.Close()
}

// inputEnded and sourceEnded note the two ends; the socket is closed with the
// second, which wakes watch.
func (k *sink) inputEnded() {
	k.mu.Lock()
	k.inputDone = true
	both := k.srcDone
	k.mu.Unlock()
	if both {
		k.conn.Close()
	}
}

func (k *sink) sourceEnded() {
	k.mu.Lock()
	k.srcDone = true
	both := k.inputDone
	k.mu.Unlock()
	if both {
		k.conn.Close()
	}
}

func (k *sink) sourceDone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.srcDone
}

// watch waits, after the socket's plain end, until it is closed or reset; true
// for the latter.
func (k *sink) watch() (reset bool) {
	return k.raw.Read(pollBroken) == nil
}

// broken says whether the socket has been reset.
func (k *sink) broken() (err error) {
	cerr := k.raw.Control(func(fd uintptr) {
		if pollBroken(fd) {
			err = k.errReset()
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

func (k *sink) errReset() error {
	return &net.OpError{Op: "read", Net: "tcp", Source: k.conn.LocalAddr(), Addr: k.conn.RemoteAddr(), Err: syscall.ECONNRESET}
}

func pollBroken(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0
}

// spliceCopy is Splice for connections that are not sockets.
func spliceCopy(s *Stream, c net.Conn) SpliceResult {
	errs := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{c}, s)
		if err == nil {
			if cw, ok := c.(interface{ CloseWrite() error }); ok {
				err = cw.CloseWrite()
			}
		}
		if err != nil {
			s.reset(http2.ErrCodeConnect, err)
			c.Close()
		}
		errs <- err
	}()
	_, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{c})
	if err == nil {
		err = s.CloseWrite()
	}
	if err != nil {
		s.reset(http2.ErrCodeConnect, err)
		c.Close()
	}
	if rerr := <-errs; rerr != nil && (err == nil || errors.As(rerr, new(*ResetError))) {
		err = rerr
	}
	s.Close()
	c.Close()
	s.releaseWindow()
	sent, received := s.Bytes()
	return SpliceResult{FromStream: received, ToStream: sent, Err: err}
}
