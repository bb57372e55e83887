package gateway

import (
	"cmp"
	"maps"
	"strings"

	"github.com/adit-mesh/adit/ingress/gateway/backend"
	"github.com/adit-mesh/adit/ingress/upstream"
	"k8s.io/apimachinery/pkg/types"
)

// clusterUses counts how many routes use each cluster, and knows which of them
// have to be looked up again.
type clusterUses struct {
	routes    map[string]int
	byService links[types.NamespacedName, string]
	stale     set[string]
}

func newClusterUses() clusterUses {
	return clusterUses{make(map[string]int), make(links[types.NamespacedName, string]), make(set[string])}
}

// serviceOf is the Service in a key: "NAMESPACE/SERVICE:PORT…".
func serviceOf(key string) types.NamespacedName {
	service, _, _ := strings.Cut(key, ":")
	namespace, name, _ := strings.Cut(service, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}
}

func (u *clusterUses) use(key string) {
	u.routes[key]++
	if u.routes[key] == 1 {
		u.byService.add(serviceOf(key), key)
		u.stale.add(key)
	}
}

func (u *clusterUses) release(key string) {
	u.routes[key]--
	if u.routes[key] == 0 {
		delete(u.routes, key)
		u.byService.remove(serviceOf(key), key)
		u.stale.add(key)
	}
}

func (u *clusterUses) staleService(name types.NamespacedName) {
	u.stale.addAll(u.byService[name])
}

// update is the clusters in use, and whether they are other than current, which
// is left as it is.
func (u *clusterUses) update(current map[string]*upstream.Config, index *backend.Index) (map[string]*upstream.Config, bool) {
	next, changed := current, false
	for key := range u.stale {
		var c *upstream.Config
		if u.routes[key] > 0 {
			c = index.Cluster(key)
		}
		if current[key] == c {
			continue
		}
		if !changed {
			next, changed = make(map[string]*upstream.Config, len(current)+1), true
			maps.Copy(next, current)
		}
		if c == nil {
			delete(next, key)
		} else {
			next[key] = c
		}
	}
	clear(u.stale)
	return next, changed
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
