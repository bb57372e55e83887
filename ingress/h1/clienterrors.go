package h1

import (
	"errors"
	"fmt"
)

// ClientError is why a RoundTrip, or the reading of an answer's body, came to
// nothing. The connection is closed.
type ClientError struct {
	// Wrote says that bytes of the request may have reached the peer.
	Wrote bool
	// BodyRead says that the request's body was read from; it is closed then, and if
	// it is still being read, that ends with the Read. If not, the body is untouched
	// and not closed: the request may be sent elsewhere.
	BodyRead bool
	// Received says that a byte of the answer came. If not, and the connection had
	// carried a request before, the peer has most likely closed it as idle: a
	// request that may be repeated can be.
	Received bool
	// Err is a *RequestError, a *ProtocolError, a *BodyError, the cause of the
	// request's context, or an error of the connection.
	Err error
}

func (e *ClientError) Error() string {
	switch {
	case e.Received:
		return "h1: in the answer: " + e.Err.Error()
	case e.Wrote:
		return "h1: before the answer: " + e.Err.Error()
	}
	return "h1: before the request: " + e.Err.Error()
}
func (e *ClientError) Unwrap() error { return e.Err }

// RequestError is a request that cannot be written: by whatever connection, it
// would not get through. Nothing of it was sent.
type RequestError struct{ Err error }

func (e *RequestError) Error() string {
	return fmt.Sprintf("the request cannot be written: %v", e.Err)
}
func (e *RequestError) Unwrap() error { return e.Err }

// ProtocolError is a malformed answer: another reader might find another end of
// it. Nothing more is read from the peer.
type ProtocolError struct{ Err error }

func (e *ProtocolError) Error() string { return fmt.Sprintf("malformed answer: %v", e.Err) }
func (e *ProtocolError) Unwrap() error { return e.Err }

// BodyError is an error of the request's body, not of the connection: most likely
// the client has gone away.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return fmt.Sprintf("reading the request body: %v", e.Err) }
func (e *BodyError) Unwrap() error { return e.Err }

var (
	errStatusLine    = errors.New("invalid status line")
	errManyInforms   = errors.New("too many informational answers")
	errSwitch        = errors.New("101 to a request that asked for no upgrade")
	errBusy          = errors.New("the connection carries another request")
	errClosed        = errors.New("the connection is closed")
	errBodyLong      = errors.New("longer than Content-Length")
	errBodyShort     = errors.New("shorter than Content-Length")
	errBodyClosed    = errors.New("read after Close")
	errConnectMethod = errors.New("CONNECT is not carried")
	errTrailerWrite  = errors.New("invalid trailer field")
)
