package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// replayLimit is how much of a request's body is kept to send it again. What is
// longer is sent once.
const replayLimit = 64 << 10

// errAttemptOver is what a body answers to an attempt that was given up.
var errAttemptOver = fmt.Errorf("the attempt was given up: %w", context.Canceled)

// clientBody is the body of a request, as its attempts and mirrors get it: read
// once, forwarded as it comes.
type clientBody struct {
	// reading is held across a read of src: two attempts must not read it at
	// once, and the later one has nothing to do but to wait for what the earlier
	// one gets.
	reading sync.Mutex
	src     io.Reader

	start    time.Time
	received atomic.Int64
	ended    atomic.Int64 // when src was at its end, in ns since start; 0: it is not
	// failure is the client's: it went away, or what it sends is no body.
	failure atomic.Pointer[error]

	mu   sync.Mutex
	kept []byte // the beginning, if keep
	keep bool
	err  error // that src ended with
	// whole is called when the last byte has been read.
	whole func()
	tees  []*tee
}

// begin readies the body for an attempt: whole is called when its last byte has
// been read, which may be now. nil = nobody wants to know.
func (b *clientBody) begin(whole func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole = whole
	if b.err == io.EOF && whole != nil {
		whole()
	}
}

// replayable says whether another attempt can send the body from its beginning.
func (b *clientBody) replayable() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.received.Load() == int64(len(b.kept))
}

func (b *clientBody) read(p []byte, off int64) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if n, err := b.readKept(p, off); n > 0 || err != nil {
		return n, err
	}
	n, err := b.src.Read(p)
	b.took(p[:n], err)
	return n, err
}

// readKept returns what needs no reading of src.
func (b *clientBody) readKept(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case off < int64(len(b.kept)):
		return copy(p, b.kept[off:]), nil
	case off != b.received.Load():
		return 0, errAttemptOver
	}
	return 0, b.err
}

func (b *clientBody) took(p []byte, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(p) > 0 {
		b.received.Add(int64(len(p)))
		if b.keep {
			if len(b.kept)+len(p) <= replayLimit {
				b.kept = append(b.kept, p...)
			} else {
				b.keep, b.kept = false, nil
			}
		}
		for _, t := range b.tees {
			t.write(p)
		}
	}
	if err == nil {
		return
	}
	b.err = err
	if err == io.EOF {
		b.ended.Store(max(int64(time.Since(b.start)), 1))
	}
	for _, t := range b.tees {
		t.end(err)
	}
	if err != io.EOF {
		b.failure.Store(&err)
	} else if b.whole != nil {
		b.whole()
	}
}

// giveUp lets go of the mirrors of a body that nobody will read to its end.
func (b *clientBody) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		for _, t := range b.tees {
			t.end(errAttemptOver)
		}
	}
	b.tees = nil
}

// attemptBody is what one attempt reads. Closing it leaves the client's body to
// the next one.
type attemptBody struct {
	b    *clientBody
	off  int64
	over atomic.Bool
	// from is the client's request, to the attempt's, for the trailers of which
	// some servers make another map when the body is at its end.
	from, to *http.Request
}

func (a *attemptBody) Read(p []byte) (int, error) {
	if a.over.Load() {
		return 0, errAttemptOver
	}
	n, err := a.b.read(p, a.off)
	a.off += int64(n)
	if err == io.EOF && a.to.Trailer != nil {
		for name, v := range a.from.Trailer {
			if !forbiddenTrailer(name) && !isClaim(name) {
				a.to.Trailer[name] = v
			}
		}
	}
	return n, err
}

// Buffered is how many bytes Read gives without waiting, as far as is known.
func (a *attemptBody) Buffered() int {
	b := a.b
	b.mu.Lock()
	n := len(b.kept) - int(a.off)
	b.mu.Unlock()
	if n > 0 {
		return n
	}
	if src, ok := b.src.(interface{ Buffered() int }); ok {
		return src.Buffered()
	}
	return 0
}

// spliceable is a body that the kernel can move from socket to socket, as
// ingress/h1 has it.
type spliceable interface {
	CanSplice() bool
	SpliceTo(dst *net.TCPConn, most int64) (int64, error)
}

// CanSplice says that the body need not be seen here: nobody wants a copy, and the
// next bytes lie in the client's socket.
func (a *attemptBody) CanSplice() bool {
	src, ok := a.b.src.(spliceable)
	return ok && !a.over.Load() && a.b.unseen(a.off) && src.CanSplice()
}

// SpliceTo moves a part of the body to dst.
func (a *attemptBody) SpliceTo(dst *net.TCPConn, most int64) (int64, error) {
	b := a.b
	src, ok := b.src.(spliceable)
	if !ok || a.over.Load() {
		return 0, nil
	}
	b.reading.Lock()
	defer b.reading.Unlock()
	if !b.unseen(a.off) {
		return 0, nil
	}
	n, err := src.SpliceTo(dst, most)
	a.off += n
	b.received.Add(n)
	return n, err
}

// unseen says that what comes after off has to be neither kept nor copied.
func (b *clientBody) unseen(off int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.keep && len(b.kept) == 0 && len(b.tees) == 0 && b.err == nil && off == b.received.Load()
}

func (a *attemptBody) Close() error {
	a.over.Store(true)
	return nil
}

// prefixed is a body of which the first byte was read to see whether there is one.
type prefixed struct {
	first []byte
	rest  io.Reader
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.rest.Read(b)
}

// bodyOf returns r's body, or nil if it has none. HTTP/3 requests that give no
// content-length may have a body or not, and only reading tells: with a method that
// seldom has one, the first byte or the end of the stream is awaited, so that a
// request without a body is none for the backend either.
func bodyOf(r *http.Request) (io.Reader, error) {
	if !hasBody(r) {
		return nil, nil
	}
	if r.ProtoMajor != 3 || r.ContentLength > 0 || r.Method == http.MethodConnect {
		return r.Body, nil
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete, http.MethodTrace:
	default:
		return r.Body, nil
	}
	first := make([]byte, 1)
	switch n, err := io.ReadFull(r.Body, first); {
	case n == 1:
		return &prefixed{first: first, rest: r.Body}, nil
	case err == io.EOF:
		return nil, nil
	default:
		return nil, err
	}
}
