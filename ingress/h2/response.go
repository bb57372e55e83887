package h2

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// answerBuffer is how much of an answer is kept before it is sent, in bytes, and
// copyBuffer how much ReadFrom reads at once.
const (
	answerBuffer = 4 << 10
	copyBuffer   = 16 << 10
)

// response is a request's http.ResponseWriter. It is written to by one goroutine.
// The header and the first bytes of the body are kept, so that a small answer is one
// write.
type response struct {
	s      *stream
	head   bool // the request is HEAD
	header http.Header

	status   int
	begun    bool // WriteHeader has been called
	sent     bool // the header is on its way
	over     bool // END_STREAM is, or the handler has returned
	noBody   bool
	length   int64 // that Content-Length promises, -1 = none
	written  int64
	fields   *fields // the header, until it is sent
	hasDate  bool
	declared []string // trailers

	hold *buffer // nil: nothing is kept
	n    int     // bytes in hold
}

// Header is that of the answer, or of the trailer when the body is written.
func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

// Written is how many bytes of body the handler has written.
func (w *response) Written() int64 { return w.written }

// Status is the status of the answer; 0 = none yet.
func (w *response) Status() int { return w.status }

// WriteHeader sends an informational answer (1xx) at once, and keeps any other
// until there is something of its body.
func (w *response) WriteHeader(status int) {
	switch {
	case status < 100 || status > 999:
		panic("h2: invalid status " + strconv.Itoa(status))
	case w.begun || w.over:
		return
	case status < 200:
		w.inform(status)
		return
	}
	w.begun, w.status, w.length = true, status, -1
	w.noBody = w.head || status == http.StatusNoContent || status == http.StatusNotModified
	w.snapshot()
}

// snapshot keeps the header as it is now: what the handler changes later is not
// sent, but for trailers.
func (w *response) snapshot() {
	f := getFields()
	w.fields = f
	if tr, ok := w.header["Trailer"]; ok {
		w.declare(tr)
	}
	for name, values := range w.header {
		switch name {
		case "Content-Length":
			if w.status == http.StatusNoContent || len(values) == 0 {
				continue // RFC 9110 section 8.6
			}
			n, ok := parseLength(values[0])
			if !ok {
				continue
			}
			w.length = n
			f.add(name, values[0])
			continue
		case "Date":
			w.hasDate = true
		}
		if strings.HasPrefix(name, http.TrailerPrefix) || w.declared != nil && w.isDeclared(name) {
			continue
		}
		f.addAll(name, values)
	}
	if !w.hasDate {
		f.add("Date", date())
	}
}

// declare notes what Trailer announces.
func (w *response) declare(lists []string) {
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.Trim(name, " \t"))
			if validToken(name) && !forbiddenTrailer[name] {
				w.declared = append(w.declared, name)
			}
		}
	}
}

func (w *response) isDeclared(name string) bool {
	for _, d := range w.declared {
		if d == name {
			return true
		}
	}
	return false
}

// inform sends an informational answer.
func (w *response) inform(status int) {
	if status == http.StatusSwitchingProtocols {
		return // RFC 9113 section 8.6 has none
	}
	f := getFields()
	defer putFields(f)
	for name, values := range w.header {
		if name != "Content-Length" && name != "Trailer" && !strings.HasPrefix(name, http.TrailerPrefix) {
			f.addAll(name, values)
		}
	}
	s := w.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.gone {
		return
	}
	if status == http.StatusContinue {
		s.body.expect = false
	}
	s.c.w.headersLocked(s.id, status, f, false)
	if !s.c.w.busy {
		s.c.w.writeLocked(&s.send)
	}
}

// continueLocked sends 100 Continue, unless the answer has begun.
func (s *stream) continueLocked() {
	if s.gone || s.answered {
		return
	}
	f := getFields()
	s.c.w.headersLocked(s.id, http.StatusContinue, f, false)
	putFields(f)
	s.c.flushLocked()
}

