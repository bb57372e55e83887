package meshtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster"
	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// once is a client that has one try: its first packet has to be captured, since
// the server is strict and takes nothing else.
func once(target string) []string {
	return []string{"client", target, "-count", "1", "-timeout", "15s", "-fail"}
}

// strictServer is one that lets only an account in, by its identity.
func strictServer(t *testing.T, ns, account string) *meshlab.Pod {
	t.Helper()
	peerAuthentication(t, ns, "STRICT")
	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/`+ns+`/sa/`+account+`"]}}]`)
	server := meshlab.Start(t, ns, meshlab.PodSpec{Name: "server", Node: far, ServiceAccount: "server"})
	wantCaptured(t, server)
	bare := meshlab.Namespace(t, false)
	meshlab.Start(t, bare, meshlab.PodSpec{Name: "outsider", Node: near}).Refused(t, server.At(9000)) // the policies are in force
	return server
}

// wantFirstPacket starts a pod whose init container has one try, and wants no second.
func wantFirstPacket(t *testing.T, ns, name, account string, server *meshlab.Pod) *meshlab.Pod {
	t.Helper()
	pod := meshlab.Start(t, ns, meshlab.PodSpec{Name: name, Node: near, ServiceAccount: account, InitArgs: once(server.At(9000))})
	if n := restarts(meshlab.Get(t, ns, name)); n != 0 {
		t.Errorf("the init container of %s succeeds at attempt %d, want the first: %s", name, n+1,
			meshlab.Logs(t.Context(), ns, name, corev1.PodLogOptions{Container: "init", Previous: true}))
	}
	return pod
}

// What runs first in a pod is captured already: an init container, and a job
// that consists of nothing else.
func TestFirstPacketIsCaptured(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	server := strictServer(t, ns, "early")
	wire := meshlab.Wire(t)

	pod := wantFirstPacket(t, ns, "initialised", "early", server)

	spec := meshlab.PodSpec{Name: "job", Node: near, ServiceAccount: "early", Args: once(server.At6(9000))}.Object(ns)
	never := int32(0)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job", Namespace: ns},
		Spec: batchv1.JobSpec{BackoffLimit: &never, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: spec.Labels}, Spec: spec.Spec,
		}},
	}
	if _, err := meshlab.Cluster().Client().BatchV1().Jobs(ns).Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	meshlab.Eventually(t, "the job succeeds with its only pod", func() error {
		j, err := meshlab.Cluster().Client().BatchV1().Jobs(ns).Get(t.Context(), "job", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if j.Status.Succeeded == 1 {
			return nil
		}
		return fmt.Errorf("%+v", j.Status)
	})
	jobs, err := meshlab.Cluster().Client().CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=job"})
	if err != nil || len(jobs.Items) != 1 {
		t.Fatalf("%d pods of the job, %v", len(jobs.Items), err)
	}
	wire.Clean(t, pod, server)
}

// The label comes at any moment of a pod's start.
func TestLabelWhilePodStarts(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, false)
	const pods = 4
	for i := range pods {
		meshlab.Create(t, ns, meshlab.PodSpec{Name: fmt.Sprintf("p%d", i), Node: near, ServiceAccount: "server"})
		if i == pods/2 {
			meshlab.SetMode(t, ns, "ambient")
		}
	}
	var all []*meshlab.Pod
	for i := range pods {
		all = append(all, meshlab.Ready(t, ns, fmt.Sprintf("p%d", i)))
	}
	wantCaptured(t, all...)
	client := meshlab.Start(t, ns, meshlab.PodSpec{Name: "client", Node: far, ServiceAccount: "client"})
	peerAuthentication(t, ns, "STRICT")
	for _, p := range all {
		wantWhy(t, client.Ref(), p.Ref()+":9000", "connects", "mTLS", "")
		client.Reach(t, p.At(9000))
	}
}

