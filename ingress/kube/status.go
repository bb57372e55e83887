package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/adit-mesh/adit/ingress/gateway"
)

// written is an object as the API server answered it, and the version that the
// watch had of it then.
type written struct {
	from   string
	object object
}

// failure is a status that the API server refuses for an object: it is not tried
// again before a time, unless one of the two changes.
type failure struct {
	checked
	until time.Time
}

const refusedFor = 5 * time.Minute

// syncStatuses writes the statuses that are not what they should be, and reports
// whether nothing is left to be tried again.
func (w *writer) syncStatuses(ctx context.Context, now *work) bool {
	var tasks []func() error
	current := make(map[key]bool, len(now.statuses))
	for _, st := range now.statuses {
		k := key{st.Kind, types.NamespacedName{Namespace: st.Namespace, Name: st.Name}}
		current[k] = true
		base, seen := w.base(k)
		if base == nil || !about(st, base) || w.checked[k].holds(st, base) {
			continue
		}
		if _, differs := st.Merge(base); !differs {
			w.checked[k] = checked{st, base.GetResourceVersion()}
		} else if !w.refused(k, st, base) {
			tasks = append(tasks, func() error { return w.writeStatus(ctx, k, st, base, seen) })
		}
	}
	w.forget(current)
	return w.each(ctx, tasks)
}

// checked is a status that an object was found to have: of ten thousand routes
// few change at a time.
type checked struct {
	status  gateway.Status
	version string
}

// holds says that nothing has to be compared: neither of the two is another.
func (c checked) holds(st gateway.Status, o object) bool {
	was := c.status
	return c.version != "" && c.version == o.GetResourceVersion() && was.UID == st.UID && was.Generation == st.Generation &&
		was.Class == st.Class && was.Gateway == st.Gateway && was.ListenerSet == st.ListenerSet &&
		shared(was.Parents, st.Parents) && shared(was.Ancestors, st.Ancestors)
}

// shared says that two slices are one.
func shared[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// about says whether a status is about this very object, and not about an
// earlier one, or one before a change that is not built yet.
func about(st gateway.Status, o object) bool {
	return st.UID == o.GetUID() && st.Generation >= o.GetGeneration()
}

// base is an object as it is by what was read and written, nil if there is none;
// seen is the version that the watch has of it.
func (w *writer) base(k key) (base object, seen string) {
	w.Source.mu.Lock()
	o := w.objects[k]
	w.Source.mu.Unlock()
	if o == nil {
		return nil, ""
	}
	seen = o.GetResourceVersion()
	w.mu.Lock()
	defer w.mu.Unlock()
	if done, ok := w.done[k]; ok {
		if seen == done.from {
			return done.object, seen
		}
		delete(w.done, k)
	}
	return o, seen
}

func (w *writer) refused(k key, st gateway.Status, o object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.failed[k]
	return f.holds(st, o) && time.Now().Before(f.until)
}

// forget drops what is known of objects that are gone.
func (w *writer) forget(current map[key]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.done, func(k key, _ written) bool { return !current[k] })
	maps.DeleteFunc(w.failed, func(k key, _ failure) bool { return !current[k] })
	maps.DeleteFunc(w.checked, func(k key, _ checked) bool { return !current[k] })
}

// writeStatus writes one status. The error is of what is to be tried again. A
// conflict means that the object has changed: what should be written is merged
// into what it is now.
func (w *writer) writeStatus(ctx context.Context, k key, st gateway.Status, base object, seen string) error {
	resource, make, ok := resourceOf(k.kind)
	if !ok {
		return nil
	}
	var c dynamic.ResourceInterface = w.api.dynamic.Resource(resource)
	if k.Namespace != "" {
		c = w.api.dynamic.Resource(resource).Namespace(k.Namespace)
	}
	for range 4 {
		merged, differs := st.Merge(base)
		if !differs {
			return nil
		}
		patch, err := statusPatch(base, merged.(object))
		if err == nil {
			err = w.patch(ctx, c, k, seen, patch, make())
		}
		switch {
		case err == nil:
			w.mu.Lock()
			delete(w.failed, k)
			w.mu.Unlock()
			return nil
		case apierrors.IsNotFound(err) || ctx.Err() != nil:
			return nil // gone, or no longer ours to write
		case !apierrors.IsConflict(err):
			return w.failedTo(k, st, base, err)
		}
		fresh, err := c.Get(ctx, k.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || ctx.Err() != nil {
			return nil
		}
		if err == nil {
			base, err = convert(fresh, make())
		}
		if err != nil {
			return w.failedTo(k, st, base, err)
		}
		if !about(st, base) {
			return nil // the watch brings it, and then another status
		}
		seen = "" // what the watch has is older
	}
	return fmt.Errorf("%s changes faster than its status is written", k)
}

func (w *writer) patch(ctx context.Context, c dynamic.ResourceInterface, k key, seen string, patch []byte, into object) error {
	answer, err := c.Patch(ctx, k.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: managedBy}, "status")
	if err != nil {
		return err
	}
	o, err := convert(answer, into)
	if err != nil || seen == "" {
		return nil // written; the watch brings it
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[k] = written{seen, o}
	return nil
}

// failedTo notes that a status could not be written. It returns nil if there is
// no use in trying again soon.
func (w *writer) failedTo(k key, st gateway.Status, o object, err error) error {
	vain := apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
	if !vain {
		return fmt.Errorf("status of %s: %w", k, err)
	}
	w.log.Warn("a status is refused; it is tried again in 5 min, or when its object changes", "object", k.String(), "error", err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed[k] = failure{checked{st, o.GetResourceVersion()}, time.Now().Add(refusedFor)}
	return nil
}

// statusPatch is the merge patch that makes the status of one version of an
// object that of another. It holds for that version alone, so that nobody's
// writing is overwritten.
func statusPatch(base, next object) ([]byte, error) {
	before, err := statusOf(base)
	if err != nil {
		return nil, err
	}
	after, err := statusOf(next)
	if err != nil {
		return nil, err
	}
	changes := make(map[string]any)
	for name, v := range after {
		if !reflect.DeepEqual(before[name], v) {
			changes[name] = v
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			changes[name] = nil
		}
	}
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": base.GetResourceVersion()},
		"status":   changes,
	})
}

func statusOf(o object) (map[string]any, error) {
	v := reflect.ValueOf(o).Elem().FieldByName("Status")
	if !v.IsValid() {
		return nil, fmt.Errorf("%T has no status", o)
	}
	raw, err := json.Marshal(v.Interface())
	if err != nil {
		return nil, err
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, errors.Join(fmt.Errorf("%T", o), err)
	}
	return out, nil
}
