package h2

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// body is a request's body. What the client sends goes to the Read that waits for
// it, or else into a buffer that is no longer than the stream's window. All of it is
// guarded by conn.mu.
type body struct {
	s    *stream
	cond sync.Cond // there is something to read, or an end

	buf      *buffer // nil: nothing is buffered
	r, n     int     // buf.b[r:n] is to be read
	dst      []byte  // of a Read that waits
	got      int     // bytes in dst
	window   int64   // that the client has
	size     int64   // that the window has when nothing is buffered
	owed     int64   // credit of the stream to return
	deferred int64   // credit of the connection to return when read
	grown    int64   // of Server.GrowthBudget
	length   int64   // content-length, -1 = none
	received int64
	read     int64

	ended   bool  // all of it has come
	err     error // of Read, after what is buffered
	closed  bool  // by the handler
	expect  bool  // the client waits for 100 Continue
	bounded bool  // by Server.BodyTimeout
	waiting time.Time
	dl      deadline
	trailer http.Header
}

func (b *body) initLocked(s *stream, length int64) {
	b.s = s
	b.cond.L = &s.c.mu
	b.length = length
	b.size = s.c.s.streamWindow()
	b.window = b.size
}

// Read reads the body. If the client waits for it, the first Read sends 100
// Continue, unless the answer has begun.
func (b *body) Read(p []byte) (int, error) {
	c := b.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.expect {
		b.expect = false
		b.s.continueLocked()
	}
	for b.n == b.r {
		if err := b.endLocked(); err != nil {
			return 0, err
		}
		if b.dl.passed {
			return 0, os.ErrDeadlineExceeded
		}
		if b.dst != nil {
			return 0, errors.New("h2: concurrent reads of a body")
		}
		b.dst, b.got = p, 0
		if b.bounded {
			b.waiting = time.Now()
			c.watchLocked(b.waiting, c.s.bodyTimeout())
		}
		for b.got == 0 && b.endLocked() == nil && !b.closed && !b.dl.passed {
			b.cond.Wait()
		}
		n := b.got
		b.dst, b.got, b.waiting = nil, 0, time.Time{}
		if n > 0 {
			b.takenLocked(n)
			return n, b.eofLocked()
		}
		if b.closed {
			return 0, http.ErrBodyReadAfterClose
		}
	}
	n := copy(p, b.buf.b[b.r:b.n])
	if b.r += n; b.r == b.n {
		b.dropLocked()
	}
	b.takenLocked(n)
	return n, b.eofLocked()
}

// endLocked is what Read ends with when nothing is buffered, nil if it has to wait.
func (b *body) endLocked() error {
	if b.err != nil {
		return b.err
	}
	if !b.ended {
		return nil
	}
	if b.trailer != nil {
		if t := b.s.req.Trailer; t == nil {
			b.s.req.Trailer = b.trailer
		} else {
			for name, values := range b.trailer {
				t[name] = values
			}
		}
		b.trailer = nil
	}
	return io.EOF
}

// eofLocked lets the end come with the last bytes.
func (b *body) eofLocked() error {
	if b.n > b.r || b.err != nil {
		return nil
	}
	return b.endLocked()
}

// takenLocked counts n bytes that the handler has taken, and returns their credit.
func (b *body) takenLocked(n int) {
	c := b.s.c
	b.read += int64(n)
	c.s.unread.Add(-int64(n))
	if d := min(b.deferred, int64(n)); d > 0 {
		b.deferred -= d
		c.owed += d
	}
	b.returnLocked(int64(n))
	c.flushLocked()
}

// returnLocked returns n bytes of the stream's credit, in steps.
func (b *body) returnLocked(n int64) {
	if b.owed += n; b.owed < b.size/2 || b.ended || b.s.gone {
		return
	}
	c := b.s.c
	// A handler that has taken all there was keeps up: more may be on its way.
	if b.n == b.r && b.size < 16*c.s.streamWindow() && c.s.grown.Add(b.size) <= c.s.growthBudget() {
		b.grown += b.size
		b.owed += b.size
		b.size *= 2
	} else if b.n == b.r && b.size < 16*c.s.streamWindow() {
		c.s.grown.Add(-b.size)
	}
	c.w.out = appendWindowUpdate(c.w.out, b.s.id, b.owed)
	b.window += b.owed
	b.owed = 0
}

// expectLocked accounts for a DATA frame of n bytes, payload of them payload. It
// returns the code to reset the stream with.
func (b *body) expectLocked(n, payload int64) http2.ErrCode {
	switch {
	case b.ended:
		return http2.ErrCodeStreamClosed
	case n > b.window:
		return http2.ErrCodeFlowControl
	case b.length >= 0 && payload > b.length-b.received:
		b.s.malformed = true
		return http2.ErrCodeProtocol
	}
	b.window -= n
	b.received += payload
	return http2.ErrCodeNo
}

// receiveLocked takes a part of the body.
func (b *body) receiveLocked(p []byte) {
	c := b.s.c
	if b.s.gone || b.closed || b.err != nil {
		// Nobody will read it. The stream's credit is not returned: the client need
		// not send more.
		c.owed += int64(len(p))
		return
	}
	if len(p) == 0 {
		return
	}
	if c.s.unread.Add(int64(len(p))) > c.s.maxUnread() {
		b.deferred += int64(len(p))
	} else {
		c.owed += int64(len(p))
	}
	if b.dst != nil && b.n == b.r && b.got < len(b.dst) {
		k := copy(b.dst[b.got:], p)
		b.got += k
		p = p[k:]
		b.cond.Signal()
	}
	if len(p) > 0 {
		b.bufferLocked(p)
	}
}

func (b *body) bufferLocked(p []byte) {
	have := b.n - b.r
	if b.buf == nil || b.n+len(p) > len(b.buf.b) {
		to := b.buf
		if to == nil || have+len(p) > len(to.b) {
			to = getBuffer(have + len(p))
		}
		if b.buf != nil {
			copy(to.b, b.buf.b[b.r:b.n])
			if to != b.buf {
				putBuffer(b.buf)
			}
		}
		b.buf, b.r, b.n = to, 0, have
	}
	b.n += copy(b.buf.b[b.n:], p)
}

// dropLocked lets go of the buffer and what is in it.
func (b *body) dropLocked() {
	putBuffer(b.buf)
	b.buf, b.r, b.n = nil, 0, 0
}

// abandonLocked ends the body with err: what is buffered is of no use any more.
func (b *body) abandonLocked(err error) {
	if b.err == nil {
		b.err = err
	}
	if left := int64(b.n - b.r); left > 0 {
		b.s.c.s.unread.Add(-left)
	}
	b.dropLocked()
	b.s.c.owed += b.deferred
	b.deferred = 0
	if b.grown > 0 {
		b.s.c.s.grown.Add(-b.grown)
		b.grown = 0
	}
	b.dl.stop()
	b.cond.Broadcast()
}

// Buffered is how many bytes Read gives without waiting.
func (b *body) Buffered() int {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	if b.closed {
		return 0
	}
	return b.n - b.r
}

// BytesRead is how many bytes have been read.
func (b *body) BytesRead() int64 {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	return b.read
}

// Close ends reading; a Read under way in another goroutine returns.
func (b *body) Close() error {
	b.s.c.mu.Lock()
	defer b.s.c.mu.Unlock()
	b.closed = true
	if left := int64(b.n - b.r); left > 0 {
		b.s.c.s.unread.Add(-left)
		b.dropLocked()
	}
	b.cond.Broadcast()
	return nil
}
