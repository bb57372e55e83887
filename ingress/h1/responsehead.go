package h1

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// statusLines are those of the statuses that have a name.
var statusLines = func() (lines [600]string) {
	for code := range lines {
		if text := http.StatusText(code); text != "" {
			lines[code] = "HTTP/1.1 " + strconv.Itoa(code) + " " + text + "\r\n"
		}
	}
	return lines
}()

func appendStatus(b []byte, status int) []byte {
	if status < len(statusLines) && statusLines[status] != "" {
		return append(b, statusLines[status]...)
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	return append(b, " \r\n"...)
}

// writeHead serialises the header, and with it the framing unless that is not
// known yet.
func (w *response) writeHead() {
	h := w.header
	b := appendStatus(w.buf, w.status)
	var length string
	w.framing = undecided
	switch {
	case !bodyAllowed(w.status):
		w.framing = byNothing
	case w.head.method == http.MethodHead:
		w.framing = byNothing
	}
	if v := h["Content-Length"]; len(v) == 1 && w.status != http.StatusNoContent && w.status >= 200 {
		if n, err := parseLength(v[0]); err == nil {
			length = v[0]
			if w.framing == undecided {
				w.framing, w.left = byLength, n
			}
		}
	}
	if !w.close && w.status != http.StatusSwitchingProtocols && (w.c.dl.isDraining() || w.ex.body.tooMuch() || hasToken(h["Connection"], "close")) {
		w.close = true
	}
	date := false
	for name, values := range h {
		switch name {
		case "Content-Length", "Transfer-Encoding":
			continue
		case "Connection":
			if w.close && w.status != http.StatusSwitchingProtocols {
				continue
			}
		case "Date":
			date = values != nil
		case "Trailer":
			if w.framing != undecided || !w.head.http11 {
				continue // nowhere to send it
			}
			w.declare(values)
		default:
			if strings.HasPrefix(name, http.TrailerPrefix) {
				w.trailers = true
				continue
			}
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	switch {
	case w.status == http.StatusSwitchingProtocols:
	case w.close:
		b = append(b, "Connection: close\r\n"...)
	case w.head.oldKeepAlive && (w.framing == byLength || w.framing == byNothing):
		b = append(b, "Connection: keep-alive\r\n"...)
	case w.head.oldKeepAlive:
		w.close = true
		b = append(b, "Connection: close\r\n"...)
	}
	if !date {
		b = append(b, "Date: "...)
		b = append(b, httpDate()...)
		b = append(b, "\r\n"...)
	}
	if length != "" {
		b = appendField(b, "Content-Length", length)
	}
	if w.framing == undecided {
		w.headLen = len(b)
		b = append(b, make([]byte, framingRoom)...)
	} else {
		b = append(b, "\r\n"...)
	}
	w.bodyOff = len(b)
	w.buf = b
}

// tooMuch says whether it is known already that finish will not find the end of
// the body, so that the answer can say that the connection closes.
func (b *requestBody) tooMuch() bool {
	if b.r == nil || !b.mu.TryLock() { // locked: somebody reads it
		return false
	}
	defer b.mu.Unlock()
	return b.expect.Load() || b.err != nil && b.err != io.EOF ||
		b.state == bodyData && !b.chunked && b.left > b.c.s.maxDrain()
}

// declare notes the trailers that a Trailer field names.
func (w *response) declare(lists []string) {
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if name, ok := canonicalName(trimOWS(name)); ok && !forbiddenTrailer[name] {
				w.trailers = true
				w.declared = append(w.declared, name)
			}
		}
	}
}

// lateTrailers says whether the handler has set trailers that it did not declare.
func (w *response) lateTrailers() bool {
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// appendTrailer ends a chunked body.
func (w *response) appendTrailer(b []byte) []byte {
	b = append(b, "0\r\n"...)
	for _, name := range w.declared {
		for _, v := range w.header[name] {
			b = appendField(b, name, v)
		}
	}
	for name, values := range w.header {
		name, ok := strings.CutPrefix(name, http.TrailerPrefix)
		if !ok {
			continue
		}
		if name, ok = canonicalName(name); !ok || forbiddenTrailer[name] {
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	return append(b, "\r\n"...)
}

// appendField appends a field line. A handler's mistake becomes no header line of
// its own: a name that is none is left out, and control characters in a value
// become spaces.
func appendField(b []byte, name, value string) []byte {
	if !validToken(name) {
		return b
	}
	b = append(b, name...)
	b = append(b, ": "...)
	if validValue(value) {
		b = append(b, value...)
	} else {
		for i := range len(value) {
			c := value[i]
			if class[c]&isValue == 0 {
				c = ' '
			}
			b = append(b, c)
		}
	}
	return append(b, "\r\n"...)
}

// inform sends an informational answer.
func (w *response) inform(status int) {
	if !w.head.http11 || w.c.writeErr != nil {
		return // RFC 9110 section 15.2: HTTP/1.0 knows none
	}
	b := appendStatus(nil, status)
	for name, values := range w.header {
		switch name {
		case "Content-Length", "Transfer-Encoding":
			continue
		}
		for _, v := range values {
			b = appendField(b, name, v)
		}
	}
	b = append(b, "\r\n"...)
	w.continueMu.Lock()
	defer w.continueMu.Unlock()
	w.c.write(b)
	if status == http.StatusContinue {
		w.ex.body.expect.Store(false)
	}
}

// sendContinue sends 100 Continue, unless the final answer has begun; then nobody
// knows whether the client sends the body, and it is not read.
func (w *response) sendContinue() bool {
	w.continueMu.Lock()
	defer w.continueMu.Unlock()
	if w.noContinue {
		return false
	}
	err := w.c.write([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	w.ex.body.expect.Store(false)
	return err == nil
}

// stopContinue keeps 100 Continue from being sent within the answer.
func (w *response) stopContinue() {
	w.continueMu.Lock()
	w.noContinue = true
	w.continueMu.Unlock()
}

// refusal is the whole answer to a request that is refused.
func refusal(err *RefusedError) string {
	text := err.Err.Error() + "\n"
	if err.Status == http.StatusRequestTimeout {
		text = "the request's header took too long\n"
	}
	b := appendStatus(nil, err.Status)
	b = append(b, "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\nDate: "...)
	b = append(b, httpDate()...)
	b = append(b, "\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(text)), 10)
	b = append(b, "\r\n\r\n"...)
	return string(append(b, text...))
}

// date is a moment as answers tell it.
type date struct {
	unix int64
	text string
}

var lastDate atomic.Pointer[date]

// httpDate is the value of Date, made once a second.
func httpDate() string {
	now := time.Now()
	d := lastDate.Load()
	if d == nil || d.unix != now.Unix() {
		d = &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
		lastDate.Store(d)
	}
	return d.text
}
