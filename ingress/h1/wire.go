package h1

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"time"
)

// Source is a body that tells how much of it is there. What a ResponseWriter of
// this package copies from one is sent as soon as the next Read would wait, and
// not before; request bodies of a Server and answers' bodies of a ClientConn are
// Sources.
type Source interface {
	// Buffered is how many bytes Read gives without waiting.
	Buffered() int
}

// write writes b to the client.
func (c *serverConn) write(b []byte) error {
	if len(b) == 0 || c.writeErr != nil {
		return c.writeErr
	}
	c.dl.armWrite(c.s.writeTimeout())
	_, err := c.c.Write(b)
	return c.noteWrite(err)
}

// writev writes three pieces in one system call.
func (c *serverConn) writev(a, b []byte, tail string) error {
	if c.writeErr != nil {
		return c.writeErr
	}
	c.dl.armWrite(c.s.writeTimeout())
	v := append(c.vecs[:0], a, b)
	if tail != "" {
		v = append(v, crlf)
	}
	c.vec = v
	_, err := c.vec.WriteTo(c.c)
	c.vecs = [3][]byte{}
	return c.noteWrite(err)
}

var crlf = []byte("\r\n")

// noteWrite keeps the first error: nothing may be written behind a gap. The
// request's context ends, since nobody can be told its answer any more.
func (c *serverConn) noteWrite(err error) error {
	if err != nil {
		c.writeErr = err
		if c.cur != nil {
			c.cur.ctx.stop()
		}
	}
	return err
}

// Hijack gives the connection to the handler, with what was read of it ahead in
// the reader's buffer. An answer that has begun is sent first. The handler closes
// the connection; ServeConn returns when the handler has.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := w.c
	if w.over || c.hijacked {
		return nil, nil, errHijacked
	}
	if w.begun {
		if err := w.send(true); err != nil {
			return nil, nil, err
		}
	}
	b := &w.ex.body
	b.abandon()
	c.hijacked = true
	w.drop()
	c.watch.stop(&w.ex.ctx)
	ahead := append([]byte(nil), c.read.bytes()...)
	c.read.free()
	c.dl.clear()
	in := bufio.NewReaderSize(c.c, max(4096, len(ahead)))
	if len(ahead) > 0 {
		in.Reset(io.MultiReader(bytes.NewReader(ahead), c.c))
		in.Peek(len(ahead))
	}
	return c.c, bufio.NewReadWriter(in, bufio.NewWriter(c.c)), nil
}

// SetReadDeadline sets the deadline of the body's Read, instead of the server's,
// until the handler returns.
func (w *response) SetReadDeadline(t time.Time) error { return w.c.dl.setOwn(t, false) }

// SetWriteDeadline sets the deadline of writing, instead of the server's, until
// the handler returns.
func (w *response) SetWriteDeadline(t time.Time) error { return w.c.dl.setOwn(t, true) }

// EnableFullDuplex does nothing: a body can always be read while the answer is
// written.
func (w *response) EnableFullDuplex() error { return nil }

var (
	_ http.Flusher    = (*response)(nil)
	_ http.Hijacker   = (*response)(nil)
	_ io.ReaderFrom   = (*response)(nil)
	_ io.StringWriter = (*response)(nil)
)