// Write writes a part of the body.
func (w *response) Write(p []byte) (int, error) {
	ok, err := w.beginWrite(int64(len(p)))
	if !ok {
		return wrote(len(p), err)
	}
	if w.n+len(p) <= answerBuffer {
		if w.hold == nil {
			w.hold = getBuffer(answerBuffer)
		}
		w.n += copy(w.hold.b[w.n:], p)
		return len(p), nil
	}
	if err := w.push(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString is Write.
func (w *response) WriteString(p string) (int, error) {
	if w.n+len(p) > answerBuffer {
		return w.Write([]byte(p))
	}
	ok, err := w.beginWrite(int64(len(p)))
	if !ok {
		return wrote(len(p), err)
	}
	if w.hold == nil {
		w.hold = getBuffer(answerBuffer)
	}
	w.n += copy(w.hold.b[w.n:], p)
	return len(p), nil
}

func wrote(n int, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return n, nil
}

// beginWrite prepares for n bytes of body, and says whether they are to be sent.
func (w *response) beginWrite(n int64) (bool, error) {
	if w.over {
		return false, errWriteAfter
	}
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	switch {
	case w.head:
		w.written += n
		return false, nil
	case w.noBody:
		return false, http.ErrBodyNotAllowed
	case w.length >= 0 && n > w.length-w.written:
		return false, http.ErrContentLength
	}
	w.written += n
	return true, nil
}

// push sends the header, what is kept, and p, and returns when all of it is taken.
func (w *response) push(p []byte) error {
	s := w.s
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.send.err != nil {
		return s.send.err
	}
	w.headerLocked(false)
	if w.n+len(p) > 0 {
		s.send.tail = p
		if w.n > 0 {
			s.send.head = w.hold.b[:w.n]
		}
		s.send.dueLocked()
	}
	if !c.w.busy && c.w.workLocked() {
		c.w.writeLocked(&s.send)
	}
	err := s.send.waitLocked()
	w.n = 0
	if w.hold != nil && len(w.hold.b) <= answerBuffer {
		putBuffer(w.hold)
		w.hold = nil
	}
	return err
}

// headerLocked queues the header if it is not on its way yet.
func (w *response) headerLocked(end bool) {
	if w.sent {
		return
	}
	w.sent, w.s.answered = true, true
	w.s.c.answered++
	w.s.c.w.headersLocked(w.s.id, w.status, w.fields, end)
	putFields(w.fields)
	w.fields = nil
}

// Flush sends what is kept.
func (w *response) Flush() { w.FlushError() }

// FlushError is Flush.
func (w *response) FlushError() error {
	if w.over {
		return errWriteAfter
	}
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	if w.sent && w.n == 0 {
		return w.failed()
	}
	return w.push(nil)
}

func (w *response) failed() error {
	w.s.c.mu.Lock()
	defer w.s.c.mu.Unlock()
	return w.s.send.err
}

// SetReadDeadline sets the deadline of the body's Read.
func (w *response) SetReadDeadline(t time.Time) error {
	s := w.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.returned {
		return os.ErrClosed
	}
	s.body.dl.setLocked(t, &s.c.mu, &s.body.cond)
	return nil
}

// SetWriteDeadline sets the deadline of writing. A Write that fails because of it
// resets the stream: a part of it may be sent already.
func (w *response) SetWriteDeadline(t time.Time) error {
	s := w.s
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.returned {
		return os.ErrClosed
	}
	s.send.dl.setLocked(t, &s.c.mu, &s.send.cond)
	return nil
}

// EnableFullDuplex does nothing: a body can always be read while the answer is
// written.
func (w *response) EnableFullDuplex() error { return nil }

var (
	_ http.Flusher    = (*response)(nil)
	_ io.ReaderFrom   = (*response)(nil)
	_ io.StringWriter = (*response)(nil)
)
