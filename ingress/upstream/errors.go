package upstream

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// ErrNoEndpoints is returned by Pick, DialStream and DialPacket for a cluster that
// has no endpoint at all. Endpoints that do not answer are no such case.
var ErrNoEndpoints = errors.New("upstream: no endpoints: does the Service select a ready pod?")

// ErrClosed is what a Set that was closed answers.
var ErrClosed = errors.New("upstream: closed")

// Kind says what went wrong with a request or a connection.
type Kind uint8

// The kinds of Error.
const (
	// Connect: no connection could be had, so nothing was sent.
	Connect Kind = iota + 1
	// ConnectTimeout is Connect by Config.ConnectTimeout.
	ConnectTimeout
	// TLSFailed: the handshake failed, or the certificate is not what the
	// configuration wants. Nothing was sent.
	TLSFailed
	// Invalid: the configuration does not allow to speak to anybody (TLS.Invalid).
	Invalid
	// Overflow: all connections that one endpoint may have are busy, and nobody
	// gave one back in time, or too many wait already.
	Overflow
	// Closed: the connection ended before the answer had come.
	Closed
	// Reset: the peer reset the HTTP/2 stream.
	Reset
	// Malformed: what came is no HTTP answer.
	Malformed
	// Timeout: the request's context reached its deadline.
	Timeout
	// Canceled: the request's context was canceled, as when the client is gone.
	Canceled
	// RequestBody: the request's body could not be read, or is not what its header
	// says.
	RequestBody
	// BadRequest: the request has a method, target or header field that cannot be
	// written. Nothing was sent, and no other endpoint would get it either.
	BadRequest
)

var kinds = [...]struct {
	name, flag string
	status     int
}{
	Connect:        {"connect", "UF", 503},
	ConnectTimeout: {"connect timeout", "UF", 503},
	TLSFailed:      {"TLS", "UF", 503},
	Invalid:        {"invalid", "UF", 503},
	Overflow:       {"overflow", "UO", 503},
	Closed:         {"closed", "UC", 503},
	Reset:          {"reset", "UR", 503},
	Malformed:      {"malformed", "UPE", 502},
	Timeout:        {"timeout", "UT", 504},
	Canceled:       {"canceled", "DC", 499},
	RequestBody:    {"request body", "DPE", 400},
	BadRequest:     {"bad request", "DPE", 400},
}

func (k Kind) String() string { return kinds[k].name }

// Error is why a request or connection failed. Every error of RoundTrip is one.
type Error struct {
	Kind Kind
	Host *Host // whom it was meant for
	// Sent says that a part of the request may have reached the peer.
	Sent bool
	// Processed says that the peer may have acted on the request. It is false
	// although Sent is true if an HTTP/2 peer promises that it did nothing
	// (RFC 9113 section 8.7).
	Processed bool
	// BodyRead says that the request's body was read from: without GetBody the
	// request cannot be sent again. If it is false, the body has not been closed.
	BodyRead bool
	Err      error
}

func (e *Error) Error() string { return fmt.Sprintf("upstream %s: %v", e.Host, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Flag is Envoy's response flag for the access log.
func (e *Error) Flag() string { return kinds[e.Kind].flag }

// Status is what a client is answered: 502, 503 or 504; 400 if it was its fault;
// and 499 for the log of a client that is gone.
func (e *Error) Status() int { return kinds[e.Kind].status }

// connecting says that no connection could be had.
func (e *Error) connecting() bool {
	return e.Kind == Connect || e.Kind == ConnectTimeout || e.Kind == TLSFailed
}

// errConnectTimeout is the cause of a context that ended because of
// Config.ConnectTimeout, and not because of its parent.
var errConnectTimeout = errors.New("timed out")

// connectError makes an error of one that came while connecting. ctx is the
// caller's, not the one with the timeout.
func connectError(ctx context.Context, h *Host, err error) *Error {
	e := &Error{Host: h, Kind: Connect, Err: err}
	var cert *certificateError
	var hs *handshakeError
	switch {
	case ctx.Err() != nil:
		e = contextError(ctx, h)
		e.Err = fmt.Errorf("%w while connecting", e.Err)
	case errors.Is(err, errOverflow):
		e.Kind = Overflow
	case errors.Is(err, errConnectTimeout):
		e.Kind = ConnectTimeout
		e.Err = fmt.Errorf("connect: %w; is the pod running, and does a NetworkPolicy let the gateway in?", err)
	case errors.As(err, &cert), errors.As(err, &hs):
		e.Kind = TLSFailed
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Err = fmt.Errorf("%w: nobody listens there; is the Service's targetPort the one that the pod serves?", err)
	}
	return e
}

// contextError tells why the request's own context ended.
func contextError(ctx context.Context, h *Host) *Error {
	e := &Error{Host: h, Kind: Canceled, Err: context.Cause(ctx)}
	if ctx.Err() == context.DeadlineExceeded || isTimeout(e.Err) {
		e.Kind = Timeout
	}
	return e
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
