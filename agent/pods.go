package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/identity"
)

// LocalPod is a pod of this node that is to be captured.
type LocalPod struct {
	UID      string      // of its workload
	Netns    string      // its network namespace, by name or path
	Identity spiffeid.ID // whose SVID it presents
}

// PodSource says which pods are to be captured.
type PodSource interface {
	// Run calls set with all of them, at first and whenever they have changed,
	// until ctx ends. set does not block.
	Run(ctx context.Context, set func([]LocalPod)) error
}

// storePods is the source that takes the store's local workloads that have a
// network namespace.
type storePods struct{ store *mesh.Store }

func (s storePods) Run(ctx context.Context, set func([]LocalPod)) error {
	changed, cancel := s.store.Subscribe()
	defer cancel()
	for {
		var pods []LocalPod
		for _, w := range s.store.Local() {
			if w.Netns != "" {
				pods = append(pods, LocalPod{UID: w.UID, Netns: w.Netns, Identity: w.Identity()})
			}
		}
		set(pods)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

type podSetConfig struct {
	Source       PodSource
	Store        *mesh.Store
	Identity     *identity.Manager
	Proxy        *proxy.Proxy
	Telemetry    *telemetry.Telemetry
	Ready        *readiness
	DrainTimeout time.Duration
	Logger       *slog.Logger
}

// podSet runs one podRunner for each local pod. None waits for another, except
// for one that is still leaving the same network namespace.
type podSet struct {
	podSetConfig

	mu      sync.Mutex // guards the fields below
	runners map[string]*podRunner
	claims  map[uint64]string // network namespace to the pod that is captured in it
}

func newPodSet(cfg podSetConfig) *podSet {
	// Before anybody can ask.
	cfg.Ready.wait(waitLocalPods, "which they are is not known yet")
	return &podSet{podSetConfig: cfg, runners: make(map[string]*podRunner), claims: make(map[uint64]string)}
}

// Why a runner ends although the agent goes on.
var (
	errRemoved = errors.New("the pod is not to be captured any more")
	// errChanged: another runner takes the network namespace over. Until it has,
	// the rules stay.
	errChanged = errors.New("the pod has changed")
)

const waitLocalPods = "local pods"

// Run captures and serves the pods until ctx ends, and returns when all of them
// have been drained.
func (s *podSet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var latest []LocalPod
	changed := make(chan struct{}, 1)
	source := make(chan error, 1)
	go func() {
		source <- s.Source.Run(ctx, func(pods []LocalPod) {
			mu.Lock()
			latest = pods
			mu.Unlock()
			signal(changed)
		})
	}()
	gone := make(chan *podRunner)
	var want []LocalPod
	var err error
	running := 0
	for stopping := ctx.Done(); stopping != nil || running > 0; {
		select {
		case <-changed:
			mu.Lock()
			want = latest
			mu.Unlock()
		case r := <-gone:
			running--
			s.forget(r)
		case err = <-source:
			source = nil
			cancel()
		case <-stopping:
			stopping = nil
		}
		if ctx.Err() == nil {
			running += s.reconcile(ctx, want, gone)
			s.Ready.done(waitLocalPods)
		}
	}
	if source != nil {
		err = <-source
	}
	return err
}

// reconcile ends the runners of pods that are not wanted as they are, and
// starts those that are missing. It returns how many it has started.
func (s *podSet) reconcile(ctx context.Context, want []LocalPod, gone chan<- *podRunner) (started int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[LocalPod]bool, len(want))
	inNetns := make(map[string]bool, len(want))
	for _, p := range want {
		wanted[p] = true
		inNetns[p.Netns] = true
	}
	busy := make(map[string]bool) // namespaces that somebody is in
	for _, r := range s.runners {
		busy[r.pod.Netns] = true
		switch {
		case wanted[r.pod]:
		case inNetns[r.pod.Netns]:
			r.cancel(errChanged)
		default:
			r.cancel(errRemoved)
		}
	}
	for _, p := range want {
		if s.runners[p.UID] != nil || busy[p.Netns] {
			continue // reconcile runs again when that one is gone
		}
		r := s.newRunner(ctx, p)
		s.runners[p.UID] = r
		started++
		go func() {
			r.run()
			gone <- r
		}()
	}
	return started
}

func (s *podSet) forget(r *podRunner) {
	r.cancel(nil)
	s.Ready.done(r.readyName())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runners, r.pod.UID)
}

// claim makes a network namespace one pod's alone: its listeners and rules are
// there once.
func (s *podSet) claim(inode uint64, uid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if owner, taken := s.claims[inode]; taken {
		return fmt.Errorf("its network namespace is that of pod %s already; a namespace holds one pod", owner)
	}
	s.claims[inode] = uid
	return nil
}

func (s *podSet) unclaim(inode uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, inode)
}

// Status describes the local pods, in order of their uids.
func (s *podSet) Status() []PodStatus {
	s.mu.Lock()
	list := make([]PodStatus, 0, len(s.runners))
	for _, r := range s.runners {
		list = append(list, r.snapshot())
	}
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b PodStatus) int { return cmp.Compare(a.UID, b.UID) })
	return list
}

// signal sets a one-slot edge.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
