package edge

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// RolePrefix is what the names of this package's roles begin with.
const RolePrefix = "edge-"

// Roles of a worker.
const (
	roleBackend = RolePrefix + "backend"
	roleClient  = RolePrefix + "client"
	roleAwake   = RolePrefix + "awake" // keeps the processors from sleeping
)

// Worker is the other side of [Run]: the process that plays role, taking orders from in and answering on out.
// It returns when in ends, and waits for nothing that it has started: its process must end then.
func Worker(role string, in io.Reader, out io.Writer) error {
	if _, err := proc.RaiseFileLimit(); err != nil {
		return err
	}
	var handle func(do string, arg json.RawMessage) (any, error)
	switch role {
	case roleBackend:
		handle = new(backend).handle
	case roleClient:
		handle = new(client).handle
	case roleAwake:
		handle = new(proc.Waker).Handle
	default:
		return fmt.Errorf("no such role: %q", role)
	}
	return proc.Serve(in, out, handle)
}
