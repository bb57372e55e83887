package weathertest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// outage is how long things are away. A minute takes no other path than this:
// every retry has happened more than once by then.
const outage = 20 * time.Second

// stopAPIServer stops it, and has it back at the test's end at the latest.
func stopAPIServer(t *testing.T) (again func()) {
	t.Helper()
	c := meshlab.Cluster()
	must(t, c.StopAPIServer())
	running := false
	again = func() {
		if running {
			return
		}
		running = true
		ctx, cancel := within(2 * time.Minute)
		defer cancel()
		must(t, c.StartAPIServer())
		must(t, c.WaitReady(ctx))
	}
	t.Cleanup(again)
	return again
}

// pass lets time go by: what is tested is that nothing happens meanwhile.
func pass(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(context.Cause(t.Context()))
	}
}

// This test is the last one by the name of its file: scheduler and kubelets may
// wait for a minute after an outage before they look for new pods again.
func TestAPIServerAway(t *testing.T) {
	s := begin(t)
	// Two more pods: of one the container dies meanwhile, of the other the sandbox.
	meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "anew", Node: front, ServiceAccount: "client"})
	moved := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "moved", Node: front, ServiceAccount: "client"})
	anewContainer := meshlab.Get(t, s.ns, "anew")
	sandbox := sandboxOf(t, moved)
	s.mark(t)

	began := time.Now()
	again := stopAPIServer(t)
	killContainer(t, front, anewContainer)
	killTask(t, front, sandbox)
	pass(t, outage-time.Since(began))
	again()
	t.Logf("the API server was away for %s", time.Since(began).Round(time.Second))

	anew := restarted(t, s.ns, "anew", 1)
	captured(t, anew)
	anew.Reach(t, s.target)
	meshlab.Eventually(t, "the pod whose sandbox ended has another address", func() error {
		now := meshlab.Ready(t, s.ns, "moved")
		if now.IP4() == moved.IP4() {
			return fmt.Errorf("it has %s still", now.IP4())
		}
		moved = now
		return nil
	})
	captured(t, moved)
	moved.Reach(t, s.target)
	s.calls.Pod.Reach(t, moved.At(9000))
	s.unaffected(t, "API server away")
}

// sandboxOf is the runtime's name for a pod's sandbox.
func sandboxOf(t *testing.T, p *meshlab.Pod) string {
	t.Helper()
	out, err := node(p.Node).Exec(t.Context(), "/usr/bin/ctr", "-n", "k8s.io", "containers", "ls", "-q",
		fmt.Sprintf("labels.\"io.kubernetes.pod.uid\"==%s,labels.\"io.cri-containerd.kind\"==sandbox", p.UID))
	must(t, err)
	id := strings.TrimSpace(out)
	if id == "" || strings.Contains(id, "\n") {
		t.Fatalf("%s has not one sandbox: %q", p.Ref(), out)
	}
	return id
}
