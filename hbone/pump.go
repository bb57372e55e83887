package hbone

import (
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
)

// pump reads a socket whenever it has bytes and the stream may send. While it
// waits it holds neither buffer, credit nor room.
type pump struct {
	s        *Stream
	k        *sink
	w        *writer
	fn       func(fd uintptr) bool
	class    int
	quiet    bool
	reserved int
	buf      *buffer

	blocked, eof bool
	err          error
	stall        *time.Timer
	stalled      atomic.Bool
}

func (p *pump) init(s *Stream, k *sink) {
	p.s, p.k, p.w, p.quiet = s, k, &s.c.w, true
	p.fn = p.attempt
}

// run carries the socket to the stream until the socket's end, which it returns
// as nil, or an error.
func (p *pump) run() error {
	s, k := p.s, p.k
	for {
		p.blocked, p.eof, p.err = false, false, nil
		if err := k.raw.Read(p.fn); err != nil && p.err == nil {
			p.err = err // closed under us: by a reset of the stream, or by the caller
		}
		switch {
		case p.err != nil:
			return p.failed()
		case p.blocked:
			if p.err = p.wait(); p.err != nil {
				return p.failed()
			}
		case p.eof:
			err := s.CloseWrite()
			k.sourceEnded()
			return err
		default:
			if p.err = p.send(); p.err != nil {
				return p.failed()
			}
		}
	}
}

// attempt is called in the poller's terms: false means wait until readable.
func (p *pump) attempt(fd uintptr) bool {
	if p.reserved == 0 {
		p.reserved, p.err = p.w.tryReserve(p.s, payloadCap(p.class), p.quiet)
		if p.err != nil {
			return true
		}
		if p.reserved == 0 {
			p.blocked = true
			return true
		}
	}
	b := getBuffer(classFor(p.reserved))
	for {
		n, err := syscall.Read(int(fd), b.space()[:min(p.reserved, len(b.space()))])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			b.n = n
			p.buf = b
			return true
		}
		putBuffer(b)
		p.w.refund(p.s, p.reserved)
		p.reserved = 0
		if err == syscall.EAGAIN {
			return false
		}
		p.eof, p.err = err == nil, err
		return true
	}
}

// send hands what attempt read to the writer, and fits the next buffer to it.
func (p *pump) send() error {
	b, reserved := p.buf, p.reserved
	p.buf, p.reserved = nil, 0
	n := b.n
	p.quiet = n <= smallData
	switch {
	case n >= payloadCap(p.class) && p.class < classLarge:
		p.class++
	case p.class > 0 && n < payloadCap(p.class-1):
		p.class--
	}
	if err := p.w.data(p.s, b, reserved); err != nil {
		return err
	}
	p.s.sent.Add(int64(n))
	return nil
}

// stallCheck is how often a pump that waits for credit looks whether its socket
// was reset meanwhile: nobody reads the socket then.
const stallCheck = time.Second

// wait waits for leave to send.
func (p *pump) wait() error {
	for {
		p.stalled.Store(false)
		if p.stall == nil {
			p.stall = time.AfterFunc(stallCheck, func() {
				p.w.mu.Lock()
				p.stalled.Store(true)
				p.s.sendCond.Broadcast()
				p.w.mu.Unlock()
			})
		} else {
			p.stall.Reset(stallCheck)
		}
		n, err := p.w.reserve(p.s, payloadCap(p.class), p.quiet, func() error {
			if p.stalled.Load() {
				return errStalled
			}
			return nil
		})
		p.stall.Stop()
		if err != errStalled {
			p.reserved = n
			return err
		}
		if err := p.k.broken(); err != nil {
			return err
		}
	}
}

var errStalled = errors.New("hbone: no credit yet")

// failed ends the stream after an error of the socket; an error of the stream
// has ended the socket already.
func (p *pump) failed() error {
	if p.reserved > 0 {
		p.w.refund(p.s, p.reserved)
		p.reserved = 0
	}
	s := p.s
	s.mu.Lock()
	err := s.recvErr
	s.mu.Unlock()
	if err != nil {
		return err
	}
	var re *ResetError
	if errors.As(p.err, &re) {
		return p.err // the peer wants no more, but what it sent is still on its way
	}
	s.reset(http2.ErrCodeConnect, p.err)
	return p.err
}
