package weathertest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// reboot starts a node anew, and waits until a pod on it is back.
func reboot(t *testing.T, on string) {
	t.Helper()
	ctx, cancel := within(4 * time.Minute)
	defer cancel()
	must(t, node(on).Reboot(ctx))
	must(t, meshlab.Cluster().WaitReady(ctx))
}

// talkers are pods of the node that reboots which talk from their first moment on.
func talkers(t *testing.T, s *scene) (*meshlab.Pod, string) {
	t.Helper()
	far := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "far", Node: front, ServiceAccount: "server"})
	p := meshlab.Start(t, s.ns, meshlab.PodSpec{
		Name: "eager", Node: back, ServiceAccount: "client", Args: []string{"serve"},
		// Before anything of it serves, and again at every start.
		InitArgs: []string{"client", far.At(9000), "-every", "20ms", "-until-ok", "-for", "60s", "-fail"},
	})
	return p, far.At(9000)
}

func TestNodeRebooted(t *testing.T) {
	s := begin(t)
	eager, far := talkers(t, s)
	reboot(t, back)
	began := time.Now()
	server := restarted(t, s.ns, s.server.Name, 1)
	again := restarted(t, s.ns, eager.Name, 1)
	mustInstalled(t)
	captured(t, server, again)
	again.Reach(t, far)
	s.flows(t)
	t.Logf("pods are back and talk %s after the node", time.Since(began).Round(100*time.Millisecond))
	calls, lines := s.end(t)
	gap(t, "node rebooted", calls, lines)
}

// The node comes back without its agent, which is late: pods wait.
func TestNodeRebootedAgentLate(t *testing.T) {
	s := begin(t)
	eager, far := talkers(t, s)
	s.hush(t)
	agents := noAgents(t)
	reboot(t, back)
	meshlab.Eventually(t, "the event says that the pod waits for an agent", func() error {
		p := meshlab.Get(t, s.ns, eager.Name)
		for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			if c.RestartCount > 0 && c.State.Running != nil {
				return fmt.Errorf("container %s runs without an agent", c.Name)
			}
		}
		events := meshlab.Events(t.Context(), s.ns, eager.Name)
		if !strings.Contains(events, "adit-cni: the mesh agent of this node does not answer") {
			return errors.New(events)
		}
		return nil
	})
	agents()
	server := restarted(t, s.ns, s.server.Name, 1)
	again := restarted(t, s.ns, eager.Name, 1)
	captured(t, server, again)
	again.Reach(t, far)
	calls, lines := s.end(t)
	gap(t, "node rebooted, agents 20 s late", calls, lines)
}
