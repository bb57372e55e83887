package meshlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/testbed"
)

func exists(err error) bool { return errors.IsAlreadyExists(err) }

func gone(err error) bool { return errors.IsNotFound(err) }

// Adit runs the adit command of this checkout as the administrator.
func Adit(args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(current.Dir(), "images", "adit"), append(args, "--kubeconfig", current.Kubeconfig())...)
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("adit %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(bad.String()))
	}
	return out.String(), nil
}

// AditJSON runs the command with -o json and decodes what it prints, also where
// its exit code says that the answer is no.
func AditJSON(v any, args ...string) error {
	out, err := Adit(append(args, "-o", "json")...)
	if bad := json.Unmarshal([]byte(out), v); bad != nil {
		if err != nil {
			return err
		}
		return fmt.Errorf("adit %s: %w in %q", strings.Join(args, " "), bad, out)
	}
	return nil
}

// Kubectl runs kubectl and fails the test if it fails.
func Kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := current.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Apply applies manifests, in a namespace where they say none.
func Apply(t *testing.T, ns, manifests string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), current.KubectlPath(), "--kubeconfig", current.Kubeconfig(), "-n", ns, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifests)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("apply %s: %v: %s", manifests, err, out)
	}
}

// Eventually waits until ok returns nil, and otherwise fails with the last
// error and the state of the mesh. A [testbed.Permanent] error ends it at once.
func Eventually(t *testing.T, why string, ok func() error) {
	t.Helper()
	Within(t, patience, why, ok)
}

// Within is [Eventually] with a limit of its own.
func Within(t *testing.T, limit time.Duration, why string, ok func() error) {
	t.Helper()
	// Each try costs the API server something; the machine is small.
	began := time.Now()
	var next time.Time
	var last error
	err := testbed.Poll(t.Context(), limit, func() error {
		if time.Now().Before(next) {
			return last
		}
		last = ok()
		next = time.Now().Add(150 * time.Millisecond)
		return last
	})
	if err != nil {
		Dump(t)
		t.Fatalf("%s: %v", why, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Logf("%5.1f s until %s", took.Seconds(), why)
	}
}

// Dump writes the state of the mesh to the test's log.
func Dump(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	status, err := Adit("status")
	t.Logf("adit status: %v\n%s", err, status)
	pods, err := current.Kubectl(ctx, "get", "pods", "-A", "-o", "wide")
	t.Logf("pods: %v\n%s", err, pods)
	events, err := current.Kubectl(ctx, "get", "events", "-A", "--sort-by=.lastTimestamp")
	t.Logf("events: %v\n%s", err, tail(events, 25))
	list, err := client().CoreV1().Pods(System).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Logf("no logs of agents: %v", err)
		return
	}
	lines := int64(40)
	for _, p := range list.Items {
		t.Logf("%s on %s (%s):\n%s", p.Name, p.Spec.NodeName, p.Status.Phase, Logs(ctx, System, p.Name, corev1.PodLogOptions{TailLines: &lines}))
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// AgentOf is the agent's pod of a node, or an error if there is none that runs.
func AgentOf(ctx context.Context, node string) (*corev1.Pod, error) {
	list, err := client().CoreV1().Pods(System).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=adit-agent", FieldSelector: "spec.nodeName=" + node,
	})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if p := &list.Items[i]; p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
			return p, nil
		}
	}
	return nil, fmt.Errorf("no agent runs on %s", node)
}
