package kube

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// conditionAccepted is the condition by which the author of an
// AuthorizationPolicy learns what of it layer 4 does not enforce as written.
const conditionAccepted = "AditAccepted"

// statusWriter counts what was written.
type statusWriter struct {
	wake            chan struct{} // one-slot edge: a policy has changed
	written, failed atomic.Uint64
}

// statusDelay spreads the agents' attempts: the first to come finds work, the
// others find it done.
const statusDelay = time.Second

// runStatus keeps the conditions of policies up to date until ctx ends. All
// agents see what is to be written; the one that has the Lease writes.
func (s *Source) runStatus(ctx context.Context) {
	if s.cfg.Self.Namespace == "" {
		return
	}
	e := &elector{api: s.api, namespace: s.cfg.Self.Namespace, who: s.cfg.Self.Name + "_" + s.cfg.NodeName}
	skip := map[string]int64{} // generations that cannot be written, by UID
	for {
		select {
		case <-s.status.wake:
		case <-ctx.Done():
			return
		}
		for wait := statusDelay; len(s.stale(skip)) > 0; wait = min(2*wait, retryMost) {
			if !sleep(ctx, rand.N(wait)+wait/10) {
				return
			}
			stale := s.stale(skip)
			if len(stale) == 0 {
				break
			}
			mine, err := e.acquire(ctx)
			if err != nil {
				s.log.Debug("the status of policies is not written", "error", err)
			}
			if !mine {
				continue
			}
			for _, a := range stale {
				if !s.writeStatus(ctx, a) {
					skip[a.uid] = a.generation
				}
				if !sleep(ctx, writePace) {
					return
				}
			}
		}
		s.prune(skip)
	}
}

// stale are the policies whose condition is not what it should be.
func (s *Source) stale(skip map[string]int64) []*authorization {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*authorization
	for _, a := range w.auths {
		if g, ok := skip[a.uid]; ok && g == a.generation {
			continue
		}
		if now, _ := a.condition(time.Now()); now != nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *authorization) int { return strings.Compare(a.key.String(), b.key.String()) })
	return out
}

// prune forgets policies that are gone.
func (s *Source) prune(skip map[string]int64) {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	there := make(map[string]bool, len(w.auths))
	for _, a := range w.auths {
		there[a.uid] = true
	}
	for uid := range skip {
		if !there[uid] {
			delete(skip, uid)
		}
	}
}

// condition is the condition that a should have, and all conditions with it;
// nil if it is there. A policy for waypoints is not ours to judge.
func (a *authorization) condition(now time.Time) (own map[string]any, all []any) {
	if !a.Bound && len(a.Problems) == 0 {
		return nil, nil
	}
	status, reason, message := "True", "Accepted", "enforced by the agents of the nodes"
	if len(a.Problems) > 0 {
		status, reason, message = "False", "UnsupportedValue", strings.Join(a.Problems, "; ")
	}
	own = map[string]any{
		"type": conditionAccepted, "status": status, "reason": reason, "message": message,
		"observedGeneration": a.generation,
		"lastTransitionTime": metav1.NewTime(now).UTC().Format(time.RFC3339),
	}
	for _, c := range a.conditions {
		old, _ := c.(map[string]any)
		if old["type"] != conditionAccepted {
			all = append(all, c)
			continue
		}
		generation := generationOf(old["observedGeneration"])
		if old["status"] == status && old["reason"] == reason && old["message"] == message && generation == a.generation {
			return nil, nil
		}
		if old["status"] == status {
			own["lastTransitionTime"] = old["lastTransitionTime"]
		}
	}
	return own, append(all, own)
}

// generationOf reads a number that Istio's types write as a string.
func generationOf(v any) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case string:
		var out int64
		if json.Unmarshal([]byte(n), &out) == nil {
			return out
		}
	}
	return -1
}

// writeStatus reports false if another attempt would be as vain.
func (s *Source) writeStatus(ctx context.Context, a *authorization) bool {
	own, all := a.condition(time.Now())
	if own == nil {
		return true
	}
	patch, err := json.Marshal(map[string]any{
		// Somebody else's condition that came meanwhile is not overwritten.
		"metadata": map[string]any{"resourceVersion": a.version},
		"status":   map[string]any{"conditions": all},
	})
	if err != nil {
		return false
	}
	_, err = s.api.dynamic.Resource(authorizationPolicies).Namespace(a.namespace).
		Patch(ctx, a.name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		s.status.written.Add(1)
		return true
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return !apierrors.IsNotFound(err) // changed meanwhile: it is seen again
	case ctx.Err() != nil:
		return true
	}
	s.status.failed.Add(1)
	s.log.Warn("the status of a policy cannot be written", "policy", a.key.String(), "error", err)
	return !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err)
}
