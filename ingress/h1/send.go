package h1

import (
	"net/http"
	"strconv"
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
