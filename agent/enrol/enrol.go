package enrol

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture"
)

// Pod is one pod with its network namespace.
type Pod struct {
	UID      string // of its workload
	Ref      kube.PodRef
	Identity spiffeid.ID
	Rules    capture.Rules
	// IPs are its addresses, shared with whoever else has them.
	IPs []netip.Addr
	// Open returns a fresh handle on the pod's network namespace, for the caller
	// to close. It fails once the pod is not in the set any more.
	Open  func() (*capture.Netns, error)
	Inode uint64 // of the namespace
	Netns string // what the namespace was found by, for messages
	// Release says that the pod is not to be captured, and that what an earlier
	// agent has left in its namespace is to go.
	Release bool
}

// Enroller captures pods.
type Enroller interface {
	// Set is told all pods that are to be captured, whenever they have changed.
	// It does not block.
	Set(pods []Pod)
	// Wait returns nil once a pod of the set is captured in a namespace and has
	// a certificate. When ctx ends, the error says what is missing.
	Wait(ctx context.Context, uid string, inode uint64) error
	// Gone ends the capture of a pod whose network is about to be torn down:
	// peers are told, and the rules stay for as long as the namespace does. It
	// returns when that is done, or when ctx ends; if ctx has ended already, it
	// only begins it.
	Gone(ctx context.Context, uid string, inode uint64)
}

// Kube is what is asked of Kubernetes: see [kube.Source].
type Kube interface {
	Synced() <-chan struct{}
	Local() []kube.LocalPod
	SubscribeLocal() (changed <-chan struct{}, cancel func())
	Lookup(ctx context.Context, ref kube.PodRef) (kube.LocalPod, error)
	SetAddresses(ref kube.PodRef, addrs []netip.Addr)
}

var _ Kube = (*kube.Source)(nil)

// Config is what an Enrol works with.
type Config struct {
	Kube     Kube
	Enroller Enroller
	// Socket is where the CNI plugin asks. Its directory is made the agent's
	// alone. "" = no plugin: pods are captured once they run.
	Socket string
	// ExcludeNamespaces are those whose pods start without waiting for anything.
	ExcludeNamespaces []string
	// AddTimeout bounds how long the plugin waits for a pod to be captured. It
	// has to be shorter than the plugin's own patience of 40 s. 0 = 20 s.
	AddTimeout time.Duration
	// ProcRoot is the proc(5) of the node. "" = /proc.
	ProcRoot string
	// Interval is how often the namespaces of captured pods are looked after.
	// 0 = 30 s.
	Interval time.Duration
	// Rules says what of a pod's traffic is captured. nil = what the pod's
	// annotations and probes say.
	Rules  func(*kube.LocalPod) capture.Rules
	Logger *slog.Logger // nil = none
}

// Enrol finds namespaces for pods and hands both to the Enroller.
type Enrol struct {
	Config
	scanner *scanner

	publishing sync.Mutex // held from a decision until the Enroller knows it

	mu        sync.Mutex // guards the fields below
	sandboxes map[string]*sandbox
	ended     map[uint64]time.Time // namespaces whose end the runtime has announced, when
	missing   map[string]missing   // pods to be captured without a namespace

	looked pacer         // of follow's goroutine
	again  chan struct{} // one-slot edge: a pod may have to be looked for
	swept  chan struct{} // closed once the pods that ran already are in the set
}

// missing is why a pod that is to be captured has no namespace.
type missing struct {
	since  time.Time
	reason string
}

// New prepares an Enrol.
func New(cfg Config) *Enrol {
	cfg.AddTimeout = cmp.Or(cfg.AddTimeout, 20*time.Second)
	cfg.ProcRoot = cmp.Or(cfg.ProcRoot, "/proc")
	cfg.Interval = cmp.Or(cfg.Interval, 30*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rules == nil {
		cfg.Rules = rulesOf
	}
	return &Enrol{
		Config: cfg, scanner: &scanner{root: cfg.ProcRoot},
		sandboxes: make(map[string]*sandbox), ended: make(map[uint64]time.Time), missing: make(map[string]missing),
		again: make(chan struct{}, 1), swept: make(chan struct{}),
	}
}

// Swept is closed once the Enroller has been told of the pods that ran already
// when Run began. What it is told before is not all of them: a pod that starts
// meanwhile does not wait for the others.
func (e *Enrol) Swept() <-chan struct{} { return e.swept }

// rulesOf is what of a pod's traffic is captured.
func rulesOf(pod *kube.LocalPod) capture.Rules {
	rules := capture.Rules{Ingress: pod.Ingress, VirtualInterfaces: pod.RerouteInterfaces}
	for _, port := range pod.ProbePorts {
		rules.ProbePorts = append(rules.ProbePorts, capture.Port(port))
	}
	return rules
}

// Run finds namespaces and answers the CNI plugin until ctx ends. It returns
// when everything that it started has ended. Pods stay as they are.
func (e *Enrol) Run(ctx context.Context) error {
	var server *server
	if e.Socket != "" {
		var err error
		if server, err = listen(e.Socket); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	var err error
	if server != nil {
		parts.Go(func() {
			defer cancel()
			err = server.serve(ctx, e.Logger, e.answer)
		})
	}
	e.follow(ctx)
	parts.Wait()
	e.closeAll()
	return err
}

// follow keeps the set of pods what it should be.
func (e *Enrol) follow(ctx context.Context) {
	changed, cancel := e.Kube.SubscribeLocal()
	defer cancel()
	select {
	case <-e.Kube.Synced(): // before, no pod is known not to be there
	case <-ctx.Done():
		return
	}
	for {
		timer := time.NewTimer(e.look(ctx))
		select {
		case <-changed:
		case <-e.again:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// Unenrolled is a local pod that is not captured.
type Unenrolled struct {
	Ref kube.PodRef
	// Wanted says that it is to be.
	Wanted bool
	Reason string
	// Since is for how long a wanted one is missing.
	Since time.Time
}

// Status lists the local pods that are not captured, by namespace and name.
// Those that are on their way with the Enroller are not among them.
func (e *Enrol) Status() []Unenrolled {
	local := e.Kube.Local()
	e.mu.Lock()
	var list []Unenrolled
	for i := range local {
		pod := &local[i]
		switch {
		case !pod.Enrol:
			list = append(list, Unenrolled{Ref: pod.PodRef, Reason: pod.Reason})
		case e.sandboxes[pod.UID] == nil:
			why := e.missing[pod.UID]
			list = append(list, Unenrolled{
				Ref: pod.PodRef, Wanted: true, Since: why.since,
				Reason: cmp.Or(why.reason, "its network namespace is being looked for"),
			})
		}
	}
	e.mu.Unlock()
	slices.SortFunc(list, func(a, b Unenrolled) int {
		return cmp.Or(cmp.Compare(a.Ref.Namespace, b.Ref.Namespace), cmp.Compare(a.Ref.Name, b.Ref.Name), cmp.Compare(a.Ref.UID, b.Ref.UID))
	})
	return list
}

func (e *Enrol) excluded(namespace string) bool {
	return slices.Contains(e.ExcludeNamespaces, namespace)
}
