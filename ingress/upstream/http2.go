package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"golang.org/x/net/http2"
)

// roundTrip2 sends req over HTTP/2.
func (x *exchange) roundTrip2(req *http.Request) (*http.Response, *Error) {
	p := x.host.peer
	body := bodyOf(req)
	var sent *sendBody
	for try := 1; ; try++ {
		c, err := p.take2(x.ctx, x.timeout)
		if err != nil {
			e := connectError(x.ctx, x.host, err)
			e.BodyRead = sent != nil && sent.read.Load()
			return nil, e
		}
		o := c.outgoing(req, body)
		if body != nil {
			sent = &o.body
		}
		resp, err := c.cc.RoundTrip(&o.req)
		if err == nil {
			b := &answerBody{rc: resp.Body}
			b.x, b.two = *x, c
			resp.Body = b
			return resp, nil
		}
		e := x.error2(err, sent)
		if e.Kind == Timeout {
			p.check(c)
		}
		p.put2(c)
		if e.Processed || e.Kind != Closed && e.Kind != Reset || try == h2Tries {
			return nil, e
		}
		if sent != nil {
			var ok bool
			if body, ok = anew(req, sent); !ok {
				return nil, e
			}
		}
	}
}

// outgoing is req as it goes over c. Its header is a copy wherever it differs, for
// http2 may look at it after RoundTrip has returned.
func (c *conn2) outgoing(req *http.Request, body io.ReadCloser) *outgoing {
	o := newOutgoing(req, body)
	_, named := req.Header["User-Agent"]
	if !named || c.xfcc != "" {
		h := make(http.Header, len(req.Header)+2)
		for k, v := range req.Header {
			h[k] = v
		}
		if !named {
			h["User-Agent"] = nil // http2 would name itself
		}
		if c.xfcc != "" {
			addXFCC(h, c.xfcc)
		}
		o.req.Header = h
	}
	o.url = *req.URL
	o.url.Scheme, o.req.URL = "http", &o.url
	if c.Conn != c.raw.Conn {
		o.url.Scheme = "https"
	}
	return o
}

// error2 tells what an error of http2 means for the request. Some of its errors
// are known by their text alone.
func (x *exchange) error2(err error, sent *sendBody) *Error {
	e := &Error{Kind: Closed, Host: x.host, Sent: true, Processed: true, Err: err}
	var stream http2.StreamError
	var conn http2.ConnectionError
	switch {
	case sent != nil && sent.failure() != nil:
		e.Kind, e.Err = RequestBody, sent.failure()
	case x.ctx.Err() != nil:
		c := contextError(x.ctx, x.host)
		e.Kind, e.Err = c.Kind, c.Err
	case errors.As(err, &stream):
		switch {
		case stream.Cause == nil || stream.Cause.Error() != "received from peer":
			e.Kind = Malformed
		default:
			e.Kind = Reset
			e.Processed = stream.Code != http2.ErrCodeRefusedStream
			e.Err = fmt.Errorf("the backend reset the stream: %v", stream.Code)
		}
	case errors.As(err, &conn):
		e.Kind = Malformed
	default:
		switch err.Error() {
		case "http2: client conn not usable", "http2: client conn could not be established":
			e.Sent, e.Processed = false, false
		case "http2: Transport received Server's graceful shutdown GOAWAY":
			e.Processed = false
		case "http2: response header list larger than advertised limit":
			e.Kind = Malformed
		case "http2: request header list larger than peer's advertised limit":
			e.Kind, e.Sent, e.Processed = BadRequest, false, false
		default:
			if strings.HasPrefix(err.Error(), "http2: invalid ") {
				e.Kind, e.Sent, e.Processed = BadRequest, false, false
			}
		}
	}
	if sent != nil {
		e.BodyRead = sent.read.Load()
	}
	return e
}
