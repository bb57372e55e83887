package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"
)

const (
	defaultConnectTimeout = 5 * time.Second
	// h2Tries is how often a request is sent that HTTP/2 peers promise not to have
	// looked at.
	h2Tries = 3
	xfcc    = "X-Forwarded-Client-Cert"
)

func (c *Config) connectTimeout() time.Duration {
	if c.ConnectTimeout > 0 {
		return c.ConnectTimeout
	}
	return defaultConnectTimeout
}

// RoundTrip sends req to h, which Pick chose, and returns the answer when its
// header is there. The request's body may still be on its way then. The end of the
// request's context, at any time until the answer's body is read or closed, closes
// the connection or resets the stream.
//
// The request is sent as it is: req.URL.RequestURI() to req.Host, with the header
// that it has, and X-Forwarded-Client-Cert if the connection is in the mesh (after
// the value that the request has, if any). The scheme is the connection's. A
// request to upgrade goes over HTTP/1.1 whatever the cluster's protocol is; the
// Body of the 101 answer is an io.ReadWriteCloser.
//
// A request that finds a kept connection dead is sent once more on a new one, if
// nothing came back and nothing was sent, or it is safe to send again (RFC 9110
// section 9.2.2). Nothing else is retried here. All errors are *Error, those of
// the answer's Body too. req.Body is closed in the end, unless Error.BodyRead is
// false: the request can then be given to RoundTrip again.
//
// The caller closes the answer's body, or reads it to its end.
func (c *Cluster) RoundTrip(req *http.Request, h *Host) (*http.Response, error) {
	cfg := c.members.Load().cfg
	p := h.peer
	if t := p.key.tls; t != nil && t.cfg.Invalid != "" {
		return nil, &Error{Kind: Invalid, Host: h, Err: errors.New(t.cfg.Invalid)}
	}
	p.active.Add(1)
	x := exchange{ctx: req.Context(), host: h, timeout: cfg.connectTimeout()}
	var resp *http.Response
	var err *Error
	if cfg.Protocol == H2 && !isUpgrade(req.Header) {
		resp, err = x.roundTrip2(req)
	} else {
		resp, err = x.roundTrip1(req)
	}
	if err != nil {
		p.active.Add(-1)
		if err.BodyRead {
			req.Body.Close()
		}
		return nil, err
	}
	p.health.succeeded()
	return resp, nil
}

// exchange is one request and its answer.
type exchange struct {
	ctx     context.Context
	host    *Host
	timeout time.Duration
}

func isUpgrade(h http.Header) bool {
	return len(h["Upgrade"]) > 0 && hasToken(h["Connection"], "upgrade")
}

func hasToken(values []string, token string) bool {
	for _, v := range values {
		for v != "" {
			var one string
			one, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(textproto.TrimString(one), token) {
				return true
			}
		}
	}
	return false
}

// outgoing is a request as it is sent: req itself stays the caller's.
type outgoing struct {
	req  http.Request
	url  url.URL
	body sendBody
}

// newOutgoing makes a copy of req, with body instead of its own if that is not nil.
func newOutgoing(req *http.Request, body io.ReadCloser) *outgoing {
	o := &outgoing{req: *req}
	if body != nil {
		o.body.rc = body
		o.req.Body = &o.body
	}
	return o
}

// bodyOf is the body of a request that has one, or nil.
func bodyOf(req *http.Request) io.ReadCloser {
	if req.Body == http.NoBody {
		return nil
	}
	return req.Body
}

// bodyAgain returns the body of req to send it once more, or nil.
func bodyAgain(req *http.Request) io.ReadCloser {
	if req.GetBody == nil {
		return nil
	}
	rc, err := req.GetBody()
	if err != nil {
		return nil
	}
	return rc
}

func addXFCC(h http.Header, value string) {
	if old := h[xfcc]; len(old) > 0 {
		value = strings.Join(old, ",") + "," + value
	}
	h[xfcc] = []string{value}
}

// idempotent are the methods that may be sent again although the backend may have
// acted on them (RFC 9110 section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "", "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}
