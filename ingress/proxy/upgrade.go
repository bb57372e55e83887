package proxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// connectProtocol returns the :protocol of an extended CONNECT (RFC 8441,
// RFC 9220), which servers put in different places; "" for a plain CONNECT.
func connectProtocol(r *http.Request) string {
	if p := headerValue(r.Header, ":protocol"); p != "" {
		return p
	}
	if r.ProtoMajor >= 2 && !strings.HasPrefix(r.Proto, "HTTP/") {
		return r.Proto
	}
	return ""
}

// asUpgrade makes of an extended CONNECT the HTTP/1.1 request that the backend
// gets: the handshake of RFC 6455, of which the client's side is ours to do
// (RFC 8441, section 5).
func (t *transaction) asUpgrade(req *http.Request) {
	h := req.Header
	req.Method = http.MethodGet
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	req.Body, req.ContentLength = http.NoBody, 0
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	t.set(h, "Sec-Websocket-Key", base64.StdEncoding.EncodeToString(key[:]))
	if headerValue(h, "Sec-Websocket-Version") == "" {
		t.set(h, "Sec-Websocket-Version", "13")
	}
}

// acceptKey is what a backend answers to a Sec-WebSocket-Key (RFC 6455, 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// switched carries on with an upgrade that the backend agreed to, and returns
// when it is over. It returns false if the backend did not agree: then its answer
// is one like any other.
func (t *transaction) switched(a *attempt, res *http.Response) bool {
	if res.StatusCode != http.StatusSwitchingProtocols {
		return false
	}
	backend, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		_ = res.Body.Close()
		t.refuse(http.StatusBadGateway, flagUpstreamProtocol, "the connection to the backend cannot be taken over")
		return true
	}
	defer backend.Close()
	if err := t.agreed(a, res); err != nil {
		t.refuse(http.StatusBadGateway, flagUpstreamProtocol, err.Error())
		return true
	}
	res.Header.Del("Content-Length")
	t.answerHeader(a, res)
	if t.connect {
		t.openStream(a, backend)
	} else {
		t.takeOver(a, backend)
	}
	return true
}

// agreed checks that the backend switched to what it was asked for.
func (t *transaction) agreed(a *attempt, res *http.Response) error {
	if got := headerValue(res.Header, "Upgrade"); !equalFold(got, t.upgrade) {
		return fmt.Errorf("the backend switched to %q, not to %q", got, t.upgrade)
	}
	if !t.connect {
		return nil // the client checks the rest itself
	}
	want := acceptKey(headerValue(a.req.Header, "Sec-Websocket-Key"))
	if got := headerValue(res.Header, "Sec-Websocket-Accept"); got != want {
		return errors.New("the backend's Sec-WebSocket-Accept is not that of our key: is it a WebSocket server?")
	}
	return nil
}

// openStream answers an extended CONNECT, and makes a tunnel of its stream.
func (t *transaction) openStream(a *attempt, backend io.ReadWriteCloser) {
	h := t.w.Header()
	delete(h, "Sec-Websocket-Accept")
	delete(h, "Content-Length")
	delete(h, "Trailer")
	t.writeHeader(http.StatusOK)
	rc := http.NewResponseController(t.w)
	if err := rc.Flush(); err != nil {
		t.clientGone()
		t.torn = true
		return
	}
	end := func() { _ = t.r.Body.Close() }
	client := side{r: t.r.Body, w: &flushed{t.w, rc}, finish: end, abort: end}
	if cw, ok := t.w.(interface{ CloseWrite() error }); ok {
		client.closeWrite = cw.CloseWrite
	}
	err := t.tunnel(a, client, backend)
	t.torn = err != nil // an orderly end is that of the stream, any other resets it
}

// flushed sends each write at once.
type flushed struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f *flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

// takeOver answers 101 on a connection that is then the protocol's.
func (t *transaction) takeOver(a *attempt, backend io.ReadWriteCloser) {
	conn, rw, err := http.NewResponseController(t.w).Hijack()
	if err != nil {
		t.refuse(http.StatusInternalServerError, "", "upgrade: "+err.Error())
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	t.started = true
	t.x.Status = http.StatusSwitchingProtocols
	h := t.w.Header()
	delete(h, "Trailer")
	h["Connection"] = []string{"Upgrade"}
	h["Upgrade"] = []string{t.upgrade}
	if err := write101(rw.Writer, h); err != nil {
		t.x.Detail = "answer: " + err.Error()
		t.clientGone()
		return
	}
	client := side{r: conn, w: conn, finish: func() { _ = conn.Close() }, abort: func() { abort(conn) }}
	if n := rw.Reader.Buffered(); n > 0 {
		// What the client sent right behind its request.
		client.r = io.MultiReader(io.LimitReader(rw.Reader, int64(n)), conn)
	}
	if cw, ok := conn.(interface{ CloseWrite() error }); ok {
		client.closeWrite = cw.CloseWrite
	}
	_ = t.tunnel(a, client, backend)
}

// write101 writes the header by hand: the connection is no server's any more.
func write101(w *bufio.Writer, h http.Header) error {
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	for name, values := range h {
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
				continue
			}
			_, _ = w.WriteString(name)
			_, _ = w.WriteString(": ")
			_, _ = w.WriteString(textproto.TrimString(v))
			_, _ = w.WriteString("\r\n")
		}
	}
	_, _ = w.WriteString("\r\n")
	return w.Flush()
}

// abort closes a connection so that the peer sees a reset, not an end: the other
// side did not end in order either.
func abort(conn io.Closer) {
	var c any = conn
	for range 4 {
		if l, ok := c.(interface{ SetLinger(int) error }); ok {
			_ = l.SetLinger(0)
			break
		}
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = inner.NetConn()
	}
	_ = conn.Close()
}

// backendSide is the side of a tunnel that is an upstream connection.
func backendSide(c io.ReadWriteCloser) side {
	s := side{r: c, w: c, finish: func() { _ = c.Close() }, abort: func() { abort(c) }}
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		s.closeWrite = cw.CloseWrite
	}
	return s
}

// tunnel copies both ways until both ended, or one failed.
func (t *transaction) tunnel(a *attempt, client side, backend io.ReadWriteCloser) error {
	tn := tunnel{client: client, backend: backendSide(backend), idle: t.p.tunnelIdle}
	// The rule's timeouts bound the exchange, and with it the tunnel; so does the
	// end of the client's stream.
	defer a.ctx.AfterFunc(func() { tn.fail(a.ctx.Err(), nil) })()
	err := tn.run()
	t.x.Sent += tn.down.Load()
	t.x.Received += tn.up.Load()
	switch {
	case err == nil:
	case errors.Is(err, errTunnelIdle):
		t.x.Flags, t.x.Detail = appendFlag(t.x.Flags, flagIdle), "tunnel: "+err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		t.x.Flags, t.x.Detail = appendFlag(t.x.Flags, flagTimeout), "tunnel: "+err.Error()
	case tn.blame == &tn.client || a.ctx.Err() != nil:
		t.x.Detail = "tunnel: " + err.Error()
		t.clientGone()
	default:
		t.x.Flags, t.x.Detail = appendFlag(t.x.Flags, flagUpstreamClosed), "tunnel: "+err.Error()
	}
	return err
}
