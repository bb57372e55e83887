package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Stream is one CONNECT stream, at either end. It is a [net.Conn] with
// CloseWrite; [Splice] is the fast way to join it to a socket.
//
// A server's handler gets a Stream that is not answered yet: exactly one of
// Accept and Reject comes first. A client's Stream has been accepted.
//
// Read and Write may be called by one goroutine each at a time. Close ends
// both directions: if both have ended it is a plain end, otherwise the peer
// sees a reset, because a TCP connection with bytes missing must not look whole.
type Stream struct {
	c      *conn
	id     uint32
	req    Request
	ctx    context.Context
	cancel context.CancelFunc

	ended    atomic.Uint32 // endedRecv, endedSend; both: removed from the tunnel
	sent     atomic.Int64  // payload bytes
	received atomic.Int64

	mu       sync.Mutex // guards the receiving side
	recvCond sync.Cond
	status   int // of the answer; client: received, server: sent
	answer   []Header
	q        queue
	window   int64     // stream window that we grant
	avail    int64     // of it, what the peer may still send
	drained  int64     // taken by the destination and not yet returned as credit
	creditAt time.Time // when credit was last returned
	grown    int64     // taken from the process's window budget
	recvEnd  bool      // END_STREAM received
	recvErr  error
	eof      bool // everything received has been taken, END_STREAM included
	recvDone bool // a splice has told its socket so
	sink     *sink
	draining bool // somebody is writing to the sink
	rdl, wdl deadline

	// Guarded by conn.w.mu: the sending side.
	sendCond  sync.Cond
	credit    int64
	roomHeld  int
	roomWant  int
	queued    int // buffers waiting for the wire
	prioGen   uint64
	waiting   bool // in writer.waiters
	starved   bool // in writer.starved
	resetSent bool // nothing more may be sent
	endQueued bool // END_STREAM is in the line
	sendErr   error
}

const (
	endedRecv = 1 << iota
	endedSend
	endedBoth = endedRecv | endedSend
)

func newStream(c *conn) *Stream {
	s := &Stream{c: c, window: c.opt.streamWindow, avail: c.opt.streamWindow, creditAt: time.Now()}
	s.recvCond.L = &s.mu
	s.sendCond.L = &c.w.mu
	if !c.client {
		s.ctx, s.cancel = context.WithCancel(c.ctx)
	}
	return s
}

// Request is the CONNECT request.
func (s *Stream) Request() *Request { return &s.req }

// ResponseHeader is the header of the peer's 200 (client only).
func (s *Stream) ResponseHeader() []Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer
}

// ConnectionState is that of the tunnel's TLS connection.
func (s *Stream) ConnectionState() tls.ConnectionState { return s.c.state }

// LocalAddr is the tunnel's local address.
func (s *Stream) LocalAddr() net.Addr { return s.c.wire.LocalAddr() }

// RemoteAddr is the tunnel's remote address.
func (s *Stream) RemoteAddr() net.Addr { return s.c.wire.RemoteAddr() }

// Bytes is how much payload the stream has sent and received so far.
func (s *Stream) Bytes() (sent, received int64) { return s.sent.Load(), s.received.Load() }

// Accept answers 200: the destination is reached.
func (s *Stream) Accept(hs ...Header) error { return s.respond(200, hs) }

// Reject answers with another status and ends the stream.
func (s *Stream) Reject(status int, hs ...Header) error { return s.respond(status, hs) }

