package hbone

import (
	"errors"
	"fmt"

	"golang.org/x/net/http2"
)

// Errors that callers branch on.
var (
	// ErrServerClosed is what Serve returns after Shutdown or Close.
	ErrServerClosed = errors.New("hbone: server closed")
	// ErrPoolClosed is what Dial returns after Pool.Shutdown.
	ErrPoolClosed = errors.New("hbone: pool closed")
	// ErrHandshakesFull ends a handshake that had to make room for another; see
	// Limits.MaxHandshakes.
	ErrHandshakesFull = errors.New("hbone: handshake ended to make room: too many are under way; is somebody opening connections without a word?")
	// ErrTunnelClosed ends the streams of a tunnel that was closed at this end.
	ErrTunnelClosed = errors.New("hbone: tunnel closed")

	errStreamClosed = errors.New("hbone: stream closed")
	errAnswered     = errors.New("hbone: stream answered already")
)

// Phase says how far a dial got before it failed.
type Phase string

// The phases of a dial, in order.
const (
	PhaseTCP     Phase = "tcp"     // connecting
	PhaseTLS     Phase = "tls"     // handshake and peer verification
	PhaseH2      Phase = "h2"      // preface and SETTINGS
	PhaseConnect Phase = "connect" // CONNECT sent, answer awaited
)

// DialError is a tunnel or stream that could not be opened.
type DialError struct {
	Phase Phase
	Err   error
}

func (e *DialError) Error() string {
	switch e.Phase {
	case PhaseTCP:
		if isTimeout(e.Err) {
			return fmt.Sprintf("hbone: connect: %v; is a NetworkPolicy or firewall blocking port %d?", e.Err, Port)
		}
		return fmt.Sprintf("hbone: connect: %v", e.Err)
	case PhaseTLS:
		return fmt.Sprintf("hbone: TLS handshake: %v", e.Err)
	case PhaseH2:
		return fmt.Sprintf("hbone: HTTP/2 preface: %v", e.Err)
	default:
		return fmt.Sprintf("hbone: CONNECT: %v", e.Err)
	}
}

func (e *DialError) Unwrap() error { return e.Err }

// StatusError is a CONNECT that the peer answered with something else than 200:
// the peer refused, this end did not fail. HBONE uses 400 for a request that
// makes no sense there, 401 for one that policy denies and 503 for an upstream
// that cannot be reached.
type StatusError struct {
	Status int
	Header []Header
}

func (e *StatusError) Error() string {
	switch e.Status {
	case 400:
		return "hbone: peer answered 400: it does not serve this destination"
	case 401, 403:
		return fmt.Sprintf("hbone: peer answered %d: denied by policy there", e.Status)
	case 503:
		return "hbone: peer answered 503: it could not reach the destination"
	default:
		return fmt.Sprintf("hbone: peer answered %d", e.Status)
	}
}

// ResetError is a stream ended by RST_STREAM, from this end or from the other.
type ResetError struct {
	Code   http2.ErrCode
	Remote bool // the peer sent it
}

func (e *ResetError) Error() string {
	if e.Remote {
		return fmt.Sprintf("hbone: stream reset by peer: %v", e.Code)
	}
	return fmt.Sprintf("hbone: stream reset: %v", e.Code)
}

// GoAwayError is a tunnel that the peer ended with GOAWAY while streams that it
// will not serve were open, or with an error code.
type GoAwayError struct {
	Code  http2.ErrCode
	Debug string
}

func (e *GoAwayError) Error() string {
	if e.Debug != "" {
		return fmt.Sprintf("hbone: peer sent GOAWAY %v: %s", e.Code, e.Debug)
	}
	return fmt.Sprintf("hbone: peer sent GOAWAY %v", e.Code)
}

// connError ends the tunnel: GOAWAY with Code goes to the peer.
type connError struct {
	Code   http2.ErrCode
	Reason string
}

func (e connError) Error() string {
	return fmt.Sprintf("hbone: connection error %v: %s", e.Code, e.Reason)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
