package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Event tells whoever looks at a pod with kubectl describe. kind is "Normal"
// or "Warning", reason one word in CamelCase. Events of one pod with one reason
// are one event that is counted. It never blocks; what cannot be written soon
// is lost.
func (s *Source) Event(ref PodRef, kind, reason, message string) {
	w := s.world
	w.mu.Lock()
	if p := w.pods[key{ref.Namespace, ref.Name}]; p != nil && p.is(ref.UID) {
		ref.UID = p.uid
	}
	w.mu.Unlock()
	s.events.put(eventKey{ref, kind, reason}, message)
}

type eventKey struct {
	ref          PodRef
	kind, reason string
}

// eventWriter writes events one after the other.
type eventWriter struct {
	api  *api
	node string
	log  *slog.Logger
	wake chan struct{}
	// told are the events that exist, which are counted on. Only run uses it.
	told map[eventKey]*toldEvent

	written, lost atomic.Uint64

	mu      sync.Mutex // guards the fields below
	pending map[eventKey]*pendingEvent
	order   []eventKey
}

type pendingEvent struct {
	message string
	count   int32
	first   time.Time
}

type toldEvent struct {
	name  string
	count int32
	last  time.Time
}

const (
	// eventsPending bounds what waits for the API server.
	eventsPending = 256
	// eventsTold bounds the events that are counted on; eventsFresh is for how
	// long. The API server keeps events for an hour.
	eventsTold  = 1024
	eventsFresh = 10 * time.Minute
	// eventPace is the time between two events: they are for people.
	eventPace = 100 * time.Millisecond
	// eventLength is the longest message that the API server takes.
	eventLength = 1024
)

func newEventWriter(a *api, node string, log *slog.Logger) *eventWriter {
	return &eventWriter{
		api: a, node: node, log: log, wake: make(chan struct{}, 1),
		told: map[eventKey]*toldEvent{}, pending: map[eventKey]*pendingEvent{},
	}
}

func (e *eventWriter) put(k eventKey, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.pending[k]; p != nil {
		p.message, p.count = message, p.count+1
		return
	}
	if len(e.pending) >= eventsPending {
		e.lost.Add(1)
		return
	}
	e.pending[k] = &pendingEvent{message: message, count: 1, first: time.Now()}
	e.order = append(e.order, k)
	signal(e.wake)
}

func (e *eventWriter) next() (eventKey, *pendingEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.order) == 0 {
		return eventKey{}, nil
	}
	k := e.order[0]
	e.order = e.order[1:]
	p := e.pending[k]
	delete(e.pending, k)
	return k, p
}

func (e *eventWriter) run(ctx context.Context) {
	for {
		select {
		case <-e.wake:
		case <-ctx.Done():
			return
		}
		for k, p := e.next(); p != nil; k, p = e.next() {
			if err := e.write(ctx, k, p); err != nil {
				e.lost.Add(1)
				e.log.Debug("an event cannot be written", "pod", k.ref.String(), "reason", k.reason, "error", err)
			} else {
				e.written.Add(1)
			}
			if !sleep(ctx, eventPace) {
				return
			}
		}
	}
}

func (e *eventWriter) write(ctx context.Context, k eventKey, p *pendingEvent) error {
	now := time.Now()
	if t := e.told[k]; t != nil && now.Sub(t.last) < eventsFresh {
		t.count, t.last = t.count+p.count, now
		patch, err := json.Marshal(map[string]any{
			"count": t.count, "message": clip(p.message), "lastTimestamp": metav1.NewTime(now),
		})
		if err != nil {
			return err
		}
		err = e.api.core.Patch(types.MergePatchType).Namespace(k.ref.Namespace).Resource("events").Name(t.name).
			Body(patch).Do(ctx).Error()
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	for old, t := range e.told {
		if now.Sub(t.last) >= eventsFresh || len(e.told) >= eventsTold {
			delete(e.told, old)
		}
	}
	ev := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: k.ref.Namespace, Name: fmt.Sprintf("%s.%x", k.ref.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: k.ref.Namespace, Name: k.ref.Name, UID: types.UID(k.ref.UID),
		},
		Type: k.kind, Reason: k.reason, Message: clip(p.message), Count: p.count,
		FirstTimestamp: metav1.NewTime(p.first), LastTimestamp: metav1.NewTime(now),
		Source:              corev1.EventSource{Component: "adit-agent", Host: e.node},
		ReportingController: "adit-agent", ReportingInstance: e.node,
	}
	err := e.api.core.Post().Namespace(k.ref.Namespace).Resource("events").Body(ev).Do(ctx).Error()
	if err == nil {
		e.told[k] = &toldEvent{name: ev.Name, count: p.count, last: now}
	}
	return err
}

// clip shortens a message to what the API server takes.
func clip(s string) string {
	const dots = "..."
	if len(s) <= eventLength {
		return s
	}
	s = s[:eventLength-len(dots)]
	for len(s) > 0 && !utf8.ValidString(s[len(s)-1:]) && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	if r, n := utf8.DecodeLastRuneInString(s); r == utf8.RuneError && n == 1 {
		s = s[:len(s)-1]
	}
	return s + dots
}