func (s *Stream) respond(status int, hs []Header) error {
	s.mu.Lock()
	if s.status != 0 || s.c.client {
		s.mu.Unlock()
		return errAnswered
	}
	if s.recvErr != nil {
		s.mu.Unlock()
		return s.recvErr
	}
	s.status = status
	s.mu.Unlock()

	refused := status < 200 || status > 299
	block := appendStatus(make([]byte, 0, 128), status, hs)
	w := &s.c.w
	w.mu.Lock()
	if err := s.sendErr; err != nil {
		w.mu.Unlock()
		return err
	}
	w.prio = appendHeaders(w.frames(), s.id, block, refused)
	if refused {
		s.endQueued = true
		s.sendErr = errStreamClosed
		if s.ended.Load()&endedRecv == 0 {
			w.prio = appendRSTStream(w.frames(), s.id, http2.ErrCodeNo) // the peer need not send the rest
			s.resetSent = true
		}
	}
	w.writeOrLeaveLocked(s)
	if refused {
		s.endReceive(errStreamClosed)
		s.markEnded(endedBoth)
	}
	return nil
}

// answered notes the peer's final answer; false if there was one before.
func (s *Stream) answered(status int, hs []Header) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status != 0 {
		return false
	}
	s.status, s.answer = status, hs
	s.recvCond.Broadcast()
	return true
}

// awaitAnswer waits for the peer's answer to a CONNECT.
func (s *Stream) awaitAnswer(ctx context.Context, deadline time.Time) error {
	wake := func() {
		s.mu.Lock()
		s.recvCond.Broadcast()
		s.mu.Unlock()
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, wake)
		defer stop()
	}
	timer := time.AfterFunc(time.Until(deadline), wake)
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.status == 0 {
		if s.recvErr != nil {
			return s.recvErr
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !time.Now().Before(deadline) {
			return errDialTimeout
		}
		s.recvCond.Wait()
	}
	if s.status < 200 || s.status > 299 {
		return &StatusError{Status: s.status, Header: s.answer}
	}
	return nil
}

// Read reads what the peer sent. It returns io.EOF after END_STREAM and a
// *ResetError after a reset, never the one for the other.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	for s.q.size == 0 {
		switch {
		case s.recvErr != nil:
			s.mu.Unlock()
			return 0, s.recvErr
		case s.recvEnd:
			s.eof = true
			s.mu.Unlock()
			s.markEnded(endedRecv)
			return 0, io.EOF
		case s.rdl.passed():
			s.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			s.mu.Unlock()
			return 0, nil
		}
		s.recvCond.Wait()
	}
	n := s.q.pop(p)
	credit := s.takenLocked(int64(n))
	s.mu.Unlock()
	s.returnCredit(credit, false)
	return n, nil
}

// Write sends p. It waits for the peer's credit and for room in the tunnel.
func (s *Stream) Write(p []byte) (n int, err error) {
	w := &s.c.w
	for len(p) > 0 {
		class := classFor(len(p))
		want := min(len(p), payloadCap(class))
		quiet := want <= smallData
		got, err := w.reserve(s, want, quiet, s.writeDeadline)
		if err != nil {
			return n, err
		}
		b := getBuffer(class)
		b.n = copy(b.space()[:got], p)
		p = p[b.n:]
		m := b.n
		if err := w.data(s, b, got); err != nil {
			return n, err
		}
		n += m
		s.sent.Add(int64(m))
	}
	return n, nil
}

// CloseWrite sends END_STREAM: the peer sees the end of what was written and
// may go on sending.
func (s *Stream) CloseWrite() error {
	w := &s.c.w
	w.mu.Lock()
	if s.sendErr != nil || s.endQueued {
		err := s.sendErr
		w.mu.Unlock()
		if err == errStreamClosed {
			err = nil
		}
		return err
	}
	w.mu.Unlock()
	b := getBuffer(classSmall)
	b.end = true
	if err := w.data(s, b, 0); err != nil {
		return err
	}
	w.endSend(s, errStreamClosed)
	s.markEnded(endedSend)
	return nil
}

// Close ends the stream: with a reset (CANCEL) unless both directions have
// ended. It does not wait for the peer.
func (s *Stream) Close() error {
	s.mu.Lock()
	unanswered := s.status == 0 && !s.c.client
	whole := s.recvEnd && s.q.size == 0
	s.mu.Unlock()
	if whole && !unanswered && s.ended.Load()&endedSend == 0 {
		// Nothing more is to come: an end is not a lie.
		s.CloseWrite()
	}
	if whole {
		s.markEnded(endedRecv)
	}
	if s.ended.Load() != endedBoth {
		s.reset(http2.ErrCodeCancel, errStreamClosed)
	}
	return nil
}

