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

const (
	// chunkRoom is what is left free before a chunk's data for its size, and
	// framingRoom what is left free between a header and the body's first bytes
	// for the line that frames them; what is written last moves to the body's
	// side, so that all of it is one write.
	chunkRoom   = 10
	framingRoom = len("Transfer-Encoding: chunked\r\n\r\n") + chunkRoom
	// maxChunk is the longest chunk: its size has chunkRoom.
	maxChunk = 1 << 30
	// tailRoom is what ends a chunk and a body.
	tailRoom = len("\r\n0\r\n\r\n")
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

// hold makes sure of a buffer.
func (w *response) hold() {
	if w.buf != nil {
		return
	}
	w.pooled = buffers.Get().(*buffer)
	w.buf = w.pooled[:0]
	w.headLen, w.bodyOff = 0, 0
	if w.headSent {
		w.buf = w.buf[:chunkRoom]
		w.bodyOff = chunkRoom
	}
}

// drop gives the buffer back.
func (w *response) drop() {
	if w.pooled != nil {
		buffers.Put(w.pooled)
	}
	w.pooled, w.buf = nil, nil
}

// room is how many bytes of body fit into the buffer.
func (w *response) room() int { return max(0, cap(w.buf)-tailRoom-len(w.buf)) }

// decide tells how the body ends, in the header that is still in the buffer, and
// returns where the answer begins in it. last says that all of the body is there.
func (w *response) decide(last bool) int {
	if w.framing != undecided {
		return 0
	}
	body := len(w.buf) - w.bodyOff
	var a [framingRoom]byte
	line := a[:0]
	switch {
	case last && !w.trailers && !w.lateTrailers():
		w.framing = byLength
		line = append(line, "Content-Length: "...)
		line = strconv.AppendInt(line, int64(body), 10)
		line = append(line, "\r\n\r\n"...)
	case w.head.http11:
		w.framing = byChunks
		line = append(line, "Transfer-Encoding: chunked\r\n\r\n"...)
		line = appendChunkSize(line, body)
	default:
		w.framing = byClose
		line = append(line, "\r\n"...)
	}
	start := w.bodyOff - len(line) - w.headLen
	copy(w.buf[start:], w.buf[:w.headLen])
	copy(w.buf[start+w.headLen:], line)
	return start
}

// appendChunkSize appends a chunk's size, unless it would be taken for the last
// chunk's.
func appendChunkSize(b []byte, n int) []byte {
	if n == 0 {
		return b
	}
	b = strconv.AppendInt(b, int64(n), 16)
	return append(b, "\r\n"...)
}

// pending closes what is buffered, in one piece; more is the length of what is
// written behind it as a part of the same chunk.
func (w *response) pending(last bool, more int) []byte {
	if w.buf == nil {
		return nil
	}
	if !w.headSent {
		w.headSent = true
		if w.framing == undecided && more > 0 {
			return w.decideWith(more)
		}
		start := w.decide(last)
		if w.framing == byChunks && len(w.buf) > w.bodyOff {
			w.buf = append(w.buf, "\r\n"...)
		}
		return w.buf[start:]
	}
	body := len(w.buf) - w.bodyOff
	if w.framing != byChunks {
		return w.buf[w.bodyOff:]
	}
	if body+more == 0 {
		return nil
	}
	var a [chunkRoom]byte
	size := appendChunkSize(a[:0], body+more)
	start := w.bodyOff - len(size)
	copy(w.buf[start:], size)
	if more == 0 {
		w.buf = append(w.buf, "\r\n"...)
	}
	return w.buf[start:]
}

// decideWith is decide with more bytes of body to come in the same chunk.
func (w *response) decideWith(more int) []byte {
	body := len(w.buf) - w.bodyOff
	start := w.decide(false)
	if w.framing != byChunks {
		return w.buf[start:]
	}
	// The size that decide wrote is that of the buffered bytes alone.
	var a [chunkRoom]byte
	was, is := appendChunkSize(a[:0], body), [chunkRoom]byte{}
	size := appendChunkSize(is[:0], body+more)
	at := w.bodyOff - len(was)
	moved := start - (len(size) - len(was))
	copy(w.buf[moved:], w.buf[start:at])
	copy(w.buf[w.bodyOff-len(size):], size)
	return w.buf[moved:]
}

// send writes what is buffered.
func (w *response) send(last bool) error {
	b := w.pending(last, 0)
	if last && w.framing == byChunks {
		b = w.appendTrailer(b)
	}
	err := w.c.write(b)
	w.drop()
	return err
}

// writeThrough writes p, which does not fit into the buffer, and what is buffered
// before it.
func (w *response) writeThrough(p []byte) error {
	for len(p) > maxChunk {
		if err := w.writeThrough(p[:maxChunk]); err != nil {
			return err
		}
		p = p[maxChunk:]
		w.hold()
	}
	if !w.c.tcp {
		// One record of TLS at a time: fill the buffer.
		for len(p) > 0 {
			w.hold()
			n := min(len(p), w.room())
			w.buf = append(w.buf, p[:n]...)
			if p = p[n:]; len(p) == 0 {
				return nil
			}
			if err := w.send(false); err != nil {
				return err
			}
		}
		return nil
	}
	b := w.pending(false, len(p))
	tail := ""
	if w.framing == byChunks {
		tail = "\r\n"
	}
	err := w.c.writev(b, p, tail)
	w.drop()
	return err
}

// finish ends the answer when the handler has returned.
func (w *response) finish() {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	w.over = true
	if w.framing == byLength && w.left > 0 {
		w.close = true // less than was promised: the client sees it by the end
	}
	w.send(true)
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
