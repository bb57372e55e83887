package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"
)

// roundTrip1 sends req over HTTP/1.1.
func (x *exchange) roundTrip1(req *http.Request) (*http.Response, *Error) {
	p := x.host.peer
	body := bodyOf(req)
	out, sent := req, (*sendBody)(nil)
	for fresh := false; ; fresh = true {
		if body != nil && (sent == nil || sent.rc != body) {
			o := newOutgoing(req, body)
			out, sent = &o.req, &o.body
		}
		c, err := p.take1(x.ctx, x.timeout, fresh)
		if err != nil {
			e := connectError(x.ctx, x.host, err)
			e.BodyRead = sent != nil && sent.read.Load()
			return nil, e
		}
		used := c.used
		resp, err := c.roundTrip(out)
		if err == nil {
			x.hold1(resp, c)
			return resp, nil
		}
		c.close()
		e := x.error1(err, sent)
		if !used || fresh || e.Kind != Closed || e.Processed && !idempotent(req.Method) {
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

// roundTrip is the connection's, with the header field that the mesh adds.
func (c *conn1) roundTrip(req *http.Request) (*http.Response, error) {
	if c.xfcc == "" {
		return c.h1.RoundTrip(req)
	}
	old, had := req.Header[xfcc]
	addXFCC(req.Header, c.xfcc)
	defer func() {
		if had {
			req.Header[xfcc] = old
		} else {
			delete(req.Header, xfcc)
		}
	}()
	return c.h1.RoundTrip(req)
}

// hold1 ties the connection to the answer's body.
func (x *exchange) hold1(resp *http.Response, c *conn1) {
	switch rwc, ok := resp.Body.(io.ReadWriteCloser); {
	case resp.StatusCode == http.StatusSwitchingProtocols && ok:
		b := &upgraded{ReadWriteCloser: rwc}
		b.x, b.one = *x, c
		resp.Body = b
	case resp.Body == http.NoBody:
		x.host.peer.active.Add(-1)
		x.host.peer.put1(c)
	default:
		b := &answerBody{rc: resp.Body}
		b.x, b.one = *x, c
		resp.Body = b
	}
}

// error1 tells what an error of h1 means for the request.
func (x *exchange) error1(err error, sent *sendBody) *Error {
	e := &Error{Kind: Closed, Host: x.host, Sent: true, Processed: true, Err: err}
	var ce *clientError
	isClient := errors.As(err, &ce)
	switch {
	case sent != nil && sent.failure() != nil:
		e.Kind, e.Err = RequestBody, sent.failure()
	case x.ctx.Err() != nil:
		c := contextError(x.ctx, x.host)
		e.Kind, e.Err = c.Kind, c.Err
	case isClient && ce.Received:
		e.Kind = Malformed
	case isClient:
		e.Sent, e.Processed = ce.Wrote, ce.Wrote
		e.Err = fmt.Errorf("the backend closed the connection before it answered: %w", err)
	}
	if sent != nil {
		e.BodyRead = sent.read.Load()
	}
	return e
}
