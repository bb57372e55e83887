package h2

import (
	"errors"
	"net/http"
	"net/url"
	"runtime/debug"

	"golang.org/x/net/http2"

	"github.com/adit-mesh/adit/ingress/lifetime"
)

// stream is a request and its answer. All of it is one allocation, which is never
// used again: whoever holds on to a part of it after the handler has returned finds
// it dead, not another request's.
//
// A stream is in conn.streams until both sides have ended it, or one has reset it.
// It counts against Server.MaxStreams until its handler has returned, too.
type stream struct {
	c    *conn
	id   uint32
	req  http.Request
	url  url.URL
	ctx  lifetime.Context
	body body
	w    response

	// Guarded by conn.mu.
	send      sending
	gone      bool // not in conn.streams any more
	returned  bool // the handler has
	answered  bool // some of the final answer is sent, or queued
	malformed bool // the body does not fit content-length
}

func newStream(c *conn, id uint32) *stream {
	s := &stream{c: c, id: id}
	s.w.s = s
	s.send.init(s)
	return s
}

// open readies the stream for its handler. WithContext's copy stays on the stack:
// this is the way to set a context without an allocation.
func (s *stream) open() {
	s.ctx.BeginAlone(s.c.base)
	req := s.req
	s.req = *req.WithContext(&s.ctx)
	s.req.RemoteAddr, s.req.TLS = s.c.peer.RemoteAddr, s.c.peer.TLS
}

// run is the body of a handler's goroutine.
func (s *stream) run() {
	defer s.c.wg.Done()
	done := false
	defer func() {
		if !done { // a panic, or runtime.Goexit
			s.aborted(recover())
		}
	}()
	s.c.h.ServeHTTP(&s.w, &s.req)
	s.w.finish()
	done = true
}

// aborted resets a stream whose handler did not return in order.
func (s *stream) aborted(p any) {
	if err, ok := p.(error); p != nil && (!ok || !errors.Is(err, http.ErrAbortHandler)) && s.c.s.Log != nil {
		s.c.s.Log.Error("handler panicked", "remote", s.c.peer.RemoteAddr, "panic", p, "stack", string(debug.Stack()))
	}
	c := s.c
	c.mu.Lock()
	if !s.gone {
		c.resetLocked(s, http2.ErrCodeInternal, errHandlerDone)
	}
	s.returnLocked()
	c.flushLocked()
	c.mu.Unlock()
	s.ctx.End(errHandlerDone)
}

// returnLocked says that the handler has returned, or has but to finish the answer.
func (s *stream) returnLocked() {
	if s.returned {
		return
	}
	s.returned = true
	s.send.dl.stop()
	s.body.abandonLocked(http.ErrBodyReadAfterClose)
	if s.gone {
		s.send.freeLocked()
		s.c.releaseLocked()
	} else if s.send.ended {
		s.c.w.out = s.sentEndLocked(s.c.w.out)
	}
}

// recvEndLocked notes END_STREAM from the client.
func (s *stream) recvEndLocked() {
	b := &s.body
	if s.gone || b.ended {
		return
	}
	if b.length >= 0 && b.received != b.length {
		s.malformed = true
		s.c.resetLocked(s, http2.ErrCodeProtocol, errLengthMismatch)
		return
	}
	b.ended = true
	b.cond.Broadcast()
	if s.send.ended {
		s.removeLocked()
	}
}

// sentEndLocked notes that END_STREAM is on its way to the client. A client that
// still sends is told that nobody wants the rest (RFC 9113 section 8.1).
func (s *stream) sentEndLocked(out []byte) []byte {
	s.send.ended = true
	switch {
	case s.gone:
	case s.body.ended:
		s.removeLocked()
	case s.returned:
		out = appendRSTStream(out, s.id, http2.ErrCodeNo)
		s.c.resets.add(s.id)
		s.removeLocked()
	}
	return out
}

// removeLocked takes the stream off the connection.
func (s *stream) removeLocked() {
	s.gone = true
	delete(s.c.streams, s.id)
	if s.returned {
		s.send.freeLocked()
		s.c.releaseLocked()
	}
}

// resetLocked resets a stream, and tells the handler why.
func (c *conn) resetLocked(s *stream, code http2.ErrCode, why error) {
	if s.gone {
		return
	}
	c.w.out = appendRSTStream(c.w.out, s.id, code)
	c.resets.add(s.id)
	s.endLocked(why)
}

// endLocked ends a stream without a word to the client.
func (s *stream) endLocked(why error) {
	if s.gone {
		return
	}
	s.send.failLocked(why)
	s.body.abandonLocked(why)
	s.removeLocked()
	s.ctx.End(canceled(why))
}
