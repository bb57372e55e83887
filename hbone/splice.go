package hbone

import (
	"errors"
	"io"
	"net"
	"syscall"

	"golang.org/x/net/http2"
)

// SpliceResult is what went through a splice.
type SpliceResult struct {
	FromStream, ToStream int64 // payload bytes
	// Err is nil when both directions came to a plain end; otherwise the first
	// thing that went wrong: a *ResetError of the peer, an error of the socket,
	// or the end of the tunnel.
	Err error
}

// socket is what Splice wants of a connection to read and write it without a
// goroutine for each direction: a *net.TCPConn, or something that embeds one.
type socket interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
	CloseRead() error
	SetLinger(sec int) error
}

// Splice joins s and c until both directions have ended, and closes both. It
// keeps what TCP says: a half-close stays a half-close, and a reset on one side
// becomes a reset on the other (RST_STREAM with CONNECT_ERROR, RFC 9113 section
// 8.5; SO_LINGER 0), never a plain end.
//
// It uses the caller's goroutine to carry c to s; s to c is carried by the
// tunnel's reader, and by one more goroutine while c does not keep up.
func Splice(s *Stream, c net.Conn) SpliceResult {
	sock, ok := c.(socket)
	var raw syscall.RawConn
	if ok {
		var err error
		if raw, err = sock.SyscallConn(); err != nil {
			ok = false
		}
	}
	if !ok {
		return spliceCopy(s, c)
	}
	var j struct { // in one piece
		sink
		pump
	}
	k := &j.sink
	k.init(sock, raw)
	j.pump.init(s, k)
	s.attach(k)
	err := j.pump.run()
	if err == nil && k.watch() && !s.taken() {
		s.sinkFailed(k.errReset(), false)
	}
	s.mu.Lock()
	for s.draining || !s.recvDone && s.recvErr == nil {
		s.recvCond.Wait()
	}
	if s.recvErr != nil && (err == nil || !errors.As(err, new(*ResetError))) {
		err = s.recvErr
	}
	broken := s.recvErr != nil && !s.wholeLocked()
	s.mu.Unlock()
	if broken {
		k.reset() // whoever found the stream broken may not have come to it yet
	} else {
		c.Close()
	}
	s.releaseWindow()
	sent, received := s.Bytes()
	return SpliceResult{FromStream: received, ToStream: sent, Err: err}
}

// attach makes k the destination of what s receives.
func (s *Stream) attach(k *sink) {
	s.mu.Lock()
	s.sink = k
	if s.recvErr != nil {
		s.mu.Unlock()
		k.reset()
		return
	}
	s.advanceLocked()
}

// releaseWindow gives back what the stream's window took of the budget.
func (s *Stream) releaseWindow() {
	s.mu.Lock()
	n := s.grown
	s.grown = 0
	s.mu.Unlock()
	if n > 0 {
		windowBudget.give(n)
	}
}

// spliceCopy is Splice for connections that are not sockets.
func spliceCopy(s *Stream, c net.Conn) SpliceResult {
	errs := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{c}, s)
		if err == nil {
			if cw, ok := c.(interface{ CloseWrite() error }); ok {
				err = cw.CloseWrite()
			}
		}
		if err != nil {
			s.reset(http2.ErrCodeConnect, err)
			c.Close()
		}
		errs <- err
	}()
	_, err := io.Copy(struct{ io.Writer }{s}, struct{ io.Reader }{c})
	if err == nil {
		err = s.CloseWrite()
	}
	if err != nil {
		s.reset(http2.ErrCodeConnect, err)
		c.Close()
	}
	if rerr := <-errs; rerr != nil && (err == nil || errors.As(rerr, new(*ResetError))) {
		err = rerr
	}
	s.Close()
	c.Close()
	s.releaseWindow()
	sent, received := s.Bytes()
	return SpliceResult{FromStream: received, ToStream: sent, Err: err}
}
