package upstream

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/adit-mesh/adit/ingress/h1"
)

// roundTrip1 sends req over HTTP/1.1.
func (x *exchange) roundTrip1(req *http.Request) (*http.Response, *Error) {
	p := x.host.peer
	out := req
	for fresh := false; ; fresh = true {
		c, err := p.take1(x.ctx, x.timeout, fresh)
		if err != nil {
			e := connectError(x.ctx, x.host, err)
			if out != req {
				out.Body.Close()
				e.BodyRead = true
			}
			return nil, e
		}
		used := c.used
		resp, err := c.roundTrip(out)
		if err == nil {
			x.hold1(resp, c)
			return resp, nil
		}
		c.close()
		e := x.error1(err)
		e.BodyRead = e.BodyRead || out != req
		if !used || fresh || e.Kind != Closed || e.Processed && !idempotent(req.Method) {
			return nil, e
		}
		if e.BodyRead {
			body := bodyAgain(req)
			if body == nil {
				return nil, e
			}
			again := *req
			again.Body = body
			out = &again
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
func (x *exchange) error1(err error) *Error {
	e := &Error{Kind: Closed, Host: x.host, Err: err}
	var ce *h1.ClientError
	if errors.As(err, &ce) {
		e.Sent, e.BodyRead, e.Err = ce.Wrote, ce.BodyRead, ce.Err
	}
	e.Processed = e.Sent
	var unwritable *h1.RequestError
	var body *h1.BodyError
	var protocol *h1.ProtocolError
	switch {
	case errors.As(err, &unwritable):
		e.Kind = BadRequest
	case errors.As(err, &body):
		e.Kind = RequestBody
	case x.ctx.Err() != nil:
		c := contextError(x.ctx, x.host)
		e.Kind, e.Err = c.Kind, c.Err
	case errors.As(err, &protocol):
		e.Kind = Malformed
	case ce != nil && ce.Received:
		e.Err = fmt.Errorf("the connection ended within the answer: %w", e.Err)
	default:
		e.Err = fmt.Errorf("the backend closed the connection before it answered: %w", e.Err)
	}
	return e
}
