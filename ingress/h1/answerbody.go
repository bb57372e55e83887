package h1

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// responseBody is an answer's body. One goroutine reads; Close may come from
// another.
type responseBody struct {
	messageBody
	cc   *ClientConn
	resp *http.Response

	mu     sync.Mutex // guards messageBody and err
	err    error
	closed atomic.Bool
}

// Read reads the body. io.EOF comes with the last bytes; the connection is then
// free.
func (b *responseBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.read(p)
	if err != nil {
		b.end(err)
	}
	return n, b.err
}

// end ends the body.
func (b *responseBody) end(err error) {
	if err == io.EOF {
		b.addTrailer(&b.resp.Trailer)
		b.err = io.EOF
		b.cc.release()
		return
	}
	b.err = b.cc.fail(err)
}

// Buffered is how many bytes Read gives without waiting.
func (b *responseBody) Buffered() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0
	}
	return b.there()
}

// Close ends reading. The connection is closed unless the rest of the body is
// there already.
func (b *responseBody) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	if !b.mu.TryLock() {
		b.cc.shut() // a Read is under way in another goroutine, and returns
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.err != nil {
		return nil
	}
	b.dropBuffered()
	if b.state != bodyDone {
		b.cc.broken.Store(true)
	}
	b.err = &ClientError{Wrote: true, Received: true, Err: errBodyClosed}
	b.cc.release()
	return nil
}

func (b *responseBody) CanSplice() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err == nil && b.messageBody.CanSplice()
}

func (b *responseBody) SpliceTo(dst *net.TCPConn, most int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		if b.err == io.EOF {
			return 0, nil // Read tells
		}
		return 0, b.err
	}
	n, err := b.messageBody.SpliceTo(dst, most)
	if err == nil && b.state == bodyDone {
		err = io.EOF
	}
	if err != nil {
		b.end(err)
		if err == io.EOF {
			err = nil // Read tells
		} else {
			err = b.err
		}
	}
	return n, err
}
