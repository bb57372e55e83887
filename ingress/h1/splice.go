package h1

import (
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// spliceMin is how much of a body must lie in the socket for splice(2) to be
// worth its pipe, and spliceStep the most that is moved before the deadline of
// writing is put off again: with the default of 60 s, who takes less than 2 KiB a
// second has gone.
const (
	spliceMin  = 32 << 10
	spliceStep = 128 << 10
)

// Spliceable is a body that the kernel can move from socket to socket. Request
// bodies of a Server and answers' bodies of a ClientConn are; what wraps one, and
// wants them to be moved, has these methods too.
type Spliceable interface {
	// CanSplice says that the next bytes of the body are to be had in the socket.
	CanSplice() bool
	// SpliceTo moves at most so many bytes to dst, without waiting for the source.
	// It is 0, nil if the body has to be read instead; it never is io.EOF, which
	// Read tells. The error may be that of either side.
	SpliceTo(dst *net.TCPConn, most int64) (int64, error)
}

func (b *messageBody) CanSplice() bool {
	if b.state != bodyData || b.left < spliceMin || b.r.buffered() > 0 {
		return false
	}
	_, ok := b.r.c.(*net.TCPConn)
	return ok
}

func (b *messageBody) SpliceTo(dst *net.TCPConn, most int64) (int64, error) {
	if !b.CanSplice() {
		return 0, nil
	}
	// Only what is there is moved: a wait for the source in the middle of it would
	// count against the destination's deadline.
	there := int64(unread(b.r))
	if there < spliceMin {
		return 0, nil
	}
	b.r.release()
	want := min(b.left, most, there, spliceStep)
	n, err := dst.ReadFrom(&io.LimitedReader{R: b.r.c, N: want})
	b.consumed(n)
	if n > 0 {
		b.r.seen = true
	}
	if err == nil && n < want {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// unread is how many bytes lie in the socket.
func unread(r *reader) (n int) {
	if r.raw != nil {
		_ = r.raw.Control(func(fd uintptr) {
			if got, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ); err == nil {
				n = got
			}
		})
	}
	return n
}

// splice is a step of ReadFrom that lets the kernel copy as long as it can.
func (w *response) splice(src io.Reader) (total int64, err error) {
	from, ok := src.(Spliceable)
	if !ok {
		return 0, nil
	}
	for w.left >= spliceMin && from.CanSplice() {
		if err := w.send(false); err != nil {
			return total, err
		}
		w.c.dl.armWrite(w.c.s.writeTimeout())
		n, err := from.SpliceTo(w.c.c.(*net.TCPConn), w.left)
		w.left -= n
		w.written += n
		total += n
		if err != nil && w.c.watch.raw != nil && peerClosed(w.c.watch.raw) {
			// Whose error it was the kernel does not tell.
			return total, w.c.noteWrite(errClientGone)
		}
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

func (b *requestBody) CanSplice() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	// A limit is counted by Read.
	return b.err == nil && b.c.s.MaxBodyBytes == 0 && b.messageBody.CanSplice()
}

func (b *requestBody) SpliceTo(dst *net.TCPConn, most int64) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() || b.err != nil {
		if b.err == io.EOF {
			return 0, nil // Read tells
		}
		return 0, b.err
	}
	if err := b.begin(); err != nil {
		return 0, err
	}
	n, err := b.messageBody.SpliceTo(dst, most)
	b.n.Add(n)
	if err != nil {
		b.err = b.end(err)
	}
	return n, b.err
}
