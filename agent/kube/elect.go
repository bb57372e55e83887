package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const (
	leaseName = "adit-status"
	// leaseDuration is how long a holder that says nothing is believed in.
	leaseDuration = 20 * time.Second
)

// elector tries to be the one agent that writes. It asks for the Lease only
// when there is something to write, so an idle cluster has no elections.
//
// Clocks of nodes differ, so a Lease has run out when this agent has watched it
// unchanged for its duration, whatever the times in it say.
type elector struct {
	api            *api
	namespace, who string

	seen      string // resourceVersion of the Lease that somebody else holds
	seenSince time.Time
}

// acquire takes or keeps the Lease. false means that somebody else has it.
func (e *elector) acquire(ctx context.Context) (bool, error) {
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
	holder, _, _ := unstructured.NestedString(lease.Object, "spec", "holderIdentity")
	if holder != e.who && holder != "" {
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

func (e *elector) fill(lease *unstructured.Unstructured, now time.Time) {
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
