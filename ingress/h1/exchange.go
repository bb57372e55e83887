package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// exchange is a request and its answer. All of it is one allocation, which is
// never used again: whoever holds on to a part of it after the handler has
// returned finds it dead, not another request's.
type exchange struct {
	req  http.Request
	url  url.URL
	ctx  requestContext
	body requestBody
	w    response
}

func newExchange(c *serverConn) *exchange {
	ex := &exchange{}
	ex.ctx.BeginAlone(c.base)
	ex.ctx.c = c
	// WithContext's copy stays on the stack: this is the way to set a context
	// without an allocation.
	ex.req = *new(http.Request).WithContext(&ex.ctx)
	ex.req.RemoteAddr, ex.req.TLS = c.peer.RemoteAddr, c.peer.TLS
	ex.w.c, ex.w.ex = c, ex
	ex.body.c, ex.body.ex = c, ex
	return ex
}

// start makes the parts follow from the head.
func (ex *exchange) start(head *requestHead) {
	ex.w.head = *head
	ex.w.close = head.close
	if head.length == 0 {
		ex.req.Body = http.NoBody
		return
	}
	ex.body.start(&ex.w.c.read, head.length)
	ex.body.expect.Store(head.expect)
	ex.req.Body = &ex.body
}

// cancel ends the request's context.
func (ex *exchange) cancel() {
	ex.ctx.c.watch.stop(&ex.ctx)
	ex.ctx.stop()
}

// errClientGone is why a body cannot be read any more.
var errClientGone = fmt.Errorf("h1: the client closed the connection: %w", io.ErrUnexpectedEOF)

// requestBody is the body that a handler reads. One goroutine at a time reads;
// Close may come from another and interrupts it.
type requestBody struct {
	messageBody
	c  *serverConn
	ex *exchange

	mu     sync.Mutex // guards messageBody and err
	err    error
	closed atomic.Bool
	expect atomic.Bool // the client waits for 100 Continue
	n      atomic.Int64
}

// Read reads the body. If the client waits for it, the first Read sends 100
// Continue, unless the answer has begun.
func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := b.begin(); err != nil {
		b.err = err
		return 0, err
	}
	n, err := b.read(p)
	return b.count(n, err)
}

// begin prepares for reading from the connection.
func (b *requestBody) begin() error {
	if b.expect.Load() && !b.ex.w.sendContinue() {
		return http.ErrBodyReadAfterClose
	}
	if b.ready() {
		return nil
	}
	return b.c.dl.armRead(b.c.s.bodyTimeout())
}

// count counts n bytes, of which none are beyond the limit, and notes err.
func (b *requestBody) count(n int, err error) (int, error) {
	total := b.n.Add(int64(n))
	if m := b.c.s.MaxBodyBytes; m > 0 && total > m {
		n, err = max(0, n-int(total-m)), &http.MaxBytesError{Limit: m}
	}
	if err != nil {
		b.err = b.end(err)
	}
	return n, b.err
}

// end makes of an error what the handler is told. A client that is gone ends the
// request's context.
func (b *requestBody) end(err error) error {
	var nerr net.Error
	switch {
	case err == io.EOF:
		b.addTrailer(&b.ex.req.Trailer)
	case err == io.ErrUnexpectedEOF:
		b.ex.ctx.stop()
		return errClientGone
	case errors.As(err, &nerr) && !nerr.Timeout(): // a reset
		b.ex.ctx.stop()
	}
	return err
}

// BytesRead is how many bytes of the body have been read so far.
func (b *requestBody) BytesRead() int64 { return b.n.Load() }

// Buffered is how many bytes Read gives without waiting for the client.
func (b *requestBody) Buffered() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil || b.expect.Load() {
		return 0
	}
	return b.there()
}

// Close ends reading; a Read under way in another goroutine returns. The rest of
// the body is dealt with when the handler has returned.
func (b *requestBody) Close() error {
	b.closed.Store(true)
	if b.mu.TryLock() {
		b.mu.Unlock()
	} else {
		b.c.dl.interrupt()
	}
	return nil
}

// abandon waits until nobody reads any more.
func (b *requestBody) abandon() {
	b.Close()
	b.mu.Lock()
	b.err = http.ErrBodyReadAfterClose
	b.mu.Unlock()
}

// finish reads past what the handler left, within limits, and says whether the
// next request can follow.
func (b *requestBody) finish() bool {
	if b.r == nil { // none
		return true
	}
	b.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.r.release()
	err := b.err
	b.err = http.ErrBodyReadAfterClose
	switch {
	case b.state == bodyDone:
		return true
	case err != nil, b.expect.Load(), b.c.writeErr != nil, b.ex.w.close:
		return false
	}
	if !b.ready() {
		b.c.dl.armReadAt(time.Now().Add(drainTime))
	}
	return b.skip(b.c.s.maxDrain())
}

// drainTime bounds the wait for the rest of a body that nobody wants.
const drainTime = 5 * time.Second
