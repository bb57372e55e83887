package proxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-mesh/adit/ingress/upstream"
)

func wsBackend(t testing.TB) *upstream.Config {
	return backend(t, wsEcho(t))
}

func wsEcho(t testing.TB) http.HandlerFunc {
	up := websocket.Upgrader{Subprotocols: []string{"chat"}, CheckOrigin: func(*http.Request) bool { return true }}
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		c, err := up.Upgrade(w, r, http.Header{"X-Path": {r.URL.Path}, "X-For": {r.Header.Get("X-Forwarded-For")}})
		if err != nil {
			return
		}
		defer c.Close()
		for {
			k, m, err := c.ReadMessage()
			if err != nil {
				return
			}
			if err := c.WriteMessage(k, m); err != nil {
				return
			}
		}
	}
}

func TestWebSocketOverHTTP1(t *testing.T) {
	e := newEdge(t, one(wsBackend(t)), toA())
	d := websocket.Dialer{Subprotocols: []string{"chat"}}
	c, res, err := d.Dial("ws"+strings.TrimPrefix(e.url, "http")+"/chat", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Subprotocol() != "chat" || res.Header.Get("X-Path") != "/chat" || res.Header.Get("X-For") != "127.0.0.1" || res.Header.Get("Server") != "adit" {
		t.Errorf("answer: %v", res.Header)
	}
	for _, m := range []string{"hello", strings.Repeat("x", 200_000)} {
		if err := c.WriteMessage(websocket.TextMessage, []byte(m)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.ReadMessage(); err != nil || string(got) != m {
			t.Fatalf("%d bytes came back as %d, %v", len(m), len(got), err)
		}
	}
	e.mu.Lock()
	if len(e.records) != 0 {
		t.Error("recorded before its end")
	}
	e.mu.Unlock()
	_ = c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""))
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 1000) {
		t.Errorf("close: %v", err)
	}
	c.Close()
	if x := e.last(1); x.Status != 101 || x.Flags != "" || x.Received < 200_000 || x.Sent < 200_000 {
		t.Errorf("record: %+v", x)
	}
}

func TestRefusedUpgradeIsAnAnswer(t *testing.T) {
	e := newEdge(t, one(wsBackend(t)), toA())
	_, res, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(e.url, "http")+"/no", nil)
	if err != websocket.ErrBadHandshake || res.StatusCode != 403 {
		t.Fatalf("got %v, %v", res, err)
	}
	if x := e.last(1); x.Status != 403 {
		t.Errorf("record: %d", x.Status)
	}
}

func dialRaw(t testing.TB, e *edge, request string) (*net.TCPConn, *bufio.Reader, *http.Response) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), in, res
}

const spdy = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"

// agree is a backend's side of an upgrade to anything.
func agree(c net.Conn) *bufio.Reader {
	in := bufio.NewReader(c)
	r, err := http.ReadRequest(in)
	if err != nil {
		return nil
	}
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nwelcome ", r.Header.Get("Upgrade"))
	return in
}

func TestUpgradeKeepsHalfClose(t *testing.T) {
	e := newEdge(t, one(rawBackend(t, func(c net.Conn) {
		in := agree(c)
		all, _ := io.ReadAll(in) // until the client's end
		fmt.Fprintf(c, "got %s", all)
	})), toA())
	// "early" comes with the request, before the answer.
	c, in, res := dialRaw(t, e, spdy+"early ")
	if res.StatusCode != 101 || res.Header.Get("Upgrade") != "SPDY/3.1" || !strings.EqualFold(res.Header.Get("Connection"), "upgrade") {
		t.Fatalf("answer: %d %v", res.StatusCode, res.Header)
	}
	_, _ = io.WriteString(c, "late")
	_ = c.CloseWrite()
	all, err := io.ReadAll(in)
	if err != nil || string(all) != "welcome got early late" {
		t.Errorf("got %q, %v", all, err)
	}
	if x := e.last(1); x.Flags != "" || x.Status != 101 {
		t.Errorf("record: %+v", x)
	}
}

