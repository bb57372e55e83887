package h1

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"time"
)

// maxInforms bounds the informational answers before an answer.
const maxInforms = 16

// receive reads the answer's header. waits says that the request's body is sent
// only with leave of the peer, or when it has kept silent for ContinueTimeout.
func (cc *ClientConn) receive(req *http.Request, waits bool) (*http.Response, error) {
	if waits {
		cc.c.SetReadDeadline(time.Now().Add(cc.opt.ContinueTimeout))
	}
	for informs := 0; ; {
		head, lines, err := cc.readHead()
		if waits {
			if err := cc.endWait(); err != nil {
				return nil, err
			}
		}
		if waits && !cc.read.seen && errors.Is(err, os.ErrDeadlineExceeded) {
			waits = false
			cc.startUpload(req, bodyLength(req))
			continue
		}
		if err != nil {
			return nil, err
		}
		a := &answer{}
		if err := parseResponse(head, lines, &a.Response); err != nil {
			return nil, &ProtocolError{err}
		}
		a.Request = req
		switch code := a.StatusCode; {
		case code >= 200 || code == http.StatusSwitchingProtocols:
			if waits {
				// It was not let send the body, and may not send anything else.
				cc.broken.Store(true)
				req.Body.Close()
			}
			return &a.Response, cc.beginBody(a)
		case informs == maxInforms:
			return nil, &ProtocolError{errManyInforms}
		case code == http.StatusContinue && waits:
			waits = false
			cc.startUpload(req, bodyLength(req))
		}
		informs++
		if err := cc.inform(&a.Response); err != nil {
			return nil, err
		}
	}
}

// endWait removes the deadline that 100 Continue was waited for with.
func (cc *ClientConn) endWait() error {
	cc.c.SetReadDeadline(time.Time{})
	if cc.ctx.Err() != nil { // which has set another, perhaps before
		return context.Cause(cc.ctx)
	}
	return nil
}

// inform passes an informational answer on. 100 Continue is between this connection
// and its peer.
func (cc *ClientConn) inform(resp *http.Response) error {
	if resp.StatusCode == http.StatusContinue {
		return nil
	}
	trace := httptrace.ContextClientTrace(cc.ctx)
	if trace == nil || trace.Got1xxResponse == nil {
		return nil
	}
	return trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header))
}

// httpSlash is how every answer begins: a peer who begins otherwise is not waited
// for.
var httpSlash = []byte("HTTP/1.")

// readHead reads a whole head of so many lines.
func (cc *ClientConn) readHead() (head string, lines int, err error) {
	r := &cc.read
	var scan headScan
	for {
		if in := r.bytes(); len(in) > 0 {
			end, err := scan.scan(in)
			switch {
			case err != nil:
				return "", 0, &ProtocolError{err}
			case scan.pos > cc.opt.MaxHeaderBytes:
				return "", 0, &ProtocolError{errHeadTooLarge}
			case scan.lines-1 > cc.opt.MaxHeaders:
				return "", 0, &ProtocolError{errTooMany}
			case !bytes.HasPrefix(in, httpSlash[:min(len(httpSlash), len(in))]):
				return "", 0, &ProtocolError{errStatusLine}
			case end > 0:
				head = string(in[:end])
				r.discard(end)
				return head, scan.lines, nil
			}
		}
		if r.full() {
			r.grow(min(4*len(r.buf), cc.opt.MaxHeaderBytes+bufferSize))
		}
		if err := r.more(); err != nil {
			return "", 0, truncated(err)
		}
	}
}

// beginBody decides how long the answer's body is, and whether the connection
// outlives it (RFC 9112 sections 6.3 and 9.3).
func (cc *ClientConn) beginBody(a *answer) error {
	resp := &a.Response
	http11 := resp.ProtoMinor == 1
	length, err := messageLength(resp.Header, http11)
	if err != nil {
		return &ProtocolError{err}
	}
	connection := resp.Header["Connection"]
	resp.Close = hasToken(connection, "close") || !http11 && !hasToken(connection, "keep-alive")
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if resp.Request.Header["Upgrade"] == nil {
			return &ProtocolError{errSwitch}
		}
		resp.ContentLength = -1
		resp.Body = cc.upgrade()
		return nil
	}
	if resp.Close || resp.Request.Close {
		cc.broken.Store(true)
	}
	if te := resp.Header["Transfer-Encoding"]; te != nil {
		delete(resp.Header, "Transfer-Encoding")
		te[0] = "chunked"
		resp.TransferEncoding = te
	}
	if tr, ok := resp.Header["Trailer"]; ok && length == lengthChunked {
		delete(resp.Header, "Trailer")
		if resp.Trailer, err = announced(tr); err != nil {
			return &ProtocolError{err}
		}
	}
	resp.ContentLength = max(length, -1)
	switch {
	case resp.Request.Method == http.MethodHead:
		length = 0
	case !bodyAllowed(resp.StatusCode):
		length, resp.ContentLength = 0, 0
	}
	if length == 0 {
		resp.Body = http.NoBody
		cc.release()
		return nil
	}
	if length == lengthUnknown {
		cc.broken.Store(true)
	}
	a.body.cc, a.body.resp = cc, resp
	a.body.start(&cc.read, length)
	resp.Body = &a.body
	return nil
}

// answer is a response and its body: one allocation.
type answer struct {
	http.Response
	body responseBody
}

// parseResponse fills resp from a whole head of n lines.
func parseResponse(s string, n int, resp *http.Response) error {
	line, s := cutLine(s)
	// HTTP-version SP status-code SP [ reason-phrase ]; the last SP is often left
	// out if there is no reason, and nothing depends on it.
	if len(line) < len("HTTP/1.1 200") || line[:7] != "HTTP/1." || line[7] != '0' && line[7] != '1' ||
		line[8] != ' ' || len(line) > 12 && line[12] != ' ' || !validValue(line) {
		return errStatusLine
	}
	code := 0
	for _, c := range []byte(line[9:12]) {
		if !isDigit(c) {
			return errStatusLine
		}
		code = code*10 + int(c-'0')
	}
	if code < 100 {
		return errStatusLine
	}
	resp.Proto, resp.ProtoMajor, resp.ProtoMinor = line[:8], 1, int(line[7]-'0')
	resp.Status, resp.StatusCode = line[9:], code
	h, err := parseFields(s, n-1, 0)
	resp.Header = h
	return err
}
