package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// deniedError is a refusal by this side's policy.
type deniedError struct {
	cause    error // nil: refused when it was opened
	decision policy.Decision
}

func (e *deniedError) Error() string {
	why := e.decision.Reason
	if p := e.decision.Policy; p != "" && !strings.Contains(why, p) {
		why = fmt.Sprintf("%s (policy %s)", why, p)
	}
	if e.cause != nil {
		return e.cause.Error() + ": " + why
	}
	return "connection refused by policy: " + why
}

func (e *deniedError) Unwrap() error { return e.cause }

// refusedError is a destination that the store knows and that must not be
// dialled.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// loopError is a connection to the agent's own ports.
type loopError struct{ port uint16 }

func (e *loopError) Error() string {
	return fmt.Sprintf("destination port %d belongs to the agent itself", e.port)
}

// noIdentityError: this side has no certificate to show.
type noIdentityError struct{ err error }

func (e *noIdentityError) Error() string { return e.err.Error() }
func (e *noIdentityError) Unwrap() error { return e.err }

// endFlag is the response flag of a connection that was open and ended in err.
// Only policy has a flag for that: a reset is nobody's failure to connect.
func endFlag(err error) telemetry.Flag {
	if err == nil {
		return telemetry.FlagNone
	}
	if denied := new(deniedError); errors.As(err, &denied) {
		return telemetry.FlagDeny
	}
	return telemetry.FlagNone
}

// flagOf is the response flag of a connection that err kept from being opened.
func flagOf(err error) telemetry.Flag {
	var (
		denied *deniedError
		noID   *noIdentityError
		svid   *identity.SVIDError
		status *hbone.StatusError
		dial   *hbone.DialError
	)
	switch {
	case err == nil:
		return telemetry.FlagNone
	case errors.As(err, &denied):
		return telemetry.FlagDeny
	case errors.As(err, &noID), errors.As(err, &svid):
		return telemetry.FlagIdentityError
	case errors.As(err, &status):
		if status.Status == 401 || status.Status == 403 {
			return telemetry.FlagDeny
		}
		return telemetry.FlagConnect
	case errors.As(err, &dial):
		return flagOfDial(dial)
	}
	return telemetry.FlagConnect
}

func flagOfDial(err *hbone.DialError) telemetry.Flag {
	switch err.Phase {
	case hbone.PhaseTCP:
		if isTimeout(err.Err) {
			return telemetry.FlagNetworkPolicy // port 15008 silently dropped is what a NetworkPolicy does
		}
		return telemetry.FlagConnect
	case hbone.PhaseTLS:
		return telemetry.FlagTLSFailure
	case hbone.PhaseH2:
		return telemetry.FlagH2Failure
	}
	return telemetry.FlagConnect
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// retryable reports whether another endpoint may succeed where this one failed.
// A refusal by policy is an answer, not a failure.
func retryable(err error) bool {
	var (
		denied *deniedError
		status *hbone.StatusError
		noID   *noIdentityError
		cert   *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &denied), errors.As(err, &noID):
		return false
	case errors.As(err, &status):
		return status.Status >= 500
	case errors.As(err, &cert):
		return true // this endpoint is not who it should be; another may be
	}
	return true
}
