package kube

import (
	"context"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// listWatch is how the objects of one kind are had.
type listWatch struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// noted is a listWatch that notes how it goes, for one reflector.
type noted struct {
	listWatch
	state *kindState
	// onError is told of each failure.
	onError func(error)

	// A reflector that is stopped does not wait for its list, which may only be
	// about to begin.
	mu      sync.Mutex // guards ended, and so that pending grows no more
	ended   bool
	pending sync.WaitGroup // lists
}

var _ cache.ListerWatcherWithContext = (*noted)(nil)

func (n *noted) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if !n.begin() {
		return nil, context.Canceled
	}
	defer n.pending.Done()
	l, err := n.list(ctx, o)
	n.note(ctx, err)
	return l, err
}

func (n *noted) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ended {
		n.pending.Add(1)
	}
	return !n.ended
}

// end waits for lists that have begun; none begins any more.
func (n *noted) end() {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	n.pending.Wait()
}

func (n *noted) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	w, err := n.watch(ctx, o)
	n.note(ctx, err)
	if err != nil {
		return nil, err
	}
	return &notedWatch{Interface: w, state: n.state}, nil
}

// notedWatch notes the end of a watch. Until there is another, nothing is heard
// of its kind.
type notedWatch struct {
	watch.Interface
	state *kindState
}

func (w *notedWatch) Stop() {
	w.state.lost()
	w.Interface.Stop()
}

func (n *noted) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		return // we are stopping
	}
	// What is too old, or not served as a stream, is asked for in another way.
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) {
		return
	}
	n.state.asked(err)
	if err != nil && n.onError != nil {
		n.onError(err)
	}
}

// List and Watch are for the interface without a context, which nobody uses.
func (n *noted) List(o metav1.ListOptions) (runtime.Object, error) {
	return n.ListWithContext(context.Background(), o)
}

func (n *noted) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return n.WatchWithContext(context.Background(), o)
}

// tracker takes what a reflector sees into the world. Objects are reduced to
// records before they are kept anywhere, in the reflector's own buffers too.
type tracker[R any] struct {
	world   *world
	state   *kindState
	convert func(obj runtime.Object) *R // nil = of no interest
	// The rest is called with the world locked.
	set  func(k key, uid string, r *R)
	drop func(k key, uid string) // the object is gone; uid may be ""
	keys func() []key            // all that are there
	size func() int
}

// entry is an object as a record.
type entry[R any] struct {
	key
	uid    string
	record *R
}

func (t *tracker[R]) entry(obj any) (*entry[R], error) {
	switch o := obj.(type) {
	case *entry[R]:
		return o, nil
	case cache.DeletedFinalStateUnknown:
		return t.entry(o.Obj)
	case runtime.Object:
		m, err := meta.Accessor(o)
		if err != nil {
			return nil, err
		}
		return &entry[R]{key{m.GetNamespace(), m.GetName()}, string(m.GetUID()), t.convert(o)}, nil
	}
	return nil, fmt.Errorf("%T is not an object of the API", obj)
}

// Transformer implements cache.TransformingStore.
func (t *tracker[R]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return t.entry(obj) }
}

// Add implements cache.ReflectorStore.
func (t *tracker[R]) Add(obj any) error { return t.Update(obj) }

// Update implements cache.ReflectorStore.
func (t *tracker[R]) Update(obj any) error {
	e, err := t.entry(obj)
	if err != nil {
		return err
	}
	t.world.change(func() {
		t.set(e.key, e.uid, e.record)
		t.state.seen(t.size())
	})
	return nil
}

// Delete implements cache.ReflectorStore.
func (t *tracker[R]) Delete(obj any) error {
	e, err := t.entry(obj)
	if err != nil {
		return err
	}
	t.world.change(func() {
		t.drop(e.key, e.uid)
		t.state.seen(t.size())
	})
	return nil
}

// Replace implements cache.ReflectorStore: what the list lacks is gone.
func (t *tracker[R]) Replace(list []any, _ string) error {
	entries := make([]*entry[R], 0, len(list))
	there := make(map[key]struct{}, len(list))
	for _, obj := range list {
		e, err := t.entry(obj)
		if err != nil {
			return err
		}
		entries = append(entries, e)
		there[e.key] = struct{}{}
	}
	t.world.change(func() {
		for _, k := range t.keys() {
			if _, ok := there[k]; !ok {
				t.drop(k, "")
			}
		}
		for _, e := range entries {
			t.set(e.key, e.uid, e.record)
		}
		t.state.seen(t.size())
	})
	t.state.listed()
	return nil
}

// Resync implements cache.ReflectorStore. Nothing is kept to compare with.
func (t *tracker[R]) Resync() error { return nil }

// Bookmark implements cache.ReflectorBookmarkStore: a sign of life.
func (t *tracker[R]) Bookmark(string) error {
	t.state.heard()
	return nil
}
