package h1

import (
	"errors"
	"io"
	"net"
	"sync"
)

// Upgraded is what a connection has become after 101 Switching Protocols: the
// Body of that answer. It is one more way to use the connection, and closes it.
type Upgraded struct {
	cc   *ClientConn
	mu   sync.Mutex // guards ahead and closed
	over bool
	// ahead is what was read of the connection before its use changed.
	ahead []byte
	stop  func() bool
}

// upgrade ends the use of the connection for HTTP.
func (cc *ClientConn) upgrade() *Upgraded {
	u := &Upgraded{cc: cc, ahead: append([]byte(nil), cc.read.bytes()...), stop: cc.stop}
	cc.broken.Store(true)
	cc.read.free()
	return u
}

// Read reads what the backend sends.
func (u *Upgraded) Read(p []byte) (int, error) {
	u.mu.Lock()
	if len(u.ahead) > 0 {
		n := copy(p, u.ahead)
		u.ahead = u.ahead[n:]
		u.mu.Unlock()
		return n, nil
	}
	u.mu.Unlock()
	return u.cc.c.Read(p)
}

// Write writes to the backend.
func (u *Upgraded) Write(p []byte) (int, error) { return u.cc.c.Write(p) }

// CloseWrite tells the backend that nothing more will be written.
func (u *Upgraded) CloseWrite() error {
	if cw, ok := u.cc.c.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Take gives up the connection, with what was read of it ahead: whoever takes it
// closes it, and need not Close u. The request's context no longer closes it.
func (u *Upgraded) Take() (c net.Conn, ahead []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	ahead, u.ahead = u.ahead, nil
	u.over = true
	if u.stop != nil {
		u.stop()
	}
	return u.cc.c, ahead
}

// Close closes the connection.
func (u *Upgraded) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return nil
	}
	u.over = true
	if u.stop != nil {
		u.stop()
	}
	return u.cc.Close()
}

var _ io.ReadWriteCloser = (*Upgraded)(nil)
