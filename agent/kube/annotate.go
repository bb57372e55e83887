package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"istio.io/api/annotation"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Annotate sets the annotation ambient.istio.io/redirection of a pod to state,
// "enabled", "pending" or "" for none. It never blocks: the annotation is
// written when the API server takes it, the last state counts, and a pod that
// is gone is forgotten. For the routes of this agent the state holds at once,
// whatever the annotation says.
func (s *Source) Annotate(ref PodRef, state string) {
	w := s.world
	w.change(func() {
		k := key{ref.Namespace, ref.Name}
		p := w.pods[k]
		if p == nil || !p.is(ref.UID) {
			return
		}
		w.captured[p.uid] = parseRedirection(state)
		w.markPod(k)
		// The annotation may be on its way to what it was before, so it is
		// written even if it seems right already.
		s.annotator.put(annotationWrite{key: k, uid: p.uid, state: state})
	})
}

// takeBack removes what an earlier agent, or the same before its node was started
// anew, said of pods that are not to be captured: peers open tunnels to them for
// as long as it is there. Of those that this agent has captured it says so
// itself, once it has let go.
func (s *Source) takeBack() {
	var stale []PodRef
	w := s.world
	w.mu.Lock()
	for k := range w.localPods {
		p := w.pods[k]
		if _, told := w.captured[p.uid]; told || p.redirection == notRedirected || p.template.Value().sidecar {
			continue
		}
		if enrol, _ := w.decide(p); !enrol {
			stale = append(stale, p.ref())
		}
	}
	w.mu.Unlock()
	for _, ref := range stale {
		s.Annotate(ref, "")
	}
}

// Flush waits until what Annotate was told has been written, or given up
// because the pods are gone. The error is that of ctx.
func (s *Source) Flush(ctx context.Context) error {
	for {
		done := s.annotator.idle()
		if done == nil {
			return nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Told waits until what Annotate was told of the pod with this workload UID has
// been written, or given up because the pod is gone. The error is that of ctx.
func (s *Source) Told(ctx context.Context, workloadUID string) error {
	for {
		next := s.annotator.next(func(w annotationWrite) bool { return s.world.podUID(w.key) == workloadUID })
		if next == nil {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type annotationWrite struct {
	key
	uid   string
	state string
}

// annotator writes annotations one after the other.
type annotator struct {
	api  *api
	log  *slog.Logger
	wake chan struct{}

	written, failed atomic.Uint64

	mu      sync.Mutex                 // guards the fields below
	pending map[string]annotationWrite // by pod UID, so the last state counts
	drained chan struct{}              // closed when pending is empty; nil if it is
	taken   chan struct{}              // closed at the next write that is taken off; nil if nobody waits
}

func newAnnotator(a *api, log *slog.Logger) *annotator {
	return &annotator{api: a, log: log, wake: make(chan struct{}, 1), pending: map[string]annotationWrite{}}
}

func (a *annotator) put(w annotationWrite) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.putLocked(w)
}

func (a *annotator) putLocked(w annotationWrite) {
	a.pending[w.uid] = w
	if a.drained == nil {
		a.drained = make(chan struct{})
	}
	signal(a.wake)
}

// putMissing is put unless a state of the pod is to be written already.
func (a *annotator) putMissing(w annotationWrite) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, pending := a.pending[w.uid]; !pending {
		a.putLocked(w)
	}
}

// idle is a channel that is closed once nothing is pending; nil if nothing is.
func (a *annotator) idle() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.drained == nil {
		return nil
	}
	return a.drained
}

// next is a channel that is closed when one more write is over, if one that match
// names is pending; otherwise nil.
func (a *annotator) next(match func(annotationWrite) bool) <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.pending {
		if match(w) {
			if a.taken == nil {
				a.taken = make(chan struct{})
			}
			return a.taken
		}
	}
	return nil
}

func (a *annotator) list() []annotationWrite {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]annotationWrite, 0, len(a.pending))
	for _, w := range a.pending {
		out = append(out, w)
	}
	return out
}

// done takes w off, unless another state has been asked for since.
func (a *annotator) done(w annotationWrite) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[w.uid] == w {
		delete(a.pending, w.uid)
	}
	if a.taken != nil {
		close(a.taken)
		a.taken = nil
	}
	if len(a.pending) == 0 && a.drained != nil {
		close(a.drained)
		a.drained = nil
	}
}

// writePace is the time between two writes of one kind: a node with 250 pods
// that all change is done in seconds, and a thousand such nodes do not flood
// the API server.
const writePace = 20 * time.Millisecond

func (a *annotator) run(ctx context.Context) {
	wait := retryFirst
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		again := false
		for _, w := range a.list() {
			if err := a.write(ctx, w); err != nil {
				again = true
				a.failed.Add(1)
				a.log.Debug("the annotation of a pod cannot be written; trying again", "pod", w.String(), "error", err)
				if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) {
					break // no answer: the others would meet the same
				}
				// What the server says is of this pod alone: an admission webhook
				// may not like it.
			}
			if !sleep(ctx, writePace) {
				return
			}
		}
		if !again {
			wait = retryFirst
			continue
		}
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, retryMost)
		signal(a.wake)
	}
}

// write writes one annotation. An error is worth another attempt.
func (a *annotator) write(ctx context.Context, w annotationWrite) error {
	var value any // null removes
	if w.state != "" {
		value = w.state
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         w.uid, // of no other pod of this name
		"annotations": map[string]any{annotation.AmbientRedirection.Name: value},
	}})
	if err != nil {
		return err
	}
	err = a.api.core.Patch(types.MergePatchType).Namespace(w.namespace).Resource("pods").Name(w.name).
		SubResource("status").Body(patch).Do(ctx).Error()
	switch {
	case err == nil:
		a.written.Add(1)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsInvalid(err):
		// The pod is gone, or another has its name.
	default:
		return err
	}
	a.done(w)
	return nil
}
