package ingress

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// stall bounds what a client over HTTP/3 can make a request wait for, as h1 and h2
// do it themselves: http3 waits for ever for a body that does not come, and for an
// answer to be read. Deadlines are pushed on while something moves, not at each
// call, so they are up to an eighth late.
type stall struct {
	http.ResponseWriter
	body   io.ReadCloser
	stream streamDeadlines
	limits *Limits

	began                 time.Time
	readArmed, writeArmed atomic.Int64 // when, since began
}

type streamDeadlines interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// guard makes w and r the ones to serve with. The caller calls end.
func (l *Limits) guard(w http.ResponseWriter, r *http.Request) *stall {
	stream, ok := w.(streamDeadlines)
	if !ok {
		return nil
	}
	s := &stall{ResponseWriter: w, body: r.Body, stream: stream, limits: l, began: time.Now()}
	s.readArmed.Store(-int64(l.BodyTimeout))
	s.writeArmed.Store(-int64(l.WriteTimeout))
	if r.Method == http.MethodConnect {
		// What a tunnel may be silent for is the tunnel's to say.
		s.body = nil
	} else if r.Body != nil && r.Body != http.NoBody {
		r.Body = s
	}
	return s
}

// due says whether a deadline that was set at *armed has to be pushed on.
func (s *stall) due(armed *atomic.Int64, timeout time.Duration) (time.Time, bool) {
	now := time.Now()
	since := int64(now.Sub(s.began))
	if was := armed.Load(); since-was < int64(timeout)/8 || !armed.CompareAndSwap(was, since) {
		return time.Time{}, false
	}
	return now.Add(timeout), true
}

func (s *stall) moved() {
	if s.body == nil {
		return
	}
	if at, due := s.due(&s.readArmed, s.limits.BodyTimeout); due {
		s.stream.SetReadDeadline(at)
	}
}

// Read is that of the request's body.
func (s *stall) Read(p []byte) (int, error) {
	s.moved()
	return s.body.Read(p)
}

// Close is that of the request's body.
func (s *stall) Close() error { return s.body.Close() }

func (s *stall) writing() {
	s.moved()
	if at, due := s.due(&s.writeArmed, s.limits.WriteTimeout); due {
		s.stream.SetWriteDeadline(at)
	}
}

func (s *stall) Write(p []byte) (int, error) {
	s.writing()
	return s.ResponseWriter.Write(p)
}

// Flush makes the stall an http.Flusher; FlushError is for http.ResponseController.
func (s *stall) Flush() { _ = s.FlushError() }

func (s *stall) FlushError() error {
	s.writing()
	return http.NewResponseController(s.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (s *stall) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// end gives http3 the time to send what is left when the handler has returned.
func (s *stall) end() {
	s.stream.SetWriteDeadline(time.Now().Add(s.limits.WriteTimeout))
}
