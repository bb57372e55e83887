package weathertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

func api() kubernetes.Interface { return meshlab.Cluster().Client() }

// address is where a Service is, in IPv4.
func address(s *corev1.Service, port string) string {
	return net.JoinHostPort(s.Spec.ClusterIP, port)
}

// within bounds what is not a test's own context, such as a cleanup's.
func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// must is for what the harness does.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// held wants a pod not to start, and its events to say why: all of these words
// in one of them.
func held(t *testing.T, ns, name string, words ...string) {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("an event says that %s/%s waits, and why", ns, name), func() error {
		if p := meshlab.Get(t, ns, name); p.Status.Phase != corev1.PodPending || started(p) {
			return errors.New("it has started")
		}
		events := meshlab.Events(t.Context(), ns, name)
		for line := range strings.Lines(events) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return nil
			}
		}
		return fmt.Errorf("no event has %q: %s", words, events)
	})
}

func started(p *corev1.Pod) bool {
	return slices.ContainsFunc(append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...), func(c corev1.ContainerStatus) bool {
		return c.State.Waiting == nil || c.RestartCount > 0
	})
}

// captured wants a pod to have adit's rules.
func captured(t *testing.T, pods ...*meshlab.Pod) {
	t.Helper()
	for _, p := range pods {
		rules, err := meshlab.Rules(t.Context(), p)
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(rules, "table inet adit") {
			t.Errorf("%s runs without being captured; the rules in its network namespace: %q", p.Ref(), rules)
		}
	}
}

// noAgents takes the agents off the nodes, all or some, and leaves their
// DaemonSet: it asks for a label that the nodes do not have. The function returned
// brings them back and waits for that; it also runs at the test's end.
func noAgents(t *testing.T) (again func()) {
	t.Helper()
	const label = "adit-mesh.github.io/weathertest"
	choose(t, fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:"none"}}}}}`, label))
	back := false
	again = func() {
		if !back {
			back = true
			choose(t, fmt.Sprintf(`{"spec":{"template":{"spec":{"nodeSelector":{%q:null}}}}}`, label))
			mustInstalled(t)
		}
	}
	t.Cleanup(again)
	meshlab.Eventually(t, "the agents are gone", func() error {
		list, err := agents(context.Background())
		if err == nil && len(list) > 0 {
			err = fmt.Errorf("%d are there", len(list))
		}
		return err
	})
	return again
}

func choose(t *testing.T, patch string) {
	t.Helper()
	ctx, cancel := within(time.Minute)
	defer cancel()
	_, err := api().AppsV1().DaemonSets(meshlab.System).Patch(ctx, "adit-agent", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	must(t, err)
}

func mustInstalled(t *testing.T) {
	t.Helper()
	ctx, cancel := within(4 * time.Minute)
	defer cancel()
	must(t, meshlab.WaitInstalled(ctx))
}

func agents(ctx context.Context) ([]corev1.Pod, error) {
	list, err := api().CoreV1().Pods(meshlab.System).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=adit-agent"})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// daemonSet is the agents' as it is now, without what the API server adds.
func daemonSet(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	d, err := api().AppsV1().DaemonSets(meshlab.System).Get(t.Context(), "adit-agent", metav1.GetOptions{})
	must(t, err)
	return d
}

// agent is the agent's pod of a node.
func agent(t *testing.T, node string) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	meshlab.Eventually(t, "an agent runs on "+node, func() (err error) {
		pod, err = meshlab.AgentOf(t.Context(), node)
		return err
	})
	return pod
}

// killContainer ends the first process of a pod's container with SIGKILL, by its number on the node.
func killContainer(t *testing.T, on string, p *corev1.Pod) {
	t.Helper()
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	killTask(t, on, id)
}

func killTask(t *testing.T, on, id string) {
	t.Helper()
	out, err := node(on).Exec(t.Context(), "/usr/bin/ctr", "-n", "k8s.io", "tasks", "ls")
	must(t, err)
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			_, err := node(on).Exec(t.Context(), "/bin/kill", "-9", f[1])
			must(t, err)
			return
		}
	}
	t.Fatalf("container %s does not run on %s: %s", id, on, out)
}

// restarted waits until a pod has a container that was restarted and is ready.
func restarted(t *testing.T, ns, name string, times int32) *meshlab.Pod {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("the container of %s/%s is restarted", ns, name), func() error {
		p := meshlab.Get(t, ns, name)
		if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].RestartCount < times || !s[0].Ready {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	return meshlab.Ready(t, ns, name)
}