func TestUpgradeKeepsReset(t *testing.T) {
	e := newEdge(t, one(rawBackend(t, func(c net.Conn) {
		agree(c)
		_ = c.(*net.TCPConn).SetLinger(0)
	})), toA())
	_, in, _ := dialRaw(t, e, spdy)
	if b, err := io.ReadAll(in); err == nil {
		t.Errorf("a reset came through as an orderly end, after %q", b)
	}
	if x := e.last(1); x.Flags != "UC" {
		t.Errorf("record: %s %q", x.Flags, x.Detail)
	}
}

func TestUpgradeThatIsAnother(t *testing.T) {
	e := newEdge(t, one(rawBackend(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	})), toA())
	if _, _, res := dialRaw(t, e, spdy); res.StatusCode != 502 {
		t.Errorf("got %d", res.StatusCode)
	}
	if x := e.last(1); x.Flags != "UPE" {
		t.Errorf("record: %s", x.Flags)
	}
}

func TestIdleTunnelEnds(t *testing.T) {
	e := newEdge(t, one(rawBackend(t, func(c net.Conn) {
		in := agree(c)
		_, _ = io.Copy(io.Discard, in)
	})), toA(), func(c *Config) { c.TunnelIdle = 50 * time.Millisecond })
	_, in, _ := dialRaw(t, e, spdy)
	_, _ = io.ReadAll(in)
	if x := e.last(1); x.Flags != "SI" || x.Duration < 50*time.Millisecond {
		t.Errorf("record: %s after %v", x.Flags, x.Duration)
	}
}

func TestH2CUpgradeIsNotPassedOn(t *testing.T) {
	e := newEdge(t, one(echoBackend(t)), toA())
	_, in, res := dialRaw(t, e, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
	b, _ := io.ReadAll(io.LimitReader(in, res.ContentLength))
	if s := parse(t, string(b)); res.StatusCode != 200 || s.Header["Upgrade"] != nil || s.Header["Http2-Settings"] != nil {
		t.Errorf("%d, backend saw %v", res.StatusCode, s.Header)
	}
}

// connectStream opens an extended CONNECT over HTTP/2.
func connectStream(t testing.TB, e *edge, ctx context.Context, protocol, path string) (*http.Response, *io.PipeWriter, error) {
	t.Helper()
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, "CONNECT", e.h2url+path, pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(":protocol", protocol)
	req.Header.Set("Sec-Websocket-Version", "13")
	req.Header.Set("Sec-Websocket-Protocol", "chat")
	req.Header.Set("Origin", "https://a.test")
	res, err := e.h2raw().RoundTrip(req)
	return res, pw, err
}

// writeFrame writes a masked WebSocket frame (RFC 6455, 5.2), with a mask of zero.
func writeFrame(t testing.TB, w io.Writer, op byte, payload string) {
	t.Helper()
	b := []byte{0x80 | op, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint64([]byte{0x80 | op, 0x80 | 127}, uint64(len(payload)))
	}
	b = append(b, 0, 0, 0, 0)
	if _, err := w.Write(append(b, payload...)); err != nil {
		t.Error(err)
	}
}

func readFrame(t testing.TB, r io.Reader) (op byte, payload string) {
	t.Helper()
	var b [10]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		t.Fatal(err)
	}
	n := uint64(b[1])
	switch n {
	case 126:
		_, _ = io.ReadFull(r, b[2:4])
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		_, _ = io.ReadFull(r, b[2:10])
		n = binary.BigEndian.Uint64(b[2:])
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatal(err)
	}
	return b[0] & 15, string(p)
}

