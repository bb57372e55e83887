package file

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// table holds the objects in force, as an API server would: it counts versions
// and generations.
type table struct {
	entries map[key]*entry
	version int
}

// entry is one object in force.
type entry struct {
	source    object // what it was made of; never changed, so the same means equal
	object    object // with its version, generation and status
	sum, spec sum
}

// change is an object that is new or another, or gone.
type change struct {
	key    key
	object object // nil = gone
}

// put makes objects the ones in force, and returns what changed: the gone
// first, then what others refer to before what refers to it.
func (t *table) put(objects map[key]object) (changed []change) {
	for k := range t.entries {
		if objects[k] == nil {
			delete(t.entries, k)
			changed = append(changed, change{key: k})
		}
	}
	for k, o := range objects {
		if c, ok := t.putOne(k, o); ok {
			changed = append(changed, c)
		}
	}
	slices.SortFunc(changed, func(a, b change) int { return compare(a, b) })
	return changed
}

func (t *table) putOne(k key, o object) (change, bool) {
	old := t.entries[k]
	if old != nil && old.source == o {
		return change{}, false
	}
	whole, spec := sums(o)
	if old != nil && old.sum == whole {
		old.source = o
		return change{}, false
	}
	e := &entry{source: o, sum: whole, spec: spec, object: o.DeepCopyObject().(object)}
	if groups[groupOf(o)][k.kind].spec {
		generation := int64(1)
		if old != nil {
			generation = old.object.GetGeneration()
			if old.spec != spec {
				generation++
			}
		}
		e.object.SetGeneration(generation)
	}
	if old != nil {
		keepStatus(old.object, e.object)
	}
	t.version++
	e.object.SetResourceVersion(strconv.Itoa(t.version))
	t.entries[k] = e
	return change{k, e.object}, true
}

func groupOf(o object) string { return o.GetObjectKind().GroupVersionKind().Group }

// sums are those of an object, and of all of it but its metadata.
func sums(o object) (whole, spec sum) {
	raw, err := json.Marshal(o)
	if err != nil {
		return sum{}, sum{} // cannot be: it has been decoded from JSON
	}
	whole = sha256.Sum256(raw)
	var parts map[string]json.RawMessage
	if json.Unmarshal(raw, &parts) != nil {
		return whole, whole
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if name != "metadata" && name != "status" {
			h.Write([]byte(name))
			h.Write(parts[name])
		}
	}
	h.Sum(spec[:0])
	return whole, spec
}

// order is that in which kinds are told of.
var order = []string{
	"Namespace", "ReferenceGrant", "ConfigMap", "Secret", "Service", "EndpointSlice", "BackendTLSPolicy",
	"GatewayClass", "Gateway", "ListenerSet",
}

func compare(a, b change) int {
	rank := func(c change) int {
		if c.object == nil {
			return -1
		}
		if i := slices.Index(order, c.key.kind); i >= 0 {
			return i
		}
		return len(order)
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	switch {
	case a.key.String() < b.key.String():
		return -1
	case a.key.String() > b.key.String():
		return 1
	}
	return 0
}

// implied adds what needs not be said: the namespaces that objects are in, and
// a class.
func implied(objects map[key]object, made map[key]object, class, controller string) {
	add := func(k key, make func() object) {
		if objects[k] == nil {
			// The same value each time, as it is the same object.
			if made[k] == nil {
				made[k] = make()
			}
			objects[k] = made[k]
		}
	}
	for _, k := range slices.Collect(maps.Keys(objects)) {
		if k.namespace != "" {
			add(key{"Namespace", "", k.namespace}, func() object {
				n := &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}}
				n.Name = k.namespace
				finishNamespace(n)
				return n
			})
		}
	}
	if class != "" {
		add(key{"GatewayClass", "", class}, func() object {
			c := &gatewayv1.GatewayClass{TypeMeta: metav1.TypeMeta{APIVersion: gatewayv1.GroupVersion.String(), Kind: "GatewayClass"}}
			c.Name = class
			c.Spec.ControllerName = gatewayv1.GatewayController(controller)
			return c
		})
	}
	maps.DeleteFunc(made, func(k key, o object) bool { return objects[k] != o })
}
