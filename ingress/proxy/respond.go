package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// answered sends a backend's answer to the client, and returns when all of it is
// sent, or cannot be.
func (t *transaction) answered(a *attempt, res *http.Response) {
	if t.upgrade != "" && t.switched(a, res) {
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		t.refuse(http.StatusBadGateway, flagUpstreamProtocol, "the backend switched to a protocol that nobody asked for")
		return
	}
	if res.StatusCode < 200 || res.StatusCode > 999 {
		t.refuse(http.StatusBadGateway, flagUpstreamProtocol, "the backend answered with status "+strconv.Itoa(res.StatusCode))
		return
	}
	if t.connect && res.StatusCode < 300 {
		// To an extended CONNECT, 2xx says that the tunnel is there.
		t.refuse(http.StatusBadGateway, flagUpstreamProtocol, "the backend answered "+strconv.Itoa(res.StatusCode)+" to a WebSocket handshake, and did not switch")
		return
	}
	if t.rule.GRPC && !t.grpc {
		t.grpc = isGRPC(res.Header)
	}
	stream := t.answerHeader(a, res)
	t.writeHeader(res.StatusCode)
	if !t.hasAnswerBody(res.StatusCode) {
		return
	}
	if !t.copyAnswer(a, res.Body, res.ContentLength, stream) {
		return
	}
	t.trailers(res)
}

// answerHeader fills in the header, and says whether the body is to be passed on
// piece by piece as it comes.
func (t *transaction) answerHeader(a *attempt, res *http.Response) (stream bool) {
	h := t.w.Header()
	dropNamed(res.Header)
	for name, v := range res.Header {
		if !isHopByHop(name) {
			h[name] = v
		}
	}
	if _, ok := h["Content-Type"]; !ok && t.r.ProtoMajor > 1 {
		h["Content-Type"] = nil // or the server would guess one
	}
	switch {
	case !t.hasAnswerBody(res.StatusCode):
		// What a body would be: the backend's word is passed on, except that 204
		// must not have any (RFC 9110, 8.6).
		if res.StatusCode == http.StatusNoContent {
			delete(h, "Content-Length")
		}
	case res.ContentLength >= 0:
		if _, ok := h["Content-Length"]; !ok {
			h["Content-Length"] = []string{strconv.FormatInt(res.ContentLength, 10)}
		}
	default:
		delete(h, "Content-Length")
		stream = true
	}
	if len(res.Trailer) > 0 {
		names := make([]string, 0, len(res.Trailer))
		for name := range res.Trailer {
			names = append(names, name)
		}
		h["Trailer"] = []string{strings.Join(names, ", ")}
	}
	h["X-Envoy-Upstream-Service-Time"] = serviceTime(t.x.UpstreamTime.Milliseconds())
	t.persist(h, a.host)
	t.common(h)
	return stream || t.grpc || strings.HasPrefix(headerValue(h, "Content-Type"), "text/event-stream")
}

// serviceTimes are shared by all answers: most are quick.
var serviceTimes = func() (s [256][]string) {
	for i := range s {
		s[i] = []string{strconv.Itoa(i)}
	}
	return s
}()

func serviceTime(ms int64) []string {
	if ms >= 0 && ms < int64(len(serviceTimes)) {
		return serviceTimes[ms]
	}
	return []string{strconv.FormatInt(ms, 10)}
}

func (t *transaction) hasAnswerBody(status int) bool {
	return t.r.Method != http.MethodHead && status != http.StatusNoContent && status != http.StatusNotModified
}

// ownWriter is the ResponseWriter of ingress/h1 and ingress/h2: it sends what it copies as soon as
// more would have to be waited for, by the kernel where both ends are sockets.
type ownWriter interface {
	io.ReaderFrom
	Written() int64
}

// copyAnswer copies the body. A stream is flushed with each read, for nobody knows
// when the next comes; a body of known length when the backend pauses, unless it is
// complete: most then leave in one write.
func (t *transaction) copyAnswer(a *attempt, body io.Reader, length int64, stream bool) bool {
	flusher, _ := t.w.(http.Flusher)
	ready, _ := body.(interface{ Buffered() int })
	if stream && flusher != nil && (ready == nil || ready.Buffered() == 0) {
		flusher.Flush() // the header, before a body that may be long in coming
	}
	if own, ok := t.w.(ownWriter); ok {
		return t.copyAtOnce(a, own, body)
	}
	var c copier
	defer c.free()
	last := 0
	if !stream {
		last = copyBuffer
	}
	for {
		buf := c.buffer(last)
		n, err := body.Read(buf)
		for err == nil && ready != nil && n < len(buf) && ready.Buffered() > 0 {
			var more int
			more, err = body.Read(buf[n:])
			n += more
		}
		if last = n; !stream {
			last = copyBuffer
		}
		if n > 0 {
			m, werr := t.w.Write(buf[:n])
			t.x.Sent += int64(m)
			if werr != nil {
				t.x.Detail = "answer: " + werr.Error()
				t.clientGone()
				t.torn = true
				return false
			}
			if flusher != nil && err == nil && (stream || n < len(buf) && t.x.Sent < length) {
				flusher.Flush()
			}
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			t.cut(a, err)
			return false
		}
	}
}

// copyAtOnce leaves the copying to the writer. If that cannot write, it ends the
// request's context, so that tells whose the error is.
func (t *transaction) copyAtOnce(a *attempt, own ownWriter, body io.Reader) bool {
	_, err := own.ReadFrom(body)
	t.x.Sent += own.Written()
	if err != nil {
		t.cut(a, err)
	}
	return err == nil
}

// cut notes why an answer ended before its end. The client must not take it for a
// whole one: its stream is reset.
func (t *transaction) cut(a *attempt, err error) {
	t.torn = true
	t.x.Detail = "answer: " + err.Error()
	switch {
	case t.r.Context().Err() != nil:
		t.clientGone()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(a.ctx.Err(), context.DeadlineExceeded):
		t.x.Flags = appendFlag(t.x.Flags, flagTimeout)
	default:
		t.x.Flags = appendFlag(t.x.Flags, flagUpstreamClosed)
	}
}

// trailers sends those of the answer: announced ones by name, others by the prefix
// that servers know.
func (t *transaction) trailers(res *http.Response) {
	if len(res.Trailer) == 0 {
		return
	}
	h := t.w.Header()
	announced := headerValue(h, "Trailer")
	for name, v := range res.Trailer {
		if forbiddenTrailer(name) {
			continue
		}
		if announced != "" && containsName(announced, name) {
			h[name] = v
		} else {
			h[http.TrailerPrefix+name] = v
		}
	}
	t.x.Trailer = res.Trailer
}

func containsName(list, name string) bool {
	for v := range strings.SplitSeq(list, ", ") {
		if v == name {
			return true
		}
	}
	return false
}

// forbiddenTrailer says whether a field makes no sense after the body, and would
// confuse who merges trailers into the header (RFC 9110, 6.5.1).
func forbiddenTrailer(name string) bool {
	switch name {
	case "Transfer-Encoding", "Content-Length", "Trailer", "Connection", "Upgrade", "Te", "Host",
		"Authorization", "Set-Cookie", "Cache-Control", "Content-Encoding", "Content-Type", "Content-Range":
		return true
	}
	return false
}