// Reset ends both directions with RST_STREAM; the peer turns it into a TCP
// reset. Reads and writes return a *ResetError from now on.
func (s *Stream) Reset(code http2.ErrCode) { s.reset(code, &ResetError{Code: code}) }

func (s *Stream) reset(code http2.ErrCode, err error) {
	w := &s.c.w
	w.mu.Lock()
	send := !s.resetSent && w.err == nil && s.ended.Load() != endedBoth
	s.resetSent = true
	if send {
		w.prio = appendRSTStream(w.frames(), s.id, code)
	}
	if send {
		s.sendErr = err
	}
	w.endSendLocked(s, err)
	if send {
		w.writeOrLeaveLocked(s)
	} else {
		w.mu.Unlock()
	}
	s.endReceive(err)
	s.markEnded(endedBoth)
}

// resetLater is Reset for the reader, which must not write.
func (s *Stream) resetLater(code http2.ErrCode) {
	w := &s.c.w
	w.mu.Lock()
	send := !s.resetSent && w.err == nil
	s.resetSent = true
	if send {
		w.prio = appendRSTStream(w.frames(), s.id, code)
	}
	w.mu.Unlock()
	s.abort(&ResetError{Code: code})
}

// peerReset handles the peer's RST_STREAM.
func (s *Stream) peerReset(code http2.ErrCode) {
	err := &ResetError{Code: code, Remote: true}
	s.c.w.mu.Lock()
	s.resetSent = true // what waits for the wire is of no use any more
	s.c.w.mu.Unlock()
	s.mu.Lock()
	ended := s.recvEnd
	s.mu.Unlock()
	if ended && code == http2.ErrCodeNo {
		// The peer has sent all that it had and wants no more (RFC 9113
		// section 8.1): what it sent still counts.
		s.c.w.endSend(s, err)
		s.markEnded(endedSend)
		s.stopSource()
		return
	}
	s.abort(err)
}

// abort ends both directions with err and tells the peer nothing.
func (s *Stream) abort(err error) {
	s.c.w.endSend(s, err)
	s.endReceive(err)
	s.markEnded(endedBoth)
}

// markEnded notes that directions have ended; with both, the tunnel forgets the stream.
func (s *Stream) markEnded(what uint32) {
	old := s.ended.Or(what)
	if old != endedBoth && old|what == endedBoth {
		if s.cancel != nil {
			s.cancel()
		}
		s.releaseWindow()
		s.c.remove(s)
	}
}

func (s *Stream) removed() bool { return s.ended.Load() == endedBoth }

func (s *Stream) answeredOK() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status == 200
}

func (s *Stream) peerEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recvEnd
}

// SetDeadline sets both deadlines; see net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of Read.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rdl.set(t, func() { s.mu.Lock(); s.recvCond.Broadcast(); s.mu.Unlock() })
	s.recvCond.Broadcast()
	return nil
}

// SetWriteDeadline sets the deadline of Write.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	wake := func() { s.c.w.mu.Lock(); s.sendCond.Broadcast(); s.c.w.mu.Unlock() }
	s.wdl.set(t, wake)
	wake()
	return nil
}

// writeDeadline is called with writer.mu held; wdl has a lock of its own.
func (s *Stream) writeDeadline() error {
	if s.wdl.passed() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// deadline is a point in time that wakes a waiter.
type deadline struct {
	at    atomic.Int64 // Unix nanoseconds; 0 = none
	timer *time.Timer
}

func (d *deadline) set(t time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if t.IsZero() {
		d.at.Store(0)
		return
	}
	d.at.Store(t.UnixNano())
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, wake)
	}
}

func (d *deadline) passed() bool {
	at := d.at.Load()
	return at != 0 && time.Now().UnixNano() >= at
}
