package kube

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/ingress/gateway"
)

// work is what the leader is to write, as of one build.
type work struct {
	plans    []*plan
	statuses []gateway.Status
	services map[types.NamespacedName]*corev1.Service // that are ours
	// gatewaysKnown says that all Gateways have been seen: one that is not among
	// the plans is perhaps gone.
	gatewaysKnown bool
}

// workbench hands work from the owner to the leader: the latest counts.
type workbench struct {
	wake [2]chan struct{} // one-slot edges, for Services and for statuses

	mu     sync.Mutex // guards all below
	latest *work
	taken  map[types.NamespacedName]string // Gateways whose Service somebody else has, and which
}

func (b *workbench) put(w *work) {
	b.mu.Lock()
	b.latest = w
	b.mu.Unlock()
	for _, edge := range b.wake {
		signal(edge)
	}
}

func (b *workbench) get() *work {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.latest
}

func (b *workbench) conflicts() map[types.NamespacedName]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

// setConflicts replaces them, and says whether they are others than before.
func (b *workbench) setConflicts(now map[types.NamespacedName]string) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = len(now) != len(b.taken)
	for gw, why := range now {
		changed = changed || b.taken[gw] != why
	}
	b.taken = now
	return changed
}

const (
	// pace is between two rounds of writing: a status that changes faster is
	// written as it is then.
	pace = 50 * time.Millisecond
	// writesPerSecond spares the API server.
	writesPerSecond = 200
	writesAtOnce    = 400
	writers         = 8
	// again bounds how soon what failed is tried again.
	againFirst = time.Second
	againMost  = 30 * time.Second
)

// lead writes until ctx ends, which it does as soon as another pod may have the
// Lease. Requests under way end with it.
func (s *Source) lead(ctx context.Context) {
	w := &writer{
		Source: s, limit: rate.NewLimiter(writesPerSecond, writesAtOnce),
		checked: make(map[key]checked), done: make(map[key]written), failed: make(map[key]failure),
	}
	s.leading.Store(true)
	defer s.leading.Store(false)
	// What is on the bench is of a time when somebody else led.
	s.work.put(nil)
	signal(s.inbox.wake)
	// Neither waits for the other: a status is not late because a hundred Services
	// are being made.
	var wg sync.WaitGroup
	wg.Go(func() { s.work.follow(ctx, 0, func(now *work) bool { return w.syncServices(ctx, now) }) })
	wg.Go(func() { s.work.follow(ctx, 1, func(now *work) bool { return w.syncStatuses(ctx, now) }) })
	wg.Wait()
}

// follow does what is on the bench whenever that changes, and again after a while
// if do says that something is left. who is its number among those who do.
func (b *workbench) follow(ctx context.Context, who int, do func(*work) bool) {
	pause := againFirst
	for {
		var retry <-chan time.Time
		if now := b.get(); now != nil {
			if do(now) {
				pause = againFirst
			} else {
				retry = time.After(pause)
				pause = min(2*pause, againMost)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-b.wake[who]:
		case <-retry:
		}
		if !sleep(ctx, pace) {
			return
		}
	}
}

// writer is what one leader knows of its own writing.
type writer struct {
	*Source
	limit *rate.Limiter
	// checked is what needs not be compared again.
	checked map[key]checked

	mu sync.Mutex // guards all below
	// done is what was written and may not have been read back.
	done map[key]written
	// failed is what cannot be written as it is.
	failed map[key]failure
}
