package h2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/net/http2"
)

// connError ends the connection with GOAWAY.
type connError struct {
	code http2.ErrCode
	what string
}

func (e *connError) Error() string { return fmt.Sprintf("h2: client: %s (%v)", e.what, e.code) }

func connFailed(code http2.ErrCode, what string) error { return &connError{code, what} }

// MalformedError is why a request was refused before there was a handler for it:
// with RST_STREAM(PROTOCOL_ERROR), or with Status if that is set (RFC 9113 section
// 8.1.1).
type MalformedError struct {
	Status int
	Err    error
}

func (e *MalformedError) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("request refused with %d: %v", e.Status, e.Err)
	}
	return "malformed request: " + e.Err.Error()
}
func (e *MalformedError) Unwrap() error { return e.Err }

// ResetError says that the client has reset the stream. It is the cause of the
// request's context.
type ResetError struct{ Code http2.ErrCode }

func (e *ResetError) Error() string { return "h2: the client reset the stream: " + e.Code.String() }

// Unwrap makes it an unexpected end for who reads the body.
func (e *ResetError) Unwrap() error { return io.ErrUnexpectedEOF }

// canceled makes of why a request ended what its context's Err says.
func canceled(why error) error {
	if errors.Is(why, context.Canceled) {
		return why
	}
	return &canceledError{why}
}

type canceledError struct{ why error }

func (e *canceledError) Error() string   { return e.why.Error() }
func (e *canceledError) Unwrap() []error { return []error{e.why, context.Canceled} }

// Why requests and connections end.
var (
	errClientGone    = fmt.Errorf("h2: the client closed the connection: %w", io.ErrUnexpectedEOF)
	errHandlerDone   = fmt.Errorf("h2: the handler has returned: %w", context.Canceled)
	errWriteAfter    = errors.New("h2: write after the end of the answer")
	errStalled       = errors.New("h2: the client has taken nothing of the answer for too long")
	errBodyStalled   = fmt.Errorf("h2: the client has sent nothing of the request's body for too long: %w", os.ErrDeadlineExceeded)
	errHeaderTimeout = errors.New("h2: the client stopped in the middle of a frame")
	errPrefaceLate   = errors.New("h2: no connection preface in time")
	errDrained       = errors.New("h2: drained")
	errBroken        = errors.New("h2: the stream broke the protocol")
)

// What is wrong with a request.
var (
	errFieldValue     = errors.New("invalid character in a field value, or whitespace around it")
	errFieldName      = errors.New("field name that is not a token in lower case")
	errPseudoLate     = errors.New("pseudo-header field after a regular one")
	errPseudoUnknown  = errors.New("unknown pseudo-header field")
	errPseudoTwice    = errors.New("pseudo-header field repeated")
	errPseudoMissing  = errors.New("pseudo-header field missing")
	errPseudoEmpty    = errors.New("pseudo-header field empty")
	errPseudoTrailer  = errors.New("pseudo-header field in a trailer")
	errConnection     = errors.New("field of a connection, which HTTP/2 does not have")
	errTE             = errors.New("te other than trailers")
	errMethod         = errors.New("invalid :method")
	errScheme         = errors.New(":scheme that is neither http nor https")
	errAuthority      = errors.New("invalid :authority or host")
	errHosts          = errors.New("host differs from :authority, or is repeated")
	errPath           = errors.New("invalid :path")
	errProtocol       = errors.New("invalid :protocol, or :protocol without CONNECT")
	errConnectForm    = errors.New("CONNECT with :scheme or :path")
	errContentLength  = errors.New("invalid or repeated content-length")
	errExpectUnknown  = errors.New("unknown expectation")
	errLengthMismatch = errors.New("content-length that differs from the body")
	errTrailerField   = errors.New("field that may not be in a trailer")
	errTrailerOpen    = errors.New("trailer without END_STREAM")
	errSelfDependent  = errors.New("stream that depends on itself")
	errHeaderTooLarge = errors.New("header too large")
	errTargetTooLong  = errors.New(":path too long")
)
