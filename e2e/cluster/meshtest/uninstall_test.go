package meshtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// Removing adit leaves nodes and pods as they were without it, and the streams
// of before adit go on through all of it.
func TestUninstall(t *testing.T) {
	ns := meshlab.Namespace(t, true)
	early := meshlab.Start(t, ns, meshlab.PodSpec{Name: "early", Node: far})
	wantCaptured(t, early) // by the plugin, with this installation
	afterwards(t, meshlab.Install)
	// The agents first: they take off what they wrote to the pods while they may.
	meshlab.Kubectl(t, "-n", meshlab.System, "delete", "daemonset", "adit-agent", "--cascade=foreground", "--timeout=120s")
	if p := meshlab.Get(t, ns, "early"); len(p.Annotations) > 0 {
		t.Errorf("%s has annotations after the agents have gone: %v", early.Ref(), p.Annotations)
	}
	if err := meshlab.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantReleased(t, early)
	wantNothingInTheCluster(t)

	client, server := pair(t, ns) // in a namespace that wants the mesh, and there is none
	load := meshlab.Load(t, ns, meshlab.PodSpec{Name: "load", Node: near, Args: []string{"-conns", "2"}}, "stream", server.At(9000))
	wantReleased(t, client, server, load.Pod)
	before := nodeStates(t)

	if err := meshlab.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCaptured(t, client, server, load.Pod, early)
	client.Reach(t, server.At(9000))
	load.Progress(t, 10)
	// All at once, permissions included: what is left is an annotation that says what was.
	if err := meshlab.Uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantNothingInTheCluster(t)
	meshlab.Eventually(t, "nodes and pods are as they were before adit was installed", func() error {
		after := nodeStates(t)
		for name, state := range before {
			if diff := meshlab.Difference(state, after[name]); len(diff) > 0 {
				return fmt.Errorf("%s: %s", name, strings.Join(diff, "\n"))
			}
		}
		return nil
	})
	client.Reach(t, server.At(9000))
	if total := load.Stop(t); total.Failed > 0 {
		t.Errorf("streams that began before adit was installed: %s", total)
	}

	if err := meshlab.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCaptured(t, client, server, early)
	again := meshlab.Load(t, ns, meshlab.PodSpec{Name: "again", Node: near, ServiceAccount: "client"}, "stream", server.At(9000))
	wantMutual(t, again.Pod, server, "client", "server")
}

func nodeStates(t *testing.T) map[string]map[string]string {
	t.Helper()
	all := map[string]map[string]string{}
	for _, n := range meshlab.Cluster().Nodes() {
		state, err := meshlab.NodeState(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		all[n.Name()] = state
	}
	return all
}

// wantNothingInTheCluster wants no object of ours; those of the pods are in [meshlab.NodeState].
func wantNothingInTheCluster(t *testing.T) {
	t.Helper()
	meshlab.Eventually(t, "the API server has no object of adit's", func() error {
		for _, kind := range []string{
			"namespaces", "clusterroles", "clusterrolebindings", "validatingadmissionpolicies", "validatingadmissionpolicybindings",
			"leases -A", "configmaps -A", "daemonsets -A", "priorityclasses", "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
		} {
			out := meshlab.Kubectl(t, append([]string{"get", "-o", "name"}, strings.Fields(kind)...)...)
			for line := range strings.Lines(out) {
				if strings.Contains(line, "adit") && !strings.Contains(line, "adit-test-infra") {
					return fmt.Errorf("%s is there", strings.TrimSpace(line))
				}
			}
		}
		return nil
	})
}

// While no agent runs, labels are taken away; an agent that comes back frees the
// pods.
func TestLabelRemovedWhileNoAgentRuns(t *testing.T) {
	ns := meshlab.Namespace(t, true)
	client, server := pair(t, ns)
	client.Reach(t, server.At(9000))
	wantCaptured(t, client, server)

	selector := func(ctx context.Context, value string) error {
		_, err := meshlab.Cluster().Kubectl(ctx, "-n", meshlab.System, "patch", "daemonset", "adit-agent", "--type=merge",
			"-p", `{"spec":{"template":{"spec":{"nodeSelector":{"adit-test":`+value+`}}}}}`)
		return err
	}
	back := func(ctx context.Context) error {
		if err := selector(ctx, "null"); err != nil {
			return err
		}
		return meshlab.WaitInstalled(ctx)
	}
	afterwards(t, back)
	if err := selector(t.Context(), `"nowhere"`); err != nil {
		t.Fatal(err)
	}
	meshlab.Eventually(t, "no agent runs", func() error {
		if out := meshlab.Kubectl(t, "-n", meshlab.System, "get", "pods", "-l", "app.kubernetes.io/name=adit-agent", "-o", "name"); out != "" {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for _, p := range []*meshlab.Pod{client, server} {
		if rules, err := meshlab.Rules(t.Context(), p); err != nil || rules == "" {
			t.Errorf("%s has no rules while no agent runs (%v); want it to stay captured", p.Ref(), err)
		}
	}
	meshlab.SetMode(t, ns, "")
	if err := back(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantReleased(t, client, server)
	total := client.Reach(t, server.At(9000))
	if !slices.Equal([]int{total.OK, total.Failed}, []int{1, 0}) {
		t.Errorf("%s", total)
	}
}
