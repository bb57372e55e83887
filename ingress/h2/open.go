package h2

import (
	"net/http"

	"golang.org/x/net/http2"
)

// openStream takes a request's header, and starts its handler.
func (r *reader) openStream(b *block) error {
	c := r.c
	c.mu.Lock()
	switch {
	case b.id%2 == 0:
		c.mu.Unlock()
		return connFailed(http2.ErrCodeProtocol, "stream with an even number")
	case b.id <= c.highest:
		mine := c.resets.has(b.id)
		c.mu.Unlock()
		if mine { // the trailer of a request that we have reset
			return r.abuse.count(abuseCheap)
		}
		return connFailed(http2.ErrCodeStreamClosed, "HEADERS on a stream that is closed")
	}
	c.highest = b.id
	if c.finalSent {
		c.mu.Unlock()
		return r.abuse.count(abuseOther) // GOAWAY says that it is not served
	}
	if !c.admitLocked() {
		defer c.mu.Unlock()
		c.w.out = appendRSTStream(c.w.out, b.id, http2.ErrCodeRefusedStream)
		c.resets.add(b.id)
		return r.abuse.reset(c.answered)
	}
	c.held++
	c.mu.Unlock()

	s := newStream(c, b.id)
	bad := b.request(c.s.maxTarget(), &s.req, &s.url)
	if bad == nil && b.ended && b.length > 0 {
		bad = &MalformedError{0, errLengthMismatch}
	}
	if bad == nil && b.selfDep {
		bad = &MalformedError{0, errSelfDependent}
	}
	if bad != nil {
		return r.refuse(s, b, bad)
	}
	s.open()
	if err := r.start(s, b); err != nil {
		return err
	}
	c.wg.Add(1)
	go s.run()
	return nil
}

// start makes the stream's parts follow from its header, unless the connection is
// over.
func (r *reader) start(s *stream, b *block) error {
	req := &s.req
	s.w.head = b.method == http.MethodHead
	c := r.c
	if v := req.Header["Priority"]; v != nil {
		s.send.urgency = urgency(v[0])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		s.gone, s.returned = true, true
		c.releaseLocked()
		return c.err
	}
	s.body.initLocked(s, b.length)
	s.send.window = c.w.initial
	c.streams[s.id] = s
	if b.ended {
		s.body.ended = true
		req.Body, req.ContentLength = http.NoBody, 0
		req.Trailer = nil
		return nil
	}
	s.body.expect = b.expect
	s.body.bounded = b.method != http.MethodConnect && c.s.bodyTimeout() > 0
	req.Body, req.ContentLength = &s.body, b.length
	return nil
}

// refuse ends a request that is not for a handler.
func (r *reader) refuse(s *stream, b *block, bad *MalformedError) error {
	c := r.c
	if c.s.OnMalformed != nil {
		c.s.OnMalformed(c.peer, bad)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.returned = true
	s.gone = true
	c.releaseLocked()
	if bad.Status == 0 {
		c.w.out = appendRSTStream(c.w.out, s.id, http2.ErrCodeProtocol)
		c.resets.add(s.id)
		return r.abuse.count(abuseOther)
	}
	f := getFields()
	defer putFields(f)
	f.add("Content-Length", "0")
	f.add("Date", date())
	c.w.headersLocked(s.id, bad.Status, f, true)
	if !b.ended {
		c.w.out = appendRSTStream(c.w.out, s.id, http2.ErrCodeNo)
	}
	c.resets.add(s.id)
	return r.abuse.count(abuseOther)
}

// trailers takes the header block behind a request's body.
func (r *reader) trailers(b *block) error {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[b.id]
	if s == nil { // it ended while the block came
		return r.abuse.count(abuseCheap)
	}
	err := b.checkTrailer()
	code := http2.ErrCodeProtocol
	switch {
	case s.body.ended:
		err, code = errBroken, http2.ErrCodeStreamClosed
	case err != nil:
	case b.tooLarge:
		err, code = errHeaderTooLarge, http2.ErrCodeEnhanceYourCalm
	case b.selfDep:
		err = errSelfDependent
	case !b.ended:
		err = errTrailerOpen
	}
	if err != nil {
		c.resetLocked(s, code, err)
		return r.abuse.count(abuseOther)
	}
	if len(b.header) > 0 {
		s.body.trailer = b.header
	}
	s.recvEndLocked()
	return nil
}
