package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var leases = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}

const leaseName = "adit-gateway"

// Times of a Lease. Its holder stops well before another may take it: the
// difference is for what it has sent and the API server has yet to do.
const (
	leaseDuration = 15 * time.Second // a holder that says nothing is believed in
	leaseRenew    = 3 * time.Second
	leaseGiveUp   = 9 * time.Second // without having been able to renew
)

// election decides which pod writes.
//
// Clocks of nodes differ, so a Lease has run out when this pod has watched it
// unchanged for its duration, whatever the times in it say.
type election struct {
	api            *api
	log            *slog.Logger
	namespace, who string

	seen      string // resourceVersion of the Lease that somebody else holds
	seenSince time.Time
}

// run calls lead whenever this pod has the Lease, with a context that ends as
// soon as it may have it no longer, and waits for it to return. When ctx ends,
// the Lease is let go, so that another pod needs not wait for its end.
func (e *election) run(ctx context.Context, lead func(context.Context)) {
	complained := false
	for ctx.Err() == nil {
		asked := time.Now()
		mine, err := e.acquire(ctx)
		if err != nil && ctx.Err() == nil && !complained {
			complained = true
			e.log.Warn("nobody knows who is to write statuses", "error", err)
		}
		if mine {
			complained = false
			e.log.Info("this pod writes statuses and Services", "lease", e.namespace+"/"+leaseName)
			e.hold(ctx, asked, lead)
			e.log.Info("this pod no longer writes statuses and Services")
		}
		if !sleep(ctx, leaseRenew/2+rand.N(leaseRenew)) {
			return
		}
	}
}

// hold leads and renews, until the Lease is lost or ctx ends.
func (e *election) hold(ctx context.Context, since time.Time, lead func(context.Context)) {
	leading, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lead(leading)
	}()
	for lost := false; !lost; {
		if !sleep(leading, leaseRenew) {
			break
		}
		asked := time.Now()
		// A request that hangs ends when the Lease is given up.
		attempt, cancel := context.WithDeadline(leading, since.Add(leaseGiveUp))
		mine, err := e.acquire(attempt)
		cancel()
		switch {
		case err == nil && mine:
			since = asked
		case err == nil:
			e.log.Warn("another pod has taken the Lease")
			lost = true
		case time.Since(since) >= leaseGiveUp:
			e.log.Warn("the Lease could not be renewed", "error", err)
			lost = true
		}
	}
	stop()
	<-done
	if ctx.Err() != nil {
		e.release()
	}
}

// acquire takes or keeps the Lease. false means that somebody else has it.
func (e *election) acquire(ctx context.Context) (bool, error) {
	c := e.api.dynamic.Resource(leases).Namespace(e.namespace)
	now := time.Now()
	lease, err := c.Get(ctx, leaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": map[string]any{"name": leaseName, "namespace": e.namespace},
		}}
		e.fill(fresh, now)
		_, err = c.Create(ctx, fresh, metav1.CreateOptions{})
		return won(err)
	}
	if err != nil {
		return false, fmt.Errorf("lease %s/%s: %w", e.namespace, leaseName, err)
	}
	if holder := holderOf(lease); holder != e.who && holder != "" {
		if v := lease.GetResourceVersion(); v != e.seen {
			e.seen, e.seenSince = v, now
		}
		if now.Sub(e.seenSince) < leaseDuration {
			return false, nil
		}
	}
	e.fill(lease, now)
	_, err = c.Update(ctx, lease, metav1.UpdateOptions{})
	return won(err)
}

// release lets the Lease go if it is still ours.
func (e *election) release() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c := e.api.dynamic.Resource(leases).Namespace(e.namespace)
	lease, err := c.Get(ctx, leaseName, metav1.GetOptions{})
	if err == nil && holderOf(lease) == e.who {
		err = errors.Join(
			unstructured.SetNestedField(lease.Object, "", "spec", "holderIdentity"),
			unstructured.SetNestedField(lease.Object, int64(1), "spec", "leaseDurationSeconds"),
		)
		if err == nil {
			_, err = c.Update(ctx, lease, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		e.log.Debug("the Lease runs out by itself", "error", err)
	}
}

// won reads the outcome of writing the Lease. Of two that write, one is told of
// a conflict.
func won(err error) (bool, error) {
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return false, nil
	}
	return false, fmt.Errorf("lease %s: %w", leaseName, err)
}

func holderOf(lease *unstructured.Unstructured) string {
	holder, _, _ := unstructured.NestedString(lease.Object, "spec", "holderIdentity")
	return holder
}

func (e *election) fill(lease *unstructured.Unstructured, now time.Time) {
	stamp := now.UTC().Format("2006-01-02T15:04:05.000000Z")
	spec, _, _ := unstructured.NestedMap(lease.Object, "spec")
	if spec == nil {
		spec = map[string]any{}
	}
	if spec["holderIdentity"] != e.who {
		changes, _ := spec["leaseTransitions"].(int64)
		spec["leaseTransitions"] = changes + 1
		spec["acquireTime"] = stamp
	}
	spec["holderIdentity"], spec["renewTime"] = e.who, stamp
	spec["leaseDurationSeconds"] = int64(leaseDuration / time.Second)
	lease.Object["spec"] = spec
}
