package cluster

import (
	"context"
	"time"

	"github.com/adit-mesh/adit/e2e/testbed"
)

func poll(ctx context.Context, patience time.Duration, f func() error) error {
	return testbed.Poll(ctx, patience, f)
}

func permanent(err error) error { return testbed.Permanent{Err: err} }
