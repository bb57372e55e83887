package istio

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/adit-mesh/adit/identity"
)

const (
	// patience is how long a denied identity is asked for again as after any
	// other failure. A pod is known to its agent as soon as it starts; the
	// server, which watches the same API, may learn of it a moment later.
	patience = 30 * time.Second
	// amnesty is after how long without a denial the next is a first one.
	amnesty = 10 * time.Minute
	// maxMessage bounds what of a server's message is repeated.
	maxMessage = 400
)

// explain says what a failed call means and what to do about it. Only what
// asking again cannot cure becomes [identity.ErrRefused].
func (c *Client) explain(id spiffeid.ID, err error) error {
	if errors.Is(err, errClosed) {
		return err
	}
	st := status.Convert(err)
	msg := st.Message()
	if len(msg) > maxMessage {
		msg = msg[:maxMessage] + "..."
	}
	at := "ca " + c.cfg.Address
	switch st.Code() {
	case codes.InvalidArgument:
		return fmt.Errorf("%w by %s: %s", identity.ErrRefused, at, msg)
	case codes.PermissionDenied:
		if c.denials.lasting(id, time.Now()) {
			return fmt.Errorf("%w by %s: %s", identity.ErrRefused, at, msg)
		}
		return fmt.Errorf("%s denies it, perhaps because it has not seen the pod yet: %s", at, msg)
	case codes.Unauthenticated:
		// istiod says the same of a pod that it does not know.
		return fmt.Errorf("%s does not accept the token in %s for this: %s", at, c.cfg.TokenFile, msg)
	case codes.Unimplemented:
		return fmt.Errorf("%s has no CreateCertificate; is it adit ca or istiod? %s", at, msg)
	case codes.Unavailable:
		return fmt.Errorf("%s is unavailable: %s", at, msg)
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s has not answered in time: %w", at, err)
	case codes.Canceled:
		return fmt.Errorf("%s: %w", at, err)
	}
	return fmt.Errorf("%s: %s: %s", at, st.Code(), msg)
}

// denials remembers since when each identity has been denied.
type denials struct {
	mu sync.Mutex // guards of
	of map[spiffeid.ID]denial
}

type denial struct{ first, last time.Time }

// lasting records a denial at now and reports whether it has gone on for so
// long that the server means it.
func (d *denials) lasting(id spiffeid.ID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == nil {
		d.of = make(map[spiffeid.ID]denial)
	}
	// Identities that left while denied are never forgotten by a success.
	for other, at := range d.of {
		if now.Sub(at.last) >= amnesty {
			delete(d.of, other)
		}
	}
	at, ok := d.of[id]
	if !ok {
		at.first = now
	}
	at.last = now
	d.of[id] = at
	return now.Sub(at.first) >= patience
}

func (d *denials) forget(id spiffeid.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.of, id)
}
