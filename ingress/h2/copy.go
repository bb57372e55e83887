package h2

import (
	"io"
	"net/http"
)

// ReadFrom copies src, as io.Copy does. What arrives is sent when src would have to
// be waited for, so that a stream is passed on as it comes: a src with a method
// Buffered() int tells how much it has.
func (w *response) ReadFrom(src io.Reader) (total int64, err error) {
	ok, err := w.beginWrite(0)
	if err != nil {
		return 0, err
	}
	if !ok {
		n, err := io.Copy(io.Discard, src)
		w.written += n
		return n, err
	}
	from, _ := src.(interface{ Buffered() int })
	if w.hold == nil || len(w.hold.b) < copyBuffer {
		b := getBuffer(copyBuffer)
		if w.n > 0 {
			copy(b.b, w.hold.b[:w.n])
		}
		putBuffer(w.hold)
		w.hold = b
	}
	for {
		n, rerr := src.Read(w.hold.b[w.n:copyBuffer])
		if w.length >= 0 && int64(n) > w.length-w.written {
			return total, http.ErrContentLength
		}
		w.n += n
		w.written += int64(n)
		total += int64(n)
		switch {
		case rerr == io.EOF:
			return total, nil
		case rerr != nil:
			return total, rerr
		case w.length >= 0 && w.written == w.length:
			// Most likely the next Read is the end: all goes out in one write.
		case w.n == copyBuffer, w.n > 0 && (from == nil || from.Buffered() == 0):
			if err := w.push(nil); err != nil {
				return total, err
			}
		}
		if w.n == copyBuffer {
			if err := w.push(nil); err != nil {
				return total, err
			}
		}
	}
}
