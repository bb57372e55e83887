package testbed

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Permanent is an error that more patience will not mend.
type Permanent struct{ Err error }

func (p Permanent) Error() string { return p.Err.Error() }

// Unwrap returns the error itself.
func (p Permanent) Unwrap() error { return p.Err }

// Poll calls f until it returns nil or a [Permanent] error, or patience ends.
// The last error says what was missing.
func Poll(parent context.Context, patience time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(parent, patience)
	defer cancel()
	for {
		err := f()
		var p Permanent
		if err == nil || errors.As(err, &p) {
			return err
		}
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return parent.Err()
			}
			return fmt.Errorf("%w (waited %s)", err, patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
