package weathertest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

const caPods = "app.kubernetes.io/name=adit-ca"

// scaleCA sets the number of replicas and waits until there are as many.
func scaleCA(t *testing.T, replicas int) {
	t.Helper()
	ctx, cancel := within(4 * time.Minute)
	defer cancel()
	c := meshlab.Cluster()
	_, err := c.Kubectl(ctx, "-n", meshlab.System, "scale", "deployment/adit-ca", fmt.Sprintf("--replicas=%d", replicas))
	must(t, err)
	if replicas == 0 {
		// Not by force: what is deleted so signs on until it has ended.
		_, err = c.Kubectl(ctx, "-n", meshlab.System, "rollout", "status", "deployment/adit-ca", "--timeout=120s")
		must(t, err)
		_, err = c.Kubectl(ctx, "-n", meshlab.System, "wait", "--for=delete", "pod", "-l", caPods, "--timeout=120s")
	} else {
		_, err = c.Kubectl(ctx, "-n", meshlab.System, "rollout", "status", "deployment/adit-ca", "--timeout=180s")
	}
	must(t, err)
}

func TestCAAway(t *testing.T) {
	s := begin(t)
	t.Cleanup(func() { scaleCA(t, 2) })
	scaleCA(t, 0)

	// An identity that the node has is as good as before.
	known := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "known", Node: front, ServiceAccount: "client"})
	captured(t, known)
	known.Reach(t, s.target)

	// One that it has not is waited for, and whoever asks is told.
	meshlab.Create(t, s.ns, meshlab.PodSpec{
		Name: "new", Node: front, ServiceAccount: "new", Args: []string{"client", s.target, "-every", "50ms"},
	})
	held(t, s.ns, "new", "spiffe://cluster.local/ns/"+s.ns+"/sa/new", "adit-ca.adit-system.svc:15012", "connection refused")

	scaleCA(t, 2)
	began := time.Now()
	fresh := meshlab.Ready(t, s.ns, "new")
	t.Logf("with the CA back, the pod that waited runs after %s", time.Since(began).Round(100*time.Millisecond))
	captured(t, fresh)
	run := &meshlab.LoadRun{Pod: fresh}
	meshlab.Eventually(t, "the pod that waited gets through", func() error {
		out, err := fresh.Try(t, s.target)
		_ = out
		return err
	})
	if total := run.Stop(t); total.Failed > 0 {
		t.Errorf("the pod that waited started before all was ready: %s; last: %s", total, total.Last)
	}
	s.unaffected(t, "CA away")
}

func TestOneOfTwoCAsKilled(t *testing.T) {
	s := begin(t)
	list, err := api().CoreV1().Pods(meshlab.System).List(t.Context(), metav1.ListOptions{LabelSelector: caPods})
	must(t, err)
	if len(list.Items) != 2 {
		t.Fatalf("there are %d replicas of the CA, not 2", len(list.Items))
	}
	t.Cleanup(func() { mustInstalled(t) })
	must(t, api().CoreV1().Pods(meshlab.System).Delete(t.Context(), list.Items[0].Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	// New identities, now and while another replica takes the place of the first.
	for i := range 4 {
		name := fmt.Sprintf("new-%d", i)
		began := time.Now()
		p := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: name, Node: []string{front, back}[i%2], ServiceAccount: name})
		captured(t, p)
		t.Logf("pod with a new identity starts within %s", time.Since(began).Round(100*time.Millisecond))
	}
	s.unaffected(t, "one CA of two killed")
}

// What is in the Secret is all that tells the CA's roots: however broken, it is
// for a person to put right.
func TestRootSecretDamaged(t *testing.T) {
	s := begin(t)
	secrets := api().CoreV1().Secrets(meshlab.System)
	whole, err := secrets.Get(t.Context(), "adit-ca", metav1.GetOptions{})
	must(t, err)
	const key = "roots.json"
	broken := bytes.Clone(whole.Data[key][:len(whole.Data[key])/2])
	put := func(data []byte) {
		t.Helper()
		ctx, cancel := within(time.Minute)
		defer cancel()
		patch, err := json.Marshal(map[string]any{"data": map[string][]byte{key: data}})
		must(t, err)
		_, err = secrets.Patch(ctx, "adit-ca", types.MergePatchType, patch, metav1.PatchOptions{})
		must(t, err)
	}
	t.Cleanup(func() {
		put(whole.Data[key])
		mustInstalled(t)
	})
	put(broken)

	// The replicas that have read it before go on, for minutes.
	p := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "meanwhile", Node: front, ServiceAccount: "meanwhile"})
	captured(t, p)
	// One that starts with it is not ready, says why, and makes no root of its own.
	list, err := api().CoreV1().Pods(meshlab.System).List(t.Context(), metav1.ListOptions{LabelSelector: caPods})
	must(t, err)
	old := map[types.UID]bool{}
	for _, p := range list.Items {
		old[p.UID] = true
	}
	must(t, api().CoreV1().Pods(meshlab.System).Delete(t.Context(), list.Items[0].Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	meshlab.Eventually(t, "a new replica says that the Secret cannot be used", func() error {
		list, err := api().CoreV1().Pods(meshlab.System).List(t.Context(), metav1.ListOptions{LabelSelector: caPods})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if old[p.UID] {
				continue
			}
			log := meshlab.Logs(t.Context(), meshlab.System, p.Name, corev1.PodLogOptions{})
			if !bytes.Contains([]byte(log), []byte("cannot be used and is left as it is")) {
				return fmt.Errorf("its log: %s", log)
			}
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					t.Errorf("it is ready without a root")
				}
			}
			return nil
		}
		return fmt.Errorf("there is none")
	})
	now, err := secrets.Get(t.Context(), "adit-ca", metav1.GetOptions{})
	must(t, err)
	if !bytes.Equal(now.Data[key], broken) {
		t.Error("the damaged Secret has been overwritten")
	}

	put(whole.Data[key])
	mustInstalled(t)
	meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "after", Node: back, ServiceAccount: "after"}).Reach(t, s.target)
	s.unaffected(t, "damaged root Secret")
}
