package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// Every namespace of a run starts so, and nothing else does.
const ours = "bench-"

// namespace makes one, enrolled or not, with service accounts sa-0 and so on.
// They are made here because their controller may be suspended.
func (b *bench) namespace(ctx context.Context, name string, enrolled bool, accounts int) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if enrolled {
		ns.Labels = map[string]string{"istio.io/dataplane-mode": "ambient"}
	}
	if _, err := b.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return err
	}
	for i := range accounts {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account(i)}}
		if _, err := b.client.CoreV1().ServiceAccounts(name).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func account(i int) string { return fmt.Sprintf("sa-%d", i) }

// sweep deletes the namespaces of this run or an earlier one, and waits until they are gone.
func (b *bench) sweep(ctx context.Context) error {
	return poll(ctx, patience, func() error {
		list, err := b.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var left []string
		for _, ns := range list.Items {
			if !strings.HasPrefix(ns.Name, ours) {
				continue
			}
			left = append(left, ns.Name)
			if ns.DeletionTimestamp == nil {
				// No kubelet would ever agree to the end of a remote pod.
				if strings.HasPrefix(ns.Name, team) {
					if err := b.client.CoreV1().Pods(ns.Name).DeleteCollection(ctx, deleteNow, metav1.ListOptions{}); err != nil {
						return err
					}
				}
				if err := b.client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
			}
		}
		if left == nil {
			return nil
		}
		return errors.Join(fmt.Errorf("still there: %v", left), sleep(ctx, 500*time.Millisecond))
	})
}

func ptr[T any](v T) *T { return &v }

// aPod serves on port 9000 and is small: what is measured is not it.
func aPod(name, node, serviceAccount string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			// Past the scheduler, whose time is not ours.
			NodeName: node, ServiceAccountName: serviceAccount,
			AutomountServiceAccountToken: ptr(false), EnableServiceLinks: ptr(false),
			TerminationGracePeriodSeconds: ptr[int64](1),
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name: "app", Image: cluster.AppImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Args: []string{"serve", "-udp", "", "-http", "", "-grpc", ""},
			}},
		},
	}
}

// startPod creates a pod and returns it when it is ready, with the time that took.
func (b *bench) startPod(ctx context.Context, ns string, pod *corev1.Pod) (*corev1.Pod, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w, err := b.client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name, ResourceVersion: "0"})
	if err != nil {
		return nil, 0, err
	}
	defer w.Stop()
	began := time.Now()
	if _, err := b.client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return nil, 0, err
	}
	for {
		select {
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("pod %s/%s: %w; kubectl describe says why it is not ready", ns, pod.Name, ctx.Err())
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil, 0, fmt.Errorf("pod %s/%s: the watch has ended", ns, pod.Name)
			}
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				return nil, 0, apierrors.FromObject(e.Object)
			}
			if ready(p) {
				return p, time.Since(began), nil
			}
		}
	}
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.Status.PodIP != ""
		}
	}
	return false
}

// clear deletes a namespace and waits until it is gone with its pods.
func (b *bench) clear(ctx context.Context, ns string) error {
	b.progress("removing %s", ns)
	if err := b.client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return poll(ctx, patience, func() error {
		_, err := b.client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("namespace %s is still there", ns), sleep(ctx, 200*time.Millisecond))
	})
}

func (b *bench) deletePod(ctx context.Context, ns, name string) error {
	if err := b.client.CoreV1().Pods(ns).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return poll(ctx, patience, func() error {
		_, err := b.client.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("pod %s/%s is still there", ns, name), sleep(ctx, 100*time.Millisecond))
	})
}

// patchStatus writes the status of a pod that no kubelet looks after.
func (b *bench) patchStatus(ctx context.Context, ns, name string, addrs ...string) error {
	var ips string
	for i, a := range addrs {
		if i > 0 {
			ips += ","
		}
		ips += fmt.Sprintf(`{"ip":%q}`, a)
	}
	patch := fmt.Sprintf(`{"status":{"phase":"Running","podIP":%q,"podIPs":[%s],"hostIP":"192.0.2.9","startTime":"2026-01-01T00:00:00Z","conditions":[`+
		`{"type":"Initialized","status":"True"},{"type":"ContainersReady","status":"True"},{"type":"Ready","status":"True"},{"type":"PodScheduled","status":"True"}]}}`,
		addrs[0], ips)
	_, err := b.client.CoreV1().Pods(ns).Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

// each does something n times, so many at once, and stops at the first error.
func each(ctx context.Context, n, atOnce int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}
