package backend

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Changes is what became different. It says too much rather than too little.
type Changes struct {
	// Services are those for which Resolve may answer otherwise: references to
	// them, existing or not, are to be resolved again.
	Services []types.NamespacedName
	// Clusters are the Services whose Cluster may be another pointer. Those of
	// Services are among them.
	Clusters []types.NamespacedName
	// Grants are the namespaces whose ReferenceGrants changed: references into
	// them from other namespaces are to be resolved again.
	Grants []string
	// Policies says that PolicyStatuses may answer otherwise.
	Policies bool
}

type changes struct {
	services map[types.NamespacedName]struct{}
	clusters map[types.NamespacedName]struct{}
	grants   map[string]struct{}
	policies bool
}

func newChanges() changes {
	return changes{
		services: make(map[types.NamespacedName]struct{}),
		clusters: make(map[types.NamespacedName]struct{}),
		grants:   make(map[string]struct{}),
	}
}

// resolve notes that references to a Service have to be resolved again.
func (c *changes) resolve(name types.NamespacedName) {
	c.services[name] = struct{}{}
	c.clusters[name] = struct{}{}
}

// TakeChanges returns what changed since it was last called, in order of name.
func (x *Index) TakeChanges() Changes {
	c := Changes{
		Services: sortedNames(x.changes.services),
		Clusters: sortedNames(x.changes.clusters),
		Grants:   slices.Sorted(maps.Keys(x.changes.grants)),
		Policies: x.changes.policies,
	}
	x.changes = newChanges()
	return c
}