// Those that are not to be captured are left alone, and adit pods says why.
func TestLeftAlone(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	for _, s := range []meshlab.PodSpec{
		{Name: "none", Labels: map[string]string{meshlab.ModeLabel: "none"}},
		{Name: "sidecar", Annotations: map[string]string{"sidecar.istio.io/status": "{}"}},
		{Name: "host", Args: []string{"sleep", "1h"}, Edit: func(p *corev1.Pod) { p.Spec.HostNetwork = true }},
	} {
		s.Node = near
		meshlab.Create(t, ns, s)
	}
	why := map[string]string{
		ns + "/none":    "label istio.io/dataplane-mode=none",
		ns + "/sidecar": "sidecar",
		ns + "/host":    "hostNetwork",
	}
	for _, name := range []string{"none", "sidecar"} {
		if rules, err := meshlab.Rules(t.Context(), meshlab.Ready(t, ns, name)); err != nil || rules != "" {
			t.Errorf("%s: %v; want no rules, there are %s", name, err, rules)
		}
	}
	meshlab.Ready(t, ns, "host")
	own, err := meshlab.Cluster().Client().CoreV1().Pods(meshlab.System).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(own.Items) < 4 {
		t.Fatalf("%d pods of ours, %v", len(own.Items), err)
	}
	for _, p := range own.Items {
		why[p.Namespace+"/"+p.Name] = "" // that of their namespace, which every one of them has
	}
	meshlab.Eventually(t, "adit pods --all says why each is left alone", func() error {
		all, err := podInfos()
		if err != nil {
			return err
		}
		for name, reason := range why {
			if info, ok := all[name]; !ok || info.Enrolled || info.Reason == "" || !strings.Contains(info.Reason, reason) {
				return fmt.Errorf("%s: %+v, want a reason with %q", name, info, reason)
			}
		}
		return nil
	})
}

// Another component that rewrites and removes configurations again and again
// does not get adit-cni out of the chain for good, and every pod ends up captured.
func TestSomebodyRewritesCNI(t *testing.T) {
	ns := meshlab.Namespace(t, true)
	server := strictServer(t, ns, "early")
	dir := node(near).Path(cluster.CNIConfDir)
	theirs := filepath.Join(dir, "10-podnet.conflist")
	ours := filepath.Join(dir, "00-adit.conflist")
	original, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	afterwards(t, func(context.Context) error { return os.WriteFile(theirs, original, 0o644) })

	ctx, stop := context.WithCancel(t.Context())
	var fight sync.WaitGroup
	fight.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			_ = os.Remove(ours)
			changed := strings.Replace(string(original), `"name"`, fmt.Sprintf(`"x-round": %d, "name"`, i), 1)
			if err := os.WriteFile(theirs, []byte(changed), 0o644); err != nil {
				t.Error(err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	var pods []*meshlab.Pod
	for i := range 3 {
		name := fmt.Sprintf("during%d", i)
		meshlab.Create(t, ns, meshlab.PodSpec{Name: name, Node: near, ServiceAccount: "early"})
		pods = append(pods, meshlab.Ready(t, ns, name))
	}
	wantCaptured(t, pods...)
	stop()
	fight.Wait()

	last := strings.Replace(string(original), `"name"`, `"x-round": "last", "name"`, 1)
	if err := os.WriteFile(theirs, []byte(last), 0o644); err != nil {
		t.Fatal(err)
	}
	meshlab.Eventually(t, "the chain is a copy of the last configuration, and adit-cni is in it", func() error {
		b, err := os.ReadFile(ours)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), `"last"`) || !strings.Contains(string(b), `"adit-cni"`) {
			return fmt.Errorf("it is %s", b)
		}
		return nil
	})
	wantFirstPacket(t, ns, "after", "early", server)
}

// A plugin that somebody has deleted is put back; no pod starts without it.
func TestSomebodyDeletesThePlugin(t *testing.T) {
	ns := meshlab.Namespace(t, true)
	server := strictServer(t, ns, "early")
	plugin := node(near).Path(filepath.Join(cluster.CNIBinDir, "adit-cni"))
	if err := os.Remove(plugin); err != nil {
		t.Fatal(err)
	}
	wantFirstPacket(t, ns, "after", "early", server)
	if _, err := os.Stat(plugin); err != nil {
		t.Errorf("the pod runs, and %v", err)
	}
}
