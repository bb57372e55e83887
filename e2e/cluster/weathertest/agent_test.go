package weathertest

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// gap reports how long nothing got through.
func gap(t *testing.T, what string, calls, lines meshlab.Total) {
	t.Helper()
	t.Logf("GAP %s: no new connection for %d ms, no line on others for %d ms; %d connections failed, %d broke",
		what, calls.Longest, lines.Longest, calls.Failed, lines.Failed)
}

func TestAgentKilled(t *testing.T) {
	s := begin(t)
	for _, on := range []string{front, back} {
		a := agent(t, on)
		restarts := a.Status.ContainerStatuses[0].RestartCount
		killContainer(t, on, a)
		// In the gap, or as soon after it as it gets.
		p := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "born-" + on, Node: on, ServiceAccount: "born"})
		captured(t, p)
		restarted(t, meshlab.System, a.Name, restarts+1)
		s.flows(t)
		p.Reach(t, s.target)
	}
	calls, lines := s.end(t)
	gap(t, "kill -9 of the agent of one node, then of the other", calls, lines)
}

func TestAgentRestartedByRollout(t *testing.T) {
	s := begin(t)
	meshlab.Kubectl(t, "-n", meshlab.System, "rollout", "restart", "daemonset/adit-agent")
	p := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "born", Node: front, ServiceAccount: "born"})
	captured(t, p)
	meshlab.Eventually(t, "the agent of one node has been replaced", func() error {
		d := daemonSet(t)
		if d.Status.ObservedGeneration != d.Generation || d.Status.UpdatedNumberScheduled == 0 || d.Status.NumberUnavailable > 0 {
			return fmt.Errorf("%+v", d.Status)
		}
		return nil
	})
	s.flows(t)
	lines := s.hush(t) // the other agent need not wait half a minute as well
	mustInstalled(t)
	s.flows(t)
	p.Reach(t, s.target)
	calls, _ := s.end(t)
	gap(t, "rollout restart", calls, lines)
}

func TestAgentPodDeleted(t *testing.T) {
	s := begin(t)
	s.hush(t)
	old := agent(t, front)
	must(t, api().CoreV1().Pods(meshlab.System).Delete(t.Context(), old.Name, metav1.DeleteOptions{}))
	meshlab.Eventually(t, "another agent has taken its place", func() error {
		a, err := meshlab.AgentOf(t.Context(), front)
		if err != nil {
			return err
		}
		if a.UID == old.UID {
			return fmt.Errorf("the old one is there")
		}
		return nil
	})
	mustInstalled(t)
	s.flows(t)
	calls, lines := s.end(t)
	gap(t, "agent's pod deleted", calls, lines)
}

// Without agents, nothing gets through and nothing starts, for as long as it takes.
func TestNoAgentForAWhile(t *testing.T) {
	s := begin(t)
	s.hush(t)
	again := noAgents(t)
	before := s.calls.Now(t)
	meshlab.Create(t, s.ns, meshlab.PodSpec{Name: "waits", Node: front, ServiceAccount: "client", Args: []string{"client", s.target, "-every", "50ms"}})
	held(t, s.ns, "waits", "adit-cni: the mesh agent of this node does not answer", "adit-system")
	now := s.calls.Now(t)
	if now.OK > before.OK+1 { // one may have been on its way to the log
		t.Errorf("%d connections came about without an agent", now.OK-before.OK)
	}
	if now.Failed == before.Failed {
		t.Error("nothing was tried meanwhile, so nothing is proven")
	}
	captured(t, s.server, s.calls.Pod)
	again()
	p := meshlab.Ready(t, s.ns, "waits")
	captured(t, p)
	if total := (&meshlab.LoadRun{Pod: p}).Stop(t); total.Failed > 0 || total.OK == 0 {
		t.Errorf("the pod that waited: %s; last: %s", total, total.Last)
	}
	calls, lines := s.end(t)
	gap(t, "no agent on any node", calls, lines)
}

// A DaemonSet that is replaced with --cascade=orphan leaves its agents; neither
// that nor the end of one of them before there is another DaemonSet is an
// uninstallation.
func TestDaemonSetOrphaned(t *testing.T) {
	s := begin(t)
	d := daemonSet(t)
	d.ObjectMeta = metav1.ObjectMeta{Name: d.Name, Namespace: d.Namespace, Labels: d.Labels, Annotations: d.Annotations}
	installed := false
	install := func() {
		if installed {
			return
		}
		installed = true
		ctx, cancel := within(4 * time.Minute)
		defer cancel()
		must(t, meshlab.Install(ctx))
	}
	t.Cleanup(install)
	meshlab.Kubectl(t, "-n", meshlab.System, "delete", "daemonset/adit-agent", "--cascade=orphan")
	meshlab.Eventually(t, "the agents are nobody's", func() error {
		list, err := agents(t.Context())
		if err != nil {
			return err
		}
		for _, p := range list {
			if len(p.OwnerReferences) > 0 {
				return fmt.Errorf("%s has an owner", p.Name)
			}
		}
		return nil
	})
	s.flows(t)
	if got := s.calls.Now(t); got.Failed > s.callsBefore.Failed {
		t.Errorf("connections failed although the agents went on: %s; last: %s", got, got.Last)
	}

	s.hush(t)
	old := agent(t, front)
	must(t, api().CoreV1().Pods(meshlab.System).Delete(t.Context(), old.Name, metav1.DeleteOptions{}))
	meshlab.Eventually(t, "the orphaned agent is gone", func() error {
		list, err := agents(t.Context())
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.UID == old.UID {
				return fmt.Errorf("it is there")
			}
		}
		return nil
	})
	captured(t, s.calls.Pod)
	meshlab.Create(t, s.ns, meshlab.PodSpec{Name: "waits", Node: front, ServiceAccount: "client"})
	held(t, s.ns, "waits", "adit-cni: the mesh agent of this node does not answer")
	install()
	captured(t, meshlab.Ready(t, s.ns, "waits"))
	calls, lines := s.end(t)
	gap(t, "DaemonSet deleted with --cascade=orphan, an agent deleted, all applied again", calls, lines)
}
