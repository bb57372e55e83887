package h1

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"syscall"
)

// bufferSize is what is read and written at once: a whole record of TLS.
const bufferSize = 16 << 10

type buffer [bufferSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// reader reads a connection. It holds a buffer only while there is something in
// it, or somebody waits for more of a message that has begun.
type reader struct {
	c      net.Conn
	raw    syscall.RawConn // of a TCP or Unix socket
	isTLS  bool
	seen   bool // bytes have been read since the caller last cleared it
	pooled *buffer
	buf    []byte // pooled, or larger for a large head; nil if nothing is held
	r, w   int    // buf[r:w] is not yet consumed
	one    [1]byte

	// What onReadable found.
	onReadable func(fd uintptr) bool
	n          int
	err        error
}

func (r *reader) init(c net.Conn) {
	r.c = c
	// The exact types only: something that embeds a socket may have read ahead
	// of it.
	var sc syscall.Conn
	switch c := c.(type) {
	case *net.TCPConn:
		sc = c
	case *net.UnixConn:
		sc = c
	case *tls.Conn:
		r.isTLS = true
	}
	if sc != nil {
		if raw, err := sc.SyscallConn(); err == nil {
			r.raw = raw
			r.onReadable = r.readSocket
		}
	}
}

func (r *reader) buffered() int { return r.w - r.r }
func (r *reader) bytes() []byte { return r.buf[r.r:r.w] }

func (r *reader) hold() {
	if r.buf == nil {
		r.pooled = buffers.Get().(*buffer)
		r.buf = r.pooled[:]
	}
}

// release gives the buffer back if nothing is in it.
func (r *reader) release() {
	if r.r != r.w || r.buf == nil {
		return
	}
	if r.pooled != nil {
		buffers.Put(r.pooled)
	}
	r.pooled, r.buf, r.r, r.w = nil, nil, 0, 0
}

// free gives the buffer back whatever is in it.
func (r *reader) free() {
	r.r = r.w
	r.release()
}

// discard consumes n buffered bytes.
func (r *reader) discard(n int) {
	r.r += n
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
}

// await returns when something is buffered. While it waits it holds no buffer,
// if the connection lets it: a socket is read when it is readable, and TLS
// through one byte, since the rest of the record is then read without a wait.
func (r *reader) await() error {
	if r.buffered() > 0 {
		return nil
	}
	r.release()
	switch {
	case r.raw != nil:
		r.n, r.err = 0, nil
		if err := r.raw.Read(r.onReadable); err != nil {
			return err
		}
		if r.err != nil {
			return r.err
		}
		r.r, r.w = 0, r.n
		r.seen = true
		return nil
	case r.isTLS:
		n, err := r.c.Read(r.one[:])
		if n == 0 {
			return noEOF(err)
		}
		r.hold()
		r.buf[0] = r.one[0]
		r.r, r.w = 0, 1
		r.seen = true
		return nil
	}
	return r.fill()
}

// readSocket is called by the poller's side of await until it returns true.
func (r *reader) readSocket(fd uintptr) bool {
	r.hold()
	for {
		n, err := syscall.Read(int(fd), r.buf)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			r.release()
			return false
		case err != nil:
			r.err = &net.OpError{Op: "read", Net: "tcp", Source: r.c.LocalAddr(), Addr: r.c.RemoteAddr(), Err: err}
		case n == 0:
			r.err = io.EOF
		}
		r.n = max(n, 0)
		if r.n == 0 {
			r.release()
		}
		return true
	}
}

// fill reads once, behind what is buffered. The buffer must not be full of
// unconsumed bytes.
func (r *reader) fill() error {
	r.hold()
	if r.r > 0 && r.w == len(r.buf) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.c.Read(r.buf[r.w:])
	if n > 0 {
		r.w += n
		r.seen = true
		return nil
	}
	return noEOF(err)
}

// noEOF makes an error of a Read that returned nothing.
func noEOF(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// full says that no byte more can be buffered without grow.
func (r *reader) full() bool { return r.w-r.r == len(r.buf) && r.buf != nil }

// grow makes room for n bytes: a head is parsed in one piece.
func (r *reader) grow(n int) {
	b := make([]byte, n)
	r.w = copy(b, r.bytes())
	r.r = 0
	if r.pooled != nil {
		buffers.Put(r.pooled)
		r.pooled = nil
	}
	r.buf = b
}

// read reads into p, past the buffer if that is empty and p is large.
func (r *reader) read(p []byte) (int, error) {
	if r.buffered() == 0 {
		if len(p) >= bufferSize/2 {
			r.release()
			n, err := r.c.Read(p)
			if n > 0 {
				r.seen = true
				return n, nil
			}
			return 0, noEOF(err)
		}
		// In the middle of a body a buffer is held: what await saves by one byte, of
		// TLS, is a Read for each byte here.
		wait := r.await
		if r.isTLS {
			wait = r.fill
		}
		if err := wait(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.bytes())
	r.discard(n)
	return n, nil
}

// line returns the first buffered line, without its CRLF, and how many bytes it
// takes. It is 0 if the line is not complete.
func (r *reader) line(limit int) (line []byte, n int, err error) {
	b := r.bytes()
	i := bytes.IndexByte(b, '\n')
	switch {
	case i < 0 && len(b) > limit, i > limit:
		return nil, 0, errLineTooLong
	case i < 0:
		return nil, 0, nil
	case i == 0 || b[i-1] != '\r':
		return nil, 0, errBareLF
	}
	return b[:i-1], i + 1, nil
}

// more waits for bytes behind those that are buffered.
func (r *reader) more() error {
	if r.buffered() == 0 {
		return r.await()
	}
	return r.fill()
}
