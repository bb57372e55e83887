package h2

import (
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// sending is what a stream has to send. It is guarded by conn.mu.
//
// What the handler writes is not copied before it is its turn: head and tail lie in
// the stream's own buffer and in the handler's slice, and the handler waits until
// all of it is taken. So a stream that cannot send holds one buffer.
type sending struct {
	s    *stream
	cond sync.Cond // all was taken, or the stream is over

	head, tail []byte  // DATA to send
	end        bool    // END_STREAM follows
	trailer    *fields // goes with it; nil: none
	hold       *buffer // that head lies in, when the handler has returned

	window  int64
	urgency uint8
	next    *sending
	queued  bool // in a line of the writer
	ended   bool // END_STREAM is on its way
	err     error

	since time.Time // when the window was found shut; zero: it is not
	taken int       // since then
	moved bool      // something was sent since the last look
	dl    deadline
}

func (q *sending) init(s *stream) {
	q.s = s
	q.cond.L = &s.c.mu
	q.urgency = defaultUrgency
}

func (q *sending) pending() int { return len(q.head) + len(q.tail) }

// enough is how much a client has to take of a stalled stream to be given more time.
const enough = 1 << 10

// frameLocked appends one frame of DATA to the writer's batch, and what follows on
// the last.
func (q *sending) frameLocked() {
	w := &q.s.c.w
	n := min(q.pending(), quantum)
	n = int(min(int64(n), int64(max(batchBytes-frameHeaderLen-len(w.out), 0)), q.window, w.window))
	if q.pending() > 0 && n <= 0 {
		q.blockLocked()
		return
	}
	last := n == q.pending()
	if n > 0 || q.end && q.trailer == nil {
		end := last && q.end && q.trailer == nil
		flags := byte(0)
		if end {
			flags = flagEndStream
		}
		w.growLocked(frameHeaderLen + n)
		b := appendFrameHeader(w.out, n, frameData, flags, q.s.id)
		k := min(n, len(q.head))
		b = append(b, q.head[:k]...)
		b = append(b, q.tail[:n-k]...)
		q.head, q.tail = q.head[k:], q.tail[n-k:]
		q.window -= int64(n)
		w.window -= int64(n)
		w.since = time.Time{}
		q.moved = true
		if !q.since.IsZero() {
			if q.taken += n; q.taken >= enough || last {
				q.since, q.taken = time.Time{}, 0
			}
		}
		if end {
			b = q.s.sentEndLocked(b)
		}
		w.out = b
	}
	if !last {
		if q.window > 0 {
			w.enqueueLocked(q)
		} else {
			q.blockLocked()
		}
		return
	}
	if q.end && q.trailer != nil {
		t := q.trailer
		q.trailer = nil
		w.headersLocked(q.s.id, 0, t, true)
		putFields(t)
		w.out = q.s.sentEndLocked(w.out)
	}
	q.cond.Broadcast()
}

// dueLocked lines the stream up after there is something new to send.
func (q *sending) dueLocked() {
	switch {
	case q.pending() == 0:
		q.frameLocked() // nothing that windows are for
	case q.window > 0:
		q.s.c.w.enqueueLocked(q)
	default:
		q.blockLocked()
	}
}

// blockLocked notes that the stream waits for the client to open its window.
func (q *sending) blockLocked() {
	if q.since.IsZero() {
		q.since, q.taken = time.Now(), 0
		q.s.c.watchLocked(q.since, q.s.c.s.writeTimeout())
	}
}

// widenLocked adds n, which may be negative, to the window.
func (q *sending) widenLocked(n int64) {
	q.window += n
	if q.window > 0 && q.pending() > 0 && !q.ended {
		q.s.c.w.enqueueLocked(q)
	}
}

// waitLocked sends what is pending: by itself if nobody writes, and else it waits
// until it is taken. What is not taken when it fails is withdrawn.
func (q *sending) waitLocked() error {
	c := q.s.c
	for q.pending() > 0 && q.err == nil && c.err == nil {
		switch {
		case q.dl.passed:
			// What was sent of it cannot be taken back, and what comes next would
			// not follow on it.
			c.resetLocked(q.s, http2.ErrCodeInternal, os.ErrDeadlineExceeded)
			c.flushLocked()
		case !c.w.busy && c.w.workLocked():
			c.w.writeLocked(q)
		default:
			q.cond.Wait()
		}
	}
	if q.err == nil && c.err != nil {
		q.failLocked(c.err)
	}
	return q.err
}

// failLocked ends sending with err.
func (q *sending) failLocked(err error) {
	if q.err == nil {
		q.err = err
	}
	q.head, q.tail = nil, nil
	q.since = time.Time{}
	q.dl.stop()
	q.cond.Broadcast()
}

// freeLocked lets go of what a stream held that is over.
func (q *sending) freeLocked() {
	putBuffer(q.hold)
	q.hold = nil
	if q.trailer != nil {
		putFields(q.trailer)
		q.trailer = nil
	}
}
