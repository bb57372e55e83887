package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// follower runs reflectors.
type follower struct {
	api   *api
	log   *slog.Logger
	inbox *inbox
}

// follow keeps one kind until ctx ends.
func (f *follower) follow(ctx context.Context, k *kind) {
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{f.log.With("kind", k.state.get().Name).Handler()}))
	t := &tracker{
		kind: k.name, state: k.state, inbox: f.inbox, convert: k.convert, known: make(map[types.NamespacedName]string),
		onError: func(err error) { f.log.Error("an object is left as it was", "error", err) },
	}
	if k.installed == nil {
		f.reflect(ctx, k, t)
		return
	}
	for ctx.Err() == nil {
		if f.awaitInstalled(ctx, k, t) {
			f.reflect(ctx, k, t)
		}
	}
}

// errUninstalled ends a reflector whose kind is gone.
var errUninstalled = errors.New("the API server no longer has this kind")

// reflect runs the reflector of one kind until ctx ends or the kind is gone.
func (f *follower) reflect(ctx context.Context, k *kind, into *tracker) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n := &noted{listWatch: k.from, state: k.state}
	n.onError = func(err error) {
		// Permissions that are missing take down what they are for, and no more.
		if apierrors.IsForbidden(err) && !k.protects() {
			k.state.giveUp()
		}
		if k.installed != nil && apierrors.IsNotFound(err) {
			if there, err := f.api.has(ctx, *k.installed); err == nil && !there {
				stop(errUninstalled)
			}
		}
	}
	log := klog.FromContext(ctx)
	r := cache.NewReflectorWithOptions(n, k.example, into, cache.ReflectorOptions{
		Name: k.state.get().Name, Logger: &log,
		// Between attempts, with as much again at random.
		Backoff: &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 6, Cap: 10 * time.Second},
	})
	r.RunWithContext(ctx)
	n.end()
}

// awaitInstalled returns true once the API server has a kind, or false when ctx
// ends. While it has not, the kind counts as followed and empty.
func (f *follower) awaitInstalled(ctx context.Context, k *kind, into *tracker) bool {
	said := false
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		there, err := f.api.has(ctx, *k.installed)
		switch {
		case ctx.Err() != nil:
			return false
		case err != nil:
			k.state.asked(fmt.Errorf("asking which kinds there are: %w", err))
			if apierrors.IsForbidden(err) && !k.protects() {
				k.state.giveUp()
			}
		case there:
			if said {
				f.log.Info("a kind has been installed, and is followed", "kind", k.state.get().Name)
			}
			return true
		default:
			if err := into.Replace(nil, ""); err != nil {
				return false
			}
			k.state.absent()
			if !said {
				said = true
				f.log.Info("a kind is not installed; it is followed once it is", "kind", k.state.get().Name)
			}
		}
		if !sleep(ctx, pause/2+rand.N(pause)) {
			return false
		}
	}
}

const (
	retryFirst = time.Second
	retryMost  = 20 * time.Second
)

// sleep waits, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// noted is a listWatch that notes how it goes, for one reflector.
type noted struct {
	listWatch
	state   *kindState
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
	if err != nil {
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

// quiet takes what client-go says for debugging only: that a watch ends is
// expected, and that the server is away is said once, by watchConnection.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if !q.Enabled(ctx, r.Level) { // errors are not asked about
		return nil
	}
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(g string) slog.Handler      { return quiet{q.Handler.WithGroup(g)} }

// watchConnection says when the API server goes away and when it is back, until
// ctx ends. A watch that is renewed is between two looks.
func (s *Source) watchConnection(ctx context.Context) {
	const look = 2 * time.Second
	away, suspected := false, false
	for sleep(ctx, look) {
		var lost []string
		reason := ""
		for _, k := range s.Kinds() {
			if !k.Connected && (k.Present || !k.Synced) && k.Error != "" {
				lost = append(lost, k.Name)
				reason = cmp.Or(reason, k.Error)
			}
		}
		switch {
		case len(lost) == 0 && away:
			away = false
			s.log.Info("the API server answers again")
		case len(lost) > 0 && suspected && !away:
			away = true
			s.log.Warn("the API server does not answer; what is served stays as it is", "kinds", lost, "error", reason)
		}
		suspected = len(lost) > 0
	}
}
