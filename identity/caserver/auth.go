package caserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Caller is who a token belongs to: a service account, and the pod and node
// that the token is bound to.
type Caller struct {
	Namespace, ServiceAccount string
	Pod, PodUID               string
	Node                      string
	// Expires is when the token does. Zero means unknown: such a caller is
	// authenticated anew for each request.
	Expires time.Time
}

func (c Caller) String() string {
	return fmt.Sprintf("%s/%s (pod %s on node %s)", c.Namespace, c.ServiceAccount, orNone(c.Pod), orNone(c.Node))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// LogValue implements [slog.LogValuer].
func (c Caller) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("service_account", c.Namespace+"/"+c.ServiceAccount),
		slog.String("pod", c.Pod), slog.String("node", c.Node))
}

// Authenticator knows callers by their tokens.
type Authenticator interface {
	// Authenticate returns whose token it is. It may block on a network and
	// returns when ctx ends. A *[Refusal] says that the token is no good; any
	// other error that this is not known at the moment.
	Authenticate(ctx context.Context, token string) (Caller, error)
}

// Authorizer knows what callers may have.
type Authorizer interface {
	// Authorize returns nil if caller may have an SVID of id, which is a
	// workload of the trust domain. It may block on a network and returns
	// when ctx ends. A *[Refusal] says that it may not; any other error that
	// this is not known at the moment.
	Authorize(ctx context.Context, caller Caller, id spiffeid.ID) error
}

// Reason is why a request was refused, as metrics count it.
type Reason string

// Reasons, and the status that each gives the caller.
const (
	// ReasonToken: there is no token, or not a good one. Unauthenticated.
	ReasonToken Reason = "token"
	// ReasonCaller: this service account gets no certificates.
	// PermissionDenied.
	ReasonCaller Reason = "caller"
	// ReasonIdentity: the caller may not have this identity.
	// PermissionDenied.
	ReasonIdentity Reason = "identity"
	// ReasonRequest: the request is malformed. InvalidArgument.
	ReasonRequest Reason = "request"
	// ReasonRate: too many requests. ResourceExhausted.
	ReasonRate Reason = "rate"
	// ReasonUnavailable: whoever must be asked does not answer, or there is
	// nothing to sign with. Unavailable.
	ReasonUnavailable Reason = "unavailable"
	// ReasonTimeout: the caller, or the server, did not want to wait longer.
	// DeadlineExceeded or Canceled.
	ReasonTimeout Reason = "timeout"
)

var reasonCodes = map[Reason]codes.Code{
	ReasonToken:       codes.Unauthenticated,
	ReasonCaller:      codes.PermissionDenied,
	ReasonIdentity:    codes.PermissionDenied,
	ReasonRequest:     codes.InvalidArgument,
	ReasonRate:        codes.ResourceExhausted,
	ReasonUnavailable: codes.Unavailable,
	ReasonTimeout:     codes.DeadlineExceeded,
}

// Refusal is an error that ends a request. The caller is told its text.
type Refusal struct {
	Reason Reason
	Err    error
}

// Refuse returns a *Refusal with a formatted text.
func Refuse(reason Reason, format string, args ...any) error {
	return &Refusal{Reason: reason, Err: fmt.Errorf(format, args...)}
}

func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap gives the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// refusal says which reason err is. What nobody called a refusal is somebody
// else's trouble, and may pass.
func refusal(ctx context.Context, err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	if ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &Refusal{Reason: ReasonTimeout, Err: err}
	}
	return &Refusal{Reason: ReasonUnavailable, Err: err}
}

func (r *Refusal) status() error { return status.Error(reasonCodes[r.Reason], r.Error()) }
