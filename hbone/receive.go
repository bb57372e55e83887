package hbone

import (
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// windowBudget is how far, in bytes, all streams of the process together may
// grow beyond their first windows: the price of destinations that read fast and
// then stop.
var windowBudget = newBudget(32 << 20)

type budget struct{ left atomic.Int64 }

func newBudget(n int64) *budget {
	b := new(budget)
	b.left.Store(n)
	return b
}

func (b *budget) take(n int64) bool {
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

func (b *budget) give(n int64) { b.left.Add(n) }

// startData accounts for a DATA frame of n bytes, padding included. It returns
// the code to reset the stream with, 0 for none.
func (s *Stream) startData(n int64) http2.ErrCode {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recvEnd {
		return http2.ErrCodeStreamClosed
	}
	if n > s.avail {
		return http2.ErrCodeFlowControl
	}
	if s.c.client && s.status == 0 {
		return http2.ErrCodeProtocol // DATA before the answer
	}
	s.avail -= n
	return 0
}

// returnPadding makes up for padding, which nobody will take.
func (s *Stream) returnPadding(n int64) {
	s.mu.Lock()
	credit := s.takenLocked(n)
	s.mu.Unlock()
	s.returnCredit(credit, true)
}

// receive takes DATA payload, and END_STREAM. It is called by the tunnel's
// reader and never blocks: what the destination does not take at once is
// queued, within the stream's window.
func (s *Stream) receive(p []byte, end bool) {
	var credit int64
	s.mu.Lock()
	if s.recvErr != nil {
		s.mu.Unlock()
		return
	}
	s.received.Add(int64(len(p)))
	if len(p) > 0 && s.sink != nil && !s.draining && s.q.size == 0 {
		k := s.sink
		s.draining = true
		s.mu.Unlock()
		n, err := k.tryWrite(p)
		s.mu.Lock()
		s.draining = false
		if err != nil {
			s.mu.Unlock()
			s.sinkFailed(err, true)
			return
		}
		if s.recvErr != nil {
			s.recvCond.Broadcast() // Splice waits for us
			s.mu.Unlock()
			return
		}
		credit = s.takenLocked(int64(n))
		p = p[n:]
	}
	s.q.push(p)
	if end {
		s.recvEnd = true
	}
	s.advanceLocked()
	s.returnCredit(credit, true)
}

// advanceLocked moves on what has been received: wakes a Read, starts the
// drainer, or ends the destination's input. It unlocks mu.
func (s *Stream) advanceLocked() {
	k := s.sink
	if k == nil {
		s.recvCond.Broadcast()
		s.mu.Unlock()
		return
	}
	if s.draining || s.recvErr != nil {
		s.mu.Unlock()
		return
	}
	if s.q.size > 0 {
		s.draining = s.c.spawn(s.drain)
		s.mu.Unlock()
		return
	}
	if !s.recvEnd || s.eof {
		s.mu.Unlock()
		return
	}
	s.eof = true
	s.mu.Unlock()
	// With its own end seen, the socket is simply closed. If its owner has closed
	// it with bytes unread it has been reset by now; it took every byte all the
	// same, and both directions have come to their end.
	if !k.sourceDone() {
		if err := k.conn.CloseWrite(); err != nil && !(errors.Is(err, syscall.ENOTCONN) && k.sourceDone()) {
			s.sinkFailed(err, true)
			return
		}
	}
	s.mu.Lock()
	s.recvDone = true
	s.recvCond.Broadcast()
	s.mu.Unlock()
	s.markEnded(endedRecv)
	k.inputEnded()
}

// drain writes what is queued to a destination that does not keep up. One
// drainer runs at a time, and only while there is something queued.
func (s *Stream) drain() {
	k := s.sink
	for {
		s.mu.Lock()
		if s.recvErr != nil {
			s.draining = false
			s.recvCond.Broadcast()
			s.mu.Unlock()
			return
		}
		b := s.q.take()
		if b == nil {
			s.draining = false
			s.advanceLocked()
			return
		}
		s.mu.Unlock()
		n, err := k.conn.Write(b.payload())
		putBuffer(b)
		if err != nil {
			s.mu.Lock()
			s.draining = false
			s.mu.Unlock()
			s.sinkFailed(err, false)
			return
		}
		s.mu.Lock()
		credit := s.takenLocked(int64(n))
		s.mu.Unlock()
		s.returnCredit(credit, false)
	}
}

// windowTime is how long a window lasts a stream at its own pace before it stops
// growing: long against a round trip, and rare enough that returning credit
// costs nothing.
const windowTime = 5 * time.Millisecond

// takenLocked notes that the destination took n bytes and returns the credit
// that is due to the peer, in steps of half the window.
func (s *Stream) takenLocked(n int64) (credit int64) {
	if s.recvEnd || s.recvErr != nil {
		return 0
	}
	s.drained += n
	if s.drained < s.window/2 {
		return 0
	}
	now := time.Now()
	// A destination that keeps up gets a larger window; the process's budget
	// bounds what it costs when it then stops.
	if now.Sub(s.creditAt) < windowTime/2 && s.q.size == 0 && s.window < MaxStreamWindow {
		if more := min(s.window, MaxStreamWindow-s.window); windowBudget.take(more) {
			s.window += more
			s.grown += more
			s.drained += more
		}
	}
	s.creditAt = now
	credit = s.drained
	s.drained = 0
	s.avail += credit
	return credit
}

// returnCredit sends the peer n bytes of stream credit. Only the reader, which
// must not write, sets later.
func (s *Stream) returnCredit(n int64, later bool) {
	if n == 0 {
		return
	}
	add := func(b []byte) []byte { return appendWindowUpdate(b, s.id, n) }
	if later {
		s.c.w.later(add)
	} else {
		s.c.w.control(add)
	}
}

// taken says whether the peer has ended and the destination has taken all.
func (s *Stream) taken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recvEnd && s.recvErr == nil && s.q.size == 0 && !s.draining
}

// endReceive ends the receiving side with err, unless it has failed before.
func (s *Stream) endReceive(err error) {
	s.mu.Lock()
	if s.recvErr == nil {
		s.recvErr = err
		s.q.clear()
	}
	k, whole := s.sink, s.wholeLocked()
	s.recvCond.Broadcast()
	s.mu.Unlock()
	if k != nil && !whole {
		k.reset()
	}
}

// wholeLocked says whether both directions had come to their ends, and the socket
// of a splice has been told.
func (s *Stream) wholeLocked() bool { return s.recvDone && s.ended.Load() == endedBoth }

// sinkFailed ends the stream because its destination is gone.
func (s *Stream) sinkFailed(err error, reader bool) {
	s.mu.Lock()
	if s.recvErr == nil {
		s.recvErr = err
		s.q.clear()
	}
	s.recvCond.Broadcast()
	s.mu.Unlock()
	if reader {
		s.resetLater(http2.ErrCodeConnect)
	} else {
		s.reset(http2.ErrCodeConnect, err)
	}
}

// stopSource makes a splice stop reading its socket.
func (s *Stream) stopSource() {
	s.mu.Lock()
	k := s.sink
	s.mu.Unlock()
	if k != nil {
		k.conn.CloseRead()
	}
}

// spawn runs f in a goroutine that the tunnel waits for; false when the tunnel
// has failed.
func (c *conn) spawn(f func()) bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.err != nil {
		return false
	}
	c.wg.Go(f)
	return true
}