func TestWebSocketOverHTTP2(t *testing.T) {
	for _, c := range []struct {
		name string
		conf *upstream.Config
	}{{"to HTTP/1.1", wsBackend(t)}} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, one(c.conf), toA())
			e.serveTLS()
			res, pw, err := connectStream(t, e, t.Context(), "websocket", "/chat?x=1")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			h := res.Header
			if res.StatusCode != 200 || h.Get("Sec-Websocket-Protocol") != "chat" || h.Get("X-Path") != "/chat" ||
				h["Sec-Websocket-Accept"] != nil || h["Upgrade"] != nil || h["Connection"] != nil {
				t.Errorf("answer: %d %v", res.StatusCode, h)
			}
			for _, m := range []string{"hello", strings.Repeat("x", 200_000)} {
				go writeFrame(t, pw, 1, m)
				if op, got := readFrame(t, res.Body); op != 1 || got != m {
					t.Fatalf("%d bytes came back as %d", len(m), len(got))
				}
			}
			writeFrame(t, pw, 8, "\x03\xe8")
			if op, got := readFrame(t, res.Body); op != 8 || got != "\x03\xe8" {
				t.Errorf("close: %d %q", op, got)
			}
			if b, err := io.ReadAll(res.Body); err != nil || len(b) > 0 {
				t.Errorf("end of the stream: %q, %v", b, err)
			}
			pw.Close()
			if x := e.last(1); x.Status != 200 || x.Flags != "" || x.Received < 200_000 || x.Method != "CONNECT" || x.Path != "/chat?x=1" {
				t.Errorf("record: %+v", x)
			}
		})
	}
}

func TestUpgradeTriesAnotherEndpoint(t *testing.T) {
	conf := clusterOf(upstream.HTTP1, closedPort(t), closedPort(t))
	conf.Endpoints = append(conf.Endpoints, wsBackend(t).Endpoints...)
	var tries int
	for range 20 {
		// The endpoint's bad name is remembered, so each time anew.
		e := newEdge(t, one(conf), toA())
		e.serveTLS()
		res, pw, err := connectStream(t, e, t.Context(), "websocket", "/")
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v, %v", res, err)
		}
		pw.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if tries = e.last(1).Attempts; tries > 1 {
			return
		}
	}
	t.Error("no refused connection in 20 times, of 2 chances in 3")
}

func TestExtendedConnectRefusals(t *testing.T) {
	e := newEdge(t, one(wsBackend(t)), toA())
	e.serveTLS()
	for _, c := range []struct {
		protocol, path string
		status         int
	}{{"connect-udp", "/", 501}, {"websocket", "/no", 403}} {
		res, pw, err := connectStream(t, e, t.Context(), c.protocol, c.path)
		if err != nil || res.StatusCode != c.status {
			t.Fatalf("%s %s: %v, %v, want %d", c.protocol, c.path, res, err, c.status)
		}
		pw.Close()
		res.Body.Close()
	}
	// A backend that does not know how to shake hands.
	e2 := newEdge(t, one(rawBackend(t, func(c net.Conn) { agree(c) })), toA())
	e2.serveTLS()
	res, pw, err := connectStream(t, e2, t.Context(), "websocket", "/")
	if err != nil || res.StatusCode != 502 {
		t.Fatalf("wrong accept: %v, %v", res, err)
	}
	pw.Close()
	res.Body.Close()
}

func TestExtendedConnectToWhoDoesNotSwitch(t *testing.T) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "a page") })), toA())
	e.serveTLS()
	res, pw, err := connectStream(t, e, t.Context(), "websocket", "/")
	if err != nil || res.StatusCode != 502 {
		t.Fatalf("%v, %v: a client takes 2xx for an open tunnel", res, err)
	}
	pw.Close()
	res.Body.Close()
}

func TestResetStreamResetsTheTunnel(t *testing.T) {
	over := make(chan error, 1)
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		c, err := up.Upgrade(w, r, nil)
		if err == nil {
			_, _, err = c.ReadMessage()
			c.Close()
		}
		over <- err
	})), toA())
	e.serveTLS()
	res, pw, err := connectStream(t, e, t.Context(), "websocket", "/")
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	res.Body.Close() // resets the stream
	if err := receive(t, over); err == nil || websocket.IsCloseError(err, 1000) {
		t.Errorf("backend: %v", err)
	}
	if x := e.last(1); x.Flags != "DC" {
		t.Errorf("record: %s %q", x.Flags, x.Detail)
	}
}
