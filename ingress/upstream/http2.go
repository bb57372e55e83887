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
	own := bodyOf(req)
	body := own
	for try := 1; ; try++ {
		resp, e := x.try2(req, body)
		if e == nil {
			return resp, nil
		}
		next := body
		more := !e.Processed && (e.Kind == Closed || e.Kind == Reset) && try < h2Tries
		if more && e.BodyRead {
			next = bodyAgain(req)
			more = next != nil
		}
		if body != own && (!more || next != body) {
			body.Close()
		}
		if !more {
			e.BodyRead = e.BodyRead || body != own
			return nil, e
		}
		body = next
	}
}

// try2 sends req, with body, once.
func (x *exchange) try2(req *http.Request, body io.ReadCloser) (*http.Response, *Error) {
	p := x.host.peer
	c, err := p.take2(x.ctx, x.timeout)
	if err != nil {
		return nil, connectError(x.ctx, x.host, err)
	}
	o := c.outgoing(req, body)
	news := c.news.Load()
	resp, err := c.cc.RoundTrip(&o.req)
	if err == nil {
		b := &answerBody{rc: resp.Body}
		b.x, b.two = *x, c
		resp.Body = b
		return resp, nil
	}
	e := x.error2(err, &o.body)
	if e.Kind == Timeout && c.news.Load() == news {
		p.check(c)
	}
	p.put2(c)
	return nil, e
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
