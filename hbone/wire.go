package hbone

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// wireRecord is the longest TLS record with some room for rounding: RFC 8446
// section 5.2 allows 256 bytes beside the payload.
const wireRecord = recordSize + 256

// readChunk is how much fill reads: the first record. What follows is read into
// crypto/tls's own buffer, without a copy.
const readChunk = wireRecord

// mergeBytes is how many bytes of TLS records are gathered for one write: two
// full records. Four took a tenth more CPU with eight streams.
const mergeBytes = 2 * wireRecord

// wire is the TCP connection under the TLS one. It stands between the two
// because crypto/tls asks for one record at a time, in both directions: wire
// reads and writes several for a system call, and lets the reader find out
// whether another record is at hand without waiting for it.
type wire struct {
	net.Conn
	raw   syscall.RawConn // nil when Conn is not a socket
	born  time.Time
	since atomic.Int64 // when the write in progress began, nanoseconds since born; 0 = none

	// The reader's own.
	polled  bool    // Read answers errNothingAtHand instead of waiting
	in      *[]byte // nil while nothing is buffered
	r, n    int
	fillErr error
	fillFn  func(fd uintptr) bool
	records recordCounter

	// Reading into crypto/tls's buffer.
	direct  []byte
	directN int
	drained bool // the last read of the socket did not fill what it was given
	pollFn  func(fd uintptr) bool

	mu      sync.Mutex // guards the rest; the peer's KeyUpdate makes the reader write
	merging bool
	out     []byte
	outErr  error
	tryFn   func(fd uintptr) bool
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c, born: time.Now()}
	if sc, ok := c.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			w.raw = raw
			w.fillFn = w.fillOnce
			w.pollFn = w.pollOnce
			w.tryFn = w.tryOnce
		}
	}
	return w
}

// errNothingAtHand is a temporary net.Error, so that crypto/tls keeps a record
// that has arrived in part and goes on with it at the next Read.
var errNothingAtHand net.Error = nothingAtHand{}

type nothingAtHand struct{}

func (nothingAtHand) Error() string   { return "hbone: no complete TLS record at hand" }
func (nothingAtHand) Timeout() bool   { return true }
func (nothingAtHand) Temporary() bool { return true }

var chunkPool = sync.Pool{New: func() any { b := make([]byte, readChunk); return &b }}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.read(p)
	w.records.add(p[:n])
	return n, err
}

func (w *wire) read(p []byte) (n int, err error) {
	switch {
	case w.n > w.r:
		n = copy(p, (*w.in)[w.r:w.n])
		w.r += n
		if w.r == w.n {
			w.release()
		}
		return n, nil
	case !w.polled:
		return w.Conn.Read(p)
	case w.raw != nil && !w.drained && len(p) >= recordSize:
		if n, err = w.poll(p); n > 0 || err != nil {
			return n, err
		}
	}
	w.records.whole = 0
	return 0, errNothingAtHand
}

// poll reads what the socket has at once, 0 if nothing.
func (w *wire) poll(p []byte) (int, error) {
	w.direct, w.directN, w.fillErr = p, 0, nil
	err := w.raw.Read(w.pollFn)
	w.direct = nil
	if err == nil {
		err = w.fillErr
	}
	w.drained = w.directN < len(p)
	return w.directN, err
}

func (w *wire) pollOnce(fd uintptr) bool {
	n, err := syscall.Read(int(fd), w.direct)
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR:
	case err != nil:
		w.fillErr = w.readError(err)
	case n == 0:
		w.fillErr = io.EOF
	default:
		w.directN = n
	}
	return true
}

func (w *wire) readError(err error) error {
	return &net.OpError{Op: "read", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: err}
}

// took notes that a record has been decrypted, and reports whether another may
// be at hand. It may be wrong only in saying yes.
func (w *wire) took() (more bool) {
	w.records.whole = max(w.records.whole-1, 0)
	return w.records.whole > 0 || w.n > w.r || !w.drained
}

// recordCounter counts the TLS records (RFC 8446 section 5.1) that crypto/tls
// has been given whole and not yet decrypted, as far as can be known from here.
type recordCounter struct {
	whole  int
	header [5]byte
	have   int // bytes of header
	left   int // bytes of the record's body to come
}

