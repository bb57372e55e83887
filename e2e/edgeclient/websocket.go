package edgeclient

//lint:file-ignore SA1019 a client that others bring; extended CONNECT takes its connections

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// WebSocket is one that is open. It knows no more of RFC 6455 than short texts.
type WebSocket struct {
	// Opening is the answer that opened it.
	Opening *http.Response

	stream io.ReadWriter
	read   *bufio.Reader
	close  func() error
}

// Say sends a text of at most 125 bytes and returns the next one that comes.
func (w *WebSocket) Say(text string) (string, error) {
	const short = 125
	if len(text) > short {
		return "", errors.New("the text is too long for this client")
	}
	// RFC 6455, section 5.2: FIN and text, MASK and the length, the mask.
	frame := []byte{0x81, 0x80 | byte(len(text)), 1, 2, 3, 4}
	for i := range len(text) {
		frame = append(frame, text[i]^frame[2+i%4])
	}
	if _, err := w.stream.Write(frame); err != nil {
		return "", err
	}
	var head [2]byte
	if _, err := io.ReadFull(w.read, head[:]); err != nil {
		return "", err
	}
	if head[0] != 0x81 || head[1] > short {
		return "", fmt.Errorf("a frame that begins with %x is not a short text", head)
	}
	answer := make([]byte, head[1])
	_, err := io.ReadFull(w.read, answer)
	return string(answer), err
}

// Close drops the connection.
func (w *WebSocket) Close() error { return w.close() }

// OpenWebSocket opens a WebSocket at an https URL, on a connection of its own.
// ctx is that of the opening, and for HTTP/2 of all of it.
func OpenWebSocket(ctx context.Context, t Target, v Version, at string) (*WebSocket, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	switch v {
	case HTTP1:
		return upgrade(ctx, t, u)
	case HTTP2:
		return connect2(ctx, t, u)
	case HTTP3:
		return connect3(ctx, t, u)
	}
	return nil, fmt.Errorf("no WebSocket over %s", v)
}

// upgrade is RFC 6455, section 4.1.
func upgrade(ctx context.Context, t Target, u *url.URL) (*WebSocket, error) {
	c, err := t.dialTLS(ctx, u.Hostname(), HTTP1)
	if err != nil {
		return nil, err
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	_ = c.SetDeadline(time.Now().Add(dialTimeout))
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		u.RequestURI(), u.Host, base64.StdEncoding.EncodeToString(nonce[:]))
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(res.Status)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	return &WebSocket{res, c, r, c.Close}, nil
}

// connect2 is RFC 8441.
func connect2(ctx context.Context, t Target, u *url.URL) (*WebSocket, error) {
	c, err := t.dialTLS(ctx, u.Hostname(), HTTP2)
	if err != nil {
		return nil, err
	}
	h2, err := new(http2.Transport).NewClientConn(c)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, u.String(), pr)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	req.Header.Set(":protocol", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	res, err := h2.RoundTrip(req)
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return &WebSocket{res, readWriter{res.Body, pw}, bufio.NewReader(res.Body), func() error { return errors.Join(pw.Close(), c.Close()) }}, nil
}

type readWriter struct {
	io.Reader
	io.Writer
}

// connect3 is RFC 9220.
func connect3(ctx context.Context, t Target, u *url.URL) (ws *WebSocket, err error) {
	q, err := t.open()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = q.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	config := t.tls(HTTP3)
	config.ServerName = u.Hostname()
	conn, err := q.transport.Dial(ctx, udpAddr(t), config, nil)
	if err != nil {
		return nil, err
	}
	h3 := new(http3.Transport).NewClientConn(conn)
	select {
	case <-h3.ReceivedSettings():
	case <-ctx.Done():
		return nil, fmt.Errorf("no SETTINGS came: %w", ctx.Err())
	}
	if !h3.Settings().EnableExtendedConnect {
		return nil, errors.New("the SETTINGS do not offer extended CONNECT")
	}
	stream, err := h3.OpenRequestStream(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodConnect, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Proto = "websocket"
	req.Header.Set("Sec-WebSocket-Version", "13")
	if err := stream.SendRequestHeader(req); err != nil {
		return nil, err
	}
	res, err := stream.ReadResponse()
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	if err != nil {
		return nil, err
	}
	return &WebSocket{res, stream, bufio.NewReader(stream), func() error {
		return errors.Join(conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), ""), q.Close())
	}}, nil
}
