package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/demo"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

func TestDemoHoldsAndLeavesNothing(t *testing.T) {
	labtest.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out strings.Builder
	dir := filepath.Join(t.TempDir(), "demo")
	if err := demo.Run(ctx, demo.Options{Binary: mustBinary(t), Dir: dir, Out: &out}); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if left, _ := os.ReadDir(lab.Dir); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", dir)
	}
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	labtest.Require(t)
	ctx, cancel := context.WithCancel(t.Context())
	var out cancelOn
	out.cancel = cancel
	dir := filepath.Join(t.TempDir(), "demo")
	if err := demo.Run(ctx, demo.Options{Binary: mustBinary(t), Dir: dir, Out: &out}); !errors.Is(err, demo.ErrInterrupted) {
		t.Errorf("an interrupted demo returns %v\n%s", err, &out)
	}
	if left, _ := os.ReadDir(lab.Dir); len(left) > 0 {
		t.Errorf("namespaces are left: %v", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", dir)
	}
}

// cancelOn presses Ctrl-C when the first agent is ready.
type cancelOn struct {
	strings.Builder
	cancel context.CancelFunc
}

func (c *cancelOn) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "the agent is ready") {
		c.cancel()
	}
	return c.Builder.Write(b)
}
