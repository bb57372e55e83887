package h2

import (
	"errors"
	"net/http"
	"strings"

	"golang.org/x/net/http2"
)

var errShort = errors.New("h2: the handler wrote less than Content-Length says")

// finish ends the answer when the handler has returned. Nobody waits for the client:
// what it has not taken yet is the connection's.
func (w *response) finish() {
	if !w.begun && !w.over {
		w.WriteHeader(http.StatusOK)
	}
	trailer := w.trailers()
	s := w.s
	c := s.c
	c.mu.Lock()
	over := w.over
	w.over = true
	s.returnLocked()
	if !over {
		w.endLocked(trailer)
	} else {
		c.flushLocked() // a client that still sends is told to stop
	}
	c.mu.Unlock()
	putBuffer(w.hold)
	w.hold = nil
	s.ctx.End(errHandlerDone)
}

// CloseWrite ends the answer, with its trailers, before the handler has returned.
func (w *response) CloseWrite() error {
	if w.over {
		return errWriteAfter
	}
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	trailer := w.trailers()
	s := w.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	w.over = true
	w.endLocked(trailer)
	return s.send.waitLocked()
}

// trailers are the fields that come behind the body, nil if there are none.
func (w *response) trailers() *fields {
	var f *fields
	add := func(name string, values []string) {
		if len(values) == 0 || forbiddenTrailer[name] {
			return
		}
		if f == nil {
			f = getFields()
		}
		f.addAll(name, values)
	}
	for _, name := range w.declared {
		add(name, w.header[name])
	}
	for name, values := range w.header {
		if rest, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			add(http.CanonicalHeaderKey(rest), values)
		}
	}
	return f
}

// endLocked queues what is kept, the trailer and END_STREAM, and writes unless
// somebody else does. It takes trailer and hold over.
func (w *response) endLocked(trailer *fields) {
	s := w.s
	c := s.c
	q := &s.send
	switch {
	case s.gone:
	case w.length > w.written && !w.noBody:
		// The client must not take it for a whole answer.
		c.resetLocked(s, http2.ErrCodeInternal, errShort)
	default:
		if !w.sent && !w.noBody && trailer == nil && w.length < 0 && s.req.Method != http.MethodConnect {
			w.fields.addLength(int64(w.n))
		}
		if !w.sent && w.n == 0 && trailer == nil {
			w.headerLocked(true)
			c.w.out = s.sentEndLocked(c.w.out)
			break
		}
		w.headerLocked(false)
		q.end, q.trailer, trailer = true, trailer, nil
		if w.n > 0 {
			q.head, q.hold = w.hold.b[:w.n], w.hold
			w.hold, w.n = nil, 0
		}
		q.dueLocked()
	}
	if trailer != nil {
		putFields(trailer)
	}
	if w.fields != nil {
		putFields(w.fields)
		w.fields = nil
	}
	if !c.w.busy && c.w.workLocked() {
		c.w.writeLocked(q)
	}
}
