package kube

import (
	"sync/atomic"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
)

// counters count what went to the store.
type counters struct{ batches, objects, refused atomic.Uint64 }

// apply makes a change in the store. The store takes a change whole or not at
// all, so what it refuses is taken out first, on the safe side: a workload is
// removed, a policy refuses everything that it may apply to.
func (s *Source) apply(store *mesh.Store, u mesh.Update) {
	n := len(u.Workloads) + len(u.Services) + len(u.Policies) + len(u.RemovedWorkloads) + len(u.RemovedServices) + len(u.RemovedPolicies)
	if n == 0 {
		return
	}
	s.applied.batches.Add(1)
	s.applied.objects.Add(uint64(n))
	err := store.Apply(u)
	if err == nil {
		return
	}
	s.log.Error("the store refuses part of a change; the rest is applied", "error", err)
	if err := store.Apply(s.acceptable(u)); err != nil {
		s.log.Error("the store refuses a change; what was known before stays in force", "error", err)
	}
}

func (s *Source) acceptable(u mesh.Update) mesh.Update {
	out := mesh.Update{RemovedWorkloads: u.RemovedWorkloads, RemovedServices: u.RemovedServices, RemovedPolicies: u.RemovedPolicies}
	for _, w := range u.Workloads {
		if w.Validate() == nil {
			out.Workloads = append(out.Workloads, w)
			continue
		}
		s.applied.refused.Add(1)
		out.RemovedWorkloads = append(out.RemovedWorkloads, w.UID)
	}
	for _, svc := range u.Services {
		if svc.Validate() == nil {
			out.Services = append(out.Services, svc)
			continue
		}
		s.applied.refused.Add(1)
		out.RemovedServices = append(out.RemovedServices, svc.Key())
	}
	for _, p := range u.Policies {
		if _, err := policy.Compile(p); err != nil {
			s.applied.refused.Add(1)
			p = policy.Policy{Name: p.Name, Namespace: p.Namespace, Scope: p.Scope, Action: policy.Deny, Rules: []policy.Rule{{}}}
		}
		out.Policies = append(out.Policies, p)
	}
	return out
}
