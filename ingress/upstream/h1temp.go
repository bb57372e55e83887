package upstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// h1Conn is the client's end of an HTTP/1.1 connection.
type h1Conn interface {
	RoundTrip(*http.Request) (*http.Response, error)
	Reusable() bool
	Close() error
}

// clientError tells how far an exchange got.
type clientError struct {
	Wrote, Received bool
	Err             error
}

func (e *clientError) Error() string { return e.Err.Error() }
func (e *clientError) Unwrap() error { return e.Err }

type simple1 struct {
	net.Conn
	br    *bufio.Reader
	busy  atomic.Bool
	dirty atomic.Bool
}

func newH1(c net.Conn, _ *SetConfig) h1Conn { return &simple1{Conn: c, br: bufio.NewReader(c)} }

func (s *simple1) Reusable() bool { return !s.busy.Load() && !s.dirty.Load() }

func (s *simple1) RoundTrip(req *http.Request) (*http.Response, error) {
	s.busy.Store(true)
	stop := context.AfterFunc(req.Context(), func() { s.Close() })
	wrote := make(chan error, 1)
	r := *req
	r.RequestURI = ""
	go func() { wrote <- r.Write(s.Conn) }()
	if _, err := s.br.Peek(1); err != nil {
		s.dirty.Store(true)
		s.Conn.Close()
		<-wrote
		return nil, &clientError{true, false, err}
	}
	resp, err := http.ReadResponse(s.br, req)
	for err == nil && resp.StatusCode/100 == 1 && resp.StatusCode != 101 {
		resp, err = http.ReadResponse(s.br, req)
	}
	if err != nil {
		s.dirty.Store(true)
		return nil, &clientError{true, true, fmt.Errorf("answer: %w", err)}
	}
	if resp.StatusCode == 101 {
		s.dirty.Store(true)
		stop()
		resp.Body = struct {
			io.Reader
			io.Writer
			io.Closer
		}{s.br, s.Conn, s.Conn}
		return resp, nil
	}
	if resp.Close {
		s.dirty.Store(true)
	}
	body := resp.Body
	end := func() {
		if stop() {
			select {
			case <-wrote:
				s.busy.Store(false)
			default:
			}
		}
	}
	if body == http.NoBody {
		end()
		return resp, nil
	}
	resp.Body = &simpleBody{ReadCloser: body, s: s, end: end}
	return resp, nil
}

type simpleBody struct {
	io.ReadCloser
	s    *simple1
	end  func()
	over bool
}

func (b *simpleBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && !b.over {
		b.over = true
		b.end()
	} else if err != nil && err != io.EOF {
		b.s.dirty.Store(true)
	}
	return n, err
}

func (b *simpleBody) Close() error {
	if !b.over {
		b.s.dirty.Store(true)
		b.s.Close()
	}
	return nil
}
