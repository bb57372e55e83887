package upstream

import (
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/adit-mesh/adit/ingress/h1"
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
	x       exchange
	one     *conn1 // or
	two     *conn2
	ended   atomic.Bool
	closing atomic.Bool // Close has been called
}

// end gives the connection back.
func (u *use) end(closed bool) {
	if u.ended.Swap(true) {
		return
	}
	p := u.x.host.peer
	p.active.Add(-1)
	switch {
	case u.two != nil:
		p.put2(u.two)
	case u.closing.Load() && !closed:
		// Close, in another goroutine, may be about to cut the connection.
		u.one.close()
	default:
		p.put1(u.one)
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
		b.end(false)
	}
	return n, err
}

// CanSplice and SpliceTo make the body one that ingress/h1 lets the kernel move.
func (b *answerBody) CanSplice() bool {
	s, ok := b.rc.(h1.Spliceable)
	return ok && !b.ended.Load() && s.CanSplice()
}

// SpliceTo is that of h1.Spliceable.
func (b *answerBody) SpliceTo(dst *net.TCPConn, most int64) (int64, error) {
	s, ok := b.rc.(h1.Spliceable)
	if !ok || b.ended.Load() {
		return 0, nil
	}
	n, err := s.SpliceTo(dst, most)
	if err == io.EOF {
		return n, nil // Read tells
	}
	if err != nil {
		err = b.broken(err)
		b.last = err
		b.end(false)
	}
	return n, err
}

func (b *answerBody) broken(err error) error {
	if b.one != nil {
		return b.x.error1(err)
	}
	return b.x.error2(err, nil)
}

// Close may be called while another goroutine reads.
func (b *answerBody) Close() error {
	b.closing.Store(true)
	if b.ended.Load() {
		return nil
	}
	err := b.rc.Close()
	b.end(true)
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
