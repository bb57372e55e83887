package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/identity"
)

// LocalPod is a pod of this node that is to be captured.
type LocalPod struct {
	UID      string        // of its workload
	Ref      kube.PodRef   // in Kubernetes; zero without
	Netns    string        // its network namespace, by name or path
	Inode    uint64        // of that namespace; 0 = whatever Netns stands for
	Identity spiffeid.ID   // whose SVID it presents
	Rules    capture.Rules // what of its traffic is captured
	// Open opens the namespace, for the caller to close. nil = by Netns.
	Open func() (*capture.Netns, error)
	// Release says that the pod is not to be captured, and what an earlier agent
	// has left in its namespace is to go.
	Release bool
}

// place identifies the network namespace.
func (p *LocalPod) place() string {
	if p.Inode != 0 {
		return strconv.FormatUint(p.Inode, 10)
	}
	return p.Netns
}

// leaving is a pod whose network goes. The kernel gives the number of its
// namespace to the next one, which may be another pod's at once.
type leaving struct {
	place, uid string
	ref        kube.PodRef
}

func (p *LocalPod) leaving() leaving { return leaving{p.place(), p.UID, p.Ref} }

// same reports whether what serves p can serve q. Rules are changed live.
func (p *LocalPod) same(q *LocalPod) bool {
	return p.UID == q.UID && p.place() == q.place() && p.Identity == q.Identity && p.Release == q.Release
}

func (p *LocalPod) open() (*capture.Netns, error) {
	if p.Open != nil {
		return p.Open()
	}
	return capture.OpenNetns(p.Netns)
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

// noPods is the source of an agent that captures nothing.
type noPods struct{}

func (noPods) Run(ctx context.Context, set func([]LocalPod)) error {
	set(nil)
	<-ctx.Done()
	return nil
}

type podSetConfig struct {
	Source       PodSource
	Store        *mesh.Store
	Identity     *identity.Manager
	Proxy        *proxy.Proxy
	Telemetry    *telemetry.Telemetry
	Ready        *readiness
	DrainTimeout time.Duration
	SysctlRoot   string
	// Captured reports that a pod's traffic is captured from now on, Released
	// that nothing new is: plaintext reaches it again, and tunnels still do for
	// a moment. May be nil. They do not block.
	Captured, Released func(LocalPod)
	// Trouble tells the pod's owner what keeps it from being served: a reason of
	// one word, and a message. May be nil. It does not block.
	Trouble func(p LocalPod, reason, message string)
	Logger  *slog.Logger
}

// podSet runs one podRunner for each local pod. None waits for another, except
// for one that is still leaving the same network namespace.
type podSet struct {
	podSetConfig

	mu      sync.Mutex // guards the fields below
	runners map[string]*podRunner
	claims  map[uint64]string // network namespace to the pod that is captured in it
	gone    map[leaving]bool  // networks that are being torn down, as long as they are wanted
	changed chan struct{}     // closed and replaced when a runner's state changes
}

func newPodSet(cfg podSetConfig) *podSet {
	// Before anybody can ask.
	cfg.Ready.wait(waitLocalPods, "which they are is not known yet")
	return &podSet{
		podSetConfig: cfg, runners: make(map[string]*podRunner), claims: make(map[uint64]string),
		gone: make(map[leaving]bool), changed: make(chan struct{}),
	}
}

// Why a runner ends although the agent goes on.
var (
	errRemoved = errors.New("the pod is not to be captured any more")
	// errChanged: another runner takes the network namespace over. Until it has,
	// the rules stay.
	errChanged = errors.New("the pod has changed")
	// errGone: the container runtime is about to take the pod's network away.
	errGone = errors.New("the pod ends")
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
	wanted := make(map[string]*LocalPod, len(want))
	places := make(map[string]bool, len(want))
	here := make(map[leaving]bool, len(want))
	for i := range want {
		wanted[want[i].UID] = &want[i]
		places[want[i].place()] = true
		here[want[i].leaving()] = true
	}
	maps.DeleteFunc(s.gone, func(l leaving, _ bool) bool { return !here[l] })
	busy := make(map[string]bool) // namespaces that somebody is in
	for _, r := range s.runners {
		busy[r.pod.place()] = true
		p := wanted[r.pod.UID]
		switch {
		case p != nil && r.pod.same(p):
			r.setRules(p.Rules)
		case places[r.pod.place()]:
			r.cancel(errChanged)
		default:
			r.cancel(errRemoved)
		}
	}
	for _, p := range want {
		if s.runners[p.UID] != nil || busy[p.place()] || s.gone[p.leaving()] {
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
	s.notify()
}

// notify wakes those who wait for a runner's state. s.mu is held.
func (s *podSet) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// wake is notify for those who do not hold s.mu.
func (s *podSet) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify()
}

// runner is the runner of a pod in a network namespace, nil if there is none,
// and what is closed when that may have changed.
func (s *podSet) runner(uid string, inode uint64) (r *podRunner, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r = s.runners[uid]; r != nil && r.pod.Inode != inode {
		r = nil
	}
	return r, s.changed
}

// Wait returns when the pod is captured in a network namespace and has a
// certificate, or when ctx ends. The error says what is missing.
func (s *podSet) Wait(ctx context.Context, uid string, inode uint64) error {
	for {
		r, changed := s.runner(uid, inode)
		missing := "an earlier network namespace of it is being left"
		if r != nil {
			status := r.snapshot()
			if status.State == PodServing {
				return s.waitCertificate(ctx, r.pod.Identity)
			}
			missing = cmp.Or(status.Error, string(status.State))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("pod %s is not captured yet: %s", uid, missing)
		}
	}
}

func (s *podSet) waitCertificate(ctx context.Context, id spiffeid.ID) error {
	if _, err := s.Identity.SVID(ctx, id); err != nil {
		return fmt.Errorf("no certificate for %s yet: %w", id, err)
	}
	return nil
}

// Gone ends the capture of a pod whose network is about to be torn down: peers
// get GOAWAY as long as there is a network to send it. It returns when that is
// done, or when ctx ends.
func (s *podSet) Gone(ctx context.Context, uid string, inode uint64) {
	for {
		r, changed := s.runner(uid, inode)
		if r == nil {
			return
		}
		s.mu.Lock()
		s.gone[r.pod.leaving()] = true
		s.mu.Unlock()
		r.cancel(errGone)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (s *podSet) captured(p LocalPod) {
	if s.Captured != nil {
		s.Captured(p)
	}
}

func (s *podSet) released(p LocalPod) {
	if s.Released != nil {
		s.Released(p)
	}
}

func (s *podSet) trouble(p LocalPod, reason, message string) {
	if s.Trouble != nil {
		s.Trouble(p, reason, message)
	}
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
