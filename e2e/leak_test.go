package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/adit-mesh/adit/e2e/testbed"
)

// files counts the open descriptors of an agent.
func files(t *testing.T, a *testbed.Agent) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