func (c *recordCounter) add(p []byte) {
	for len(p) > 0 {
		if c.have < len(c.header) {
			n := copy(c.header[c.have:], p)
			c.have += n
			p = p[n:]
			if c.have < len(c.header) {
				return
			}
			c.left = int(c.header[3])<<8 | int(c.header[4])
		}
		n := min(c.left, len(p))
		c.left -= n
		p = p[n:]
		if c.left == 0 {
			c.whole++
			c.have = 0
		}
	}
}

// fill waits until the socket has bytes and reads what it has. While it waits
// it holds no buffer.
func (w *wire) fill() error {
	if w.raw == nil {
		w.take()
		n, err := w.Conn.Read(*w.in)
		if n > 0 {
			w.n = n
			return nil
		}
		w.release()
		if err == nil {
			err = io.ErrNoProgress
		}
		return err
	}
	w.fillErr = nil
	w.drained = false
	if err := w.raw.Read(w.fillFn); err != nil {
		return err
	}
	return w.fillErr
}

func (w *wire) fillOnce(fd uintptr) bool {
	w.take()
	for {
		n, err := syscall.Read(int(fd), *w.in)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			w.release()
			return false
		case err != nil:
			w.release()
			w.fillErr = w.readError(err)
		case n == 0:
			w.release()
			w.fillErr = io.EOF
		default:
			w.n = n
			w.drained = n < len(*w.in)
		}
		return true
	}
}

func (w *wire) take() {
	if w.in == nil {
		w.in = chunkPool.Get().(*[]byte)
	}
	w.r, w.n = 0, 0
}

func (w *wire) release() {
	w.r, w.n = 0, 0
	if w.in != nil {
		chunkPool.Put(w.in)
		w.in = nil
	}
}

var outPool = slicePool{size: mergeBytes}

// merge gathers what is written until flush.
func (w *wire) merge() {
	w.mu.Lock()
	w.merging = true
	w.mu.Unlock()
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outErr != nil {
		return 0, w.outErr
	}
	if !w.merging {
		return w.write(p)
	}
	if w.out == nil {
		w.out = outPool.get()
	}
	if len(w.out)+len(p) > cap(w.out) {
		if err := w.flushLocked(); err != nil {
			return 0, err
		}
	}
	w.out = append(w.out, p...)
	return len(p), nil
}

// flush writes what merge gathered.
func (w *wire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.merging = false
	err := w.flushLocked()
	w.releaseOutLocked()
	return err
}

// tryFlush writes what merge gathered, as far as the socket takes it at once.
// If it is not done, flush must follow.
func (w *wire) tryFlush() (done bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outErr == nil && len(w.out) > 0 {
		if err := w.raw.Write(w.tryFn); err != nil && w.outErr == nil {
			w.outErr = err
		}
	}
	if w.outErr == nil && len(w.out) > 0 {
		return false, nil
	}
	w.merging = false
	w.releaseOutLocked()
	return true, w.outErr
}

// tryOnce is called with mu held, by tryFlush.
func (w *wire) tryOnce(fd uintptr) bool {
	n, err := syscall.Write(int(fd), w.out)
	switch {
	case err == syscall.EAGAIN || err == syscall.EINTR: // the rest is flush's
	case err != nil:
		w.outErr = &net.OpError{Op: "write", Net: "tcp", Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: err}
	default:
		w.out = w.out[:copy(w.out, w.out[n:])]
	}
	return true
}

func (w *wire) releaseOutLocked() {
	if w.out != nil {
		outPool.put(w.out)
		w.out = nil
	}
}

func (w *wire) flushLocked() error {
	if w.outErr != nil || len(w.out) == 0 {
		return w.outErr
	}
	_, w.outErr = w.write(w.out)
	w.out = w.out[:0]
	return w.outErr
}

// write waits for the peer to read. How long it has waited is what stuck says.
func (w *wire) write(p []byte) (int, error) {
	w.since.Store(max(int64(time.Since(w.born)), 1))
	defer w.since.Store(0)
	return w.Conn.Write(p)
}

// stuck is how long the write in progress has taken so far, 0 if there is none.
func (w *wire) stuck() time.Duration {
	at := w.since.Load()
	if at == 0 {
		return 0
	}
	return time.Since(w.born) - time.Duration(at)
}

// lastWords bounds how long a farewell (GOAWAY, close_notify) may hold up the
// closing of a connection.
const lastWords = time.Second
