package bench

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// Roles of a worker.
const (
	roleClient = "client" // load client
	roleServer = "server" // load server
	roleAgent  = "agent"  // one half of a path
	roleAwake  = "awake"  // keeps the processors from sleeping
)

// Worker is the other side of [Run]: the process that plays role, taking orders from in and answering on out.
// It returns when in ends, and does not wait for the goroutines that serve connections: its process must end then.
func Worker(role string, in io.Reader, out io.Writer) error {
	if _, err := proc.RaiseFileLimit(); err != nil {
		return err
	}
	var handle func(do string, arg json.RawMessage) (any, error)
	switch role {
	case roleClient:
		handle = newLoadClient().handle
	case roleServer:
		handle = newLoadServer().handle
	case roleAgent:
		handle = new(agent).handle
	case roleAwake:
		handle = new(proc.Waker).Handle
	default:
		return fmt.Errorf("no such role: %q", role)
	}
	return proc.Serve(in, out, handle)
}
