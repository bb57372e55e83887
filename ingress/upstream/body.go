package upstream

import (
	"io"
	"net/http"
	"sync/atomic"
)

// sendBody is the body of a request, and knows whether it can be sent again.
type sendBody struct {
	rc   io.ReadCloser
	read atomic.Bool
	err  atomic.Pointer[error] // of rc, which is not the backend's fault
}

func (b *sendBody) Read(p []byte) (int, error) {
	b.read.Store(true)
	n, err := b.rc.Read(p)
	if err != nil && err != io.EOF {
		b.err.Store(&err)
	}
	return n, err
}

// Close leaves a body open that nobody has read: it can be sent elsewhere.
func (b *sendBody) Close() error {
	if !b.read.Load() {
		return nil
	}
	return b.rc.Close()
}

// failure is why the body could not be read, or nil.
func (b *sendBody) failure() error {
	if err := b.err.Load(); err != nil {
		return *err
	}
	return nil
}

// use is a request's hold on a connection, until the answer's body has been read or
// closed.
type use struct {
	x     exchange
	one   *conn1 // or
	two   *conn2
	ended atomic.Bool
}

func (u *use) end() {
	if u.ended.Swap(true) {
		return
	}
	u.x.host.peer.active.Add(-1)
	if u.one != nil {
		u.x.host.peer.put1(u.one)
	} else {
		u.x.host.peer.put2(u.two)
	}
}

// answerBody is the body of an answer. Its end gives the connection back.
type answerBody struct {
	rc io.ReadCloser
	use
	last error // what Read returned at the end
}

func (b *answerBody) Read(p []byte) (int, error) {
	if b.ended.Load() {
		if b.last != nil {
			return 0, b.last
		}
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.rc.Read(p)
	if err != nil {
		if err != io.EOF {
			err = b.broken(err)
		}
		b.last = err
		b.end()
	}
	return n, err
}

func (b *answerBody) broken(err error) error {
	if b.one != nil {
		return b.x.error1(err, false)
	}
	return b.x.error2(err, nil)
}

func (b *answerBody) Close() error {
	if b.ended.Load() {
		return nil
	}
	err := b.rc.Close()
	b.end()
	return err
}

// Buffered is how many bytes Read gives without waiting, as far as is known.
func (b *answerBody) Buffered() int {
	if r, ok := b.rc.(interface{ Buffered() int }); ok && !b.ended.Load() {
		return r.Buffered()
	}
	return 0
}

// upgraded is the connection after a 101 answer.
type upgraded struct {
	io.ReadWriteCloser
	use
}

// CloseWrite ends what is sent, and lets the backend go on.
func (u *upgraded) CloseWrite() error {
	if w, ok := u.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return http.ErrNotSupported
}

func (u *upgraded) Close() error {
	if u.ended.Swap(true) {
		return nil
	}
	err := u.ReadWriteCloser.Close()
	u.x.host.peer.active.Add(-1)
	u.one.close()
	return err
}
