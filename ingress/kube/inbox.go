package kube

import (
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// key names an object.
type key struct {
	kind string
	types.NamespacedName
}

func (k key) String() string {
	if k.Namespace == "" {
		return k.kind + " " + k.Name
	}
	return k.kind + " " + k.NamespacedName.String()
}

// inbox holds the latest of each object that changed since it was last emptied.
// Whoever empties it slowly sees fewer versions, and no more memory is used.
type inbox struct {
	wake chan struct{} // one-slot edge

	mu      sync.Mutex     // guards pending
	pending map[key]object // nil = gone
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), pending: make(map[key]object)}
}

func (b *inbox) put(k key, o object) {
	b.mu.Lock()
	b.pending[k] = o
	b.mu.Unlock()
	signal(b.wake)
}

func (b *inbox) take() map[key]object {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.pending
	b.pending = make(map[key]object)
	return out
}

func signal(edge chan struct{}) {
	select {
	case edge <- struct{}{}:
	default:
	}
}

// tracker takes what a reflector sees to the inbox, unless it is there already:
// a reflector that lists again sees everything again.
type tracker struct {
	kind    string
	state   *kindState
	inbox   *inbox
	convert func(runtime.Object) (object, error)
	onError func(error)
	// known are the versions of what there is. It is the reflector's goroutine's
	// alone.
	known map[types.NamespacedName]string
}

var _ interface {
	cache.ReflectorStore
	cache.TransformingStore
} = (*tracker)(nil)

// entry is an object as it is kept, or why it cannot be.
type entry struct {
	types.NamespacedName
	version string
	object  object
	err     error
}

func (t *tracker) entry(obj any) (*entry, error) {
	switch o := obj.(type) {
	case *entry:
		return o, nil
	case cache.DeletedFinalStateUnknown:
		return t.entry(o.Obj)
	case runtime.Object:
		m, err := meta.Accessor(o)
		if err != nil {
			return nil, err
		}
		e := &entry{NamespacedName: types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}, version: m.GetResourceVersion()}
		e.object, e.err = t.convert(o)
		return e, nil
	}
	return nil, fmt.Errorf("%T is not an object of the API", obj)
}

// Transformer implements cache.TransformingStore: objects are reduced before
// they are kept anywhere, in the reflector's own buffers too.
func (t *tracker) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return t.entry(obj) }
}

// Add implements cache.ReflectorStore.
func (t *tracker) Add(obj any) error { return t.Update(obj) }

// Update implements cache.ReflectorStore.
func (t *tracker) Update(obj any) error {
	e, err := t.entry(obj)
	if err != nil {
		return err
	}
	t.set(e)
	t.state.seen(len(t.known))
	return nil
}

func (t *tracker) set(e *entry) {
	if e.err != nil {
		// The last version that could be read stays in force.
		t.onError(fmt.Errorf("%s %s is not as its kind is defined here: %w", t.kind, e.NamespacedName, e.err))
		return
	}
	if t.known[e.NamespacedName] == e.version && e.version != "" {
		return
	}
	t.known[e.NamespacedName] = e.version
	t.inbox.put(key{t.kind, e.NamespacedName}, e.object)
}

// Delete implements cache.ReflectorStore.
func (t *tracker) Delete(obj any) error {
	e, err := t.entry(obj)
	if err != nil {
		return err
	}
	t.drop(e.NamespacedName)
	t.state.seen(len(t.known))
	return nil
}

func (t *tracker) drop(n types.NamespacedName) {
	if _, ok := t.known[n]; ok {
		delete(t.known, n)
		t.inbox.put(key{t.kind, n}, nil)
	}
}

// Replace implements cache.ReflectorStore: what the list lacks is gone.
func (t *tracker) Replace(list []any, _ string) error {
	there := make(map[types.NamespacedName]struct{}, len(list))
	for _, obj := range list {
		e, err := t.entry(obj)
		if err != nil {
			return err
		}
		there[e.NamespacedName] = struct{}{}
		t.set(e)
	}
	for n := range t.known {
		if _, ok := there[n]; !ok {
			t.drop(n)
		}
	}
	t.state.seen(len(t.known))
	t.state.listed()
	return nil
}

// Resync implements cache.ReflectorStore. There is nothing to compare with.
func (t *tracker) Resync() error { return nil }

// Bookmark implements cache.ReflectorBookmarkStore: a sign of life.
func (t *tracker) Bookmark(string) error {
	t.state.seen(-1)
	return nil
}
