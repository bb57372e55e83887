package h1

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// framing is how the end of an answer's body is told.
type framing uint8

const (
	byNothing framing = iota // there is no body
	byLength                 // Content-Length
	byChunks
	byClose   // HTTP/1.0
	undecided // not told yet: byLength if the whole body fits into the buffer
)

var (
	errWriteAfter = errors.New("h1: write after the handler returned")
	errHijacked   = http.ErrHijacked
)

// response is a request's http.ResponseWriter. It also implements http.Flusher,
// io.ReaderFrom, io.StringWriter, and what http.ResponseController looks for. It
// is written to by one goroutine.
//
//	buf: | header lines | framingRoom | body ...        | tailRoom |   before the header is sent
//	buf: | chunkRoom | body ...                         | tailRoom |   after it
type response struct {
	c      *serverConn
	ex     *exchange
	head   requestHead
	header http.Header

	status   int
	framing  framing
	begun    bool // WriteHeader has been called
	headSent bool
	over     bool
	close    bool  // the connection ends with this answer
	left     int64 // byLength: of what was promised
	written  int64 // body bytes that the handler wrote
	trailers bool  // some are declared, or there already
	declared []string

	continueMu sync.Mutex // held while 100 Continue is written
	noContinue bool       // the final answer has begun

	pooled  *buffer
	buf     []byte // nil: nothing is buffered
	headLen int    // of the header lines in buf
	bodyOff int    // where the body in buf begins; it ends with buf
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

// Status is the status that was sent; 0 = none yet.
func (w *response) Status() int { return w.status }

// WriteHeader sends an informational answer (1xx) at once, and keeps any other
// until there is something of its body.
func (w *response) WriteHeader(status int) {
	switch {
	case status < 100 || status > 999:
		panic("h1: invalid status " + strconv.Itoa(status))
	case w.begun || w.over || w.c.hijacked:
		return
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		w.inform(status)
		return
	}
	w.begun, w.status = true, status
	if w.head.expect {
		w.stopContinue()
	}
	w.hold()
	w.writeHead()
}

// Write writes a part of the body.
func (w *response) Write(p []byte) (int, error) {
	if err := w.beginWrite(int64(len(p))); err != nil || len(p) == 0 || w.framing == byNothing {
		return w.wrote(len(p), err)
	}
	if len(p) <= w.room() {
		w.buf = append(w.buf, p...)
		return w.wrote(len(p), nil)
	}
	return w.wrote(len(p), w.writeThrough(p))
}

// WriteString is Write.
func (w *response) WriteString(s string) (int, error) {
	if err := w.beginWrite(int64(len(s))); err != nil || w.framing == byNothing {
		return w.wrote(len(s), err)
	}
	for rest := s; ; {
		w.hold()
		n := min(len(rest), w.room())
		w.buf = append(w.buf, rest[:n]...)
		if rest = rest[n:]; rest == "" {
			return w.wrote(len(s), nil)
		}
		if err := w.send(false); err != nil {
			return w.wrote(len(s), err)
		}
	}
}

// wrote is what a Write of n bytes returns.
func (w *response) wrote(n int, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	w.written += int64(n)
	return n, nil
}

// beginWrite begins the answer if it has not begun, and takes n bytes off what was
// promised.
func (w *response) beginWrite(n int64) error {
	switch {
	case w.over:
		return errWriteAfter
	case w.c.hijacked:
		return errHijacked
	case !w.begun:
		w.WriteHeader(http.StatusOK)
	}
	if w.c.writeErr != nil {
		return w.c.writeErr
	}
	if w.framing == byNothing {
		if n > 0 && !bodyAllowed(w.status) {
			return http.ErrBodyNotAllowed
		}
		return nil // HEAD
	}
	if w.framing == byLength {
		if n > w.left {
			return http.ErrContentLength
		}
		w.left -= n
	}
	w.hold()
	return nil
}

// bodyAllowed says whether an answer may have a body, RFC 9110 section 6.4.1.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// Flush sends what is buffered.
func (w *response) Flush() { w.FlushError() }

// FlushError sends what is buffered.
func (w *response) FlushError() error {
	if w.over || w.c.hijacked {
		return errWriteAfter
	}
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	return w.send(false)
}

// ReadFrom copies src, as io.Copy does. What arrives is sent when src would have
// to be waited for, so that a stream is passed on as it comes; see [Source].
func (w *response) ReadFrom(src io.Reader) (total int64, err error) {
	if err := w.beginWrite(0); err != nil {
		return 0, err
	}
	if w.framing == byNothing {
		return io.Copy(io.Discard, src)
	}
	from, _ := src.(Source)
	for {
		if w.framing == byLength && w.c.tcp {
			n, err := w.splice(src)
			total += n
			if err != nil {
				return total, err
			}
		}
		w.hold()
		n, rerr := src.Read(w.buf[len(w.buf) : len(w.buf)+w.room()])
		if w.framing == byLength && int64(n) > w.left {
			return total, http.ErrContentLength
		}
		w.buf = w.buf[:len(w.buf)+n]
		w.left -= int64(n)
		w.written += int64(n)
		total += int64(n)
		switch {
		case rerr == io.EOF:
			return total, nil
		case rerr != nil:
			return total, rerr
		case w.framing == byLength && w.left == 0:
			// Most likely the next Read is the end: all goes out in one write.
		case w.room() == 0, from == nil, from.Buffered() == 0:
			if err := w.send(false); err != nil {
				return total, err
			}
		}
	}
}
