package kube

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
)

// PodRef names one pod. Two pods may have one name, one after the other; only
// the UID tells them apart. It is the UID by which kubelet and the container
// runtime know the pod.
type PodRef struct{ Namespace, Name, UID string }

func (r PodRef) String() string { return r.Namespace + "/" + r.Name }

// LocalPod is a pod of this node that has not ended.
type LocalPod struct {
	PodRef
	ServiceAccount string
	// WorkloadUID is the uid of the pod's mesh.Workload:
	// "<cluster>//Pod/<namespace>/<name>".
	WorkloadUID string
	Identity    spiffeid.ID
	// IPs are the pod's addresses, from its status or from SetAddresses. Empty
	// as long as nobody knows.
	IPs []netip.Addr
	// Enrol says whether the pod is to be captured, Reason why or why not, for
	// a person.
	Enrol  bool
	Reason string
	// ProbePorts are the ports that kubelet connects to: those of HTTP, TCP and
	// gRPC probes and of lifecycle hooks. Sorted.
	ProbePorts []uint16
	// DNS is the annotation ambient.istio.io/dns-capture. nil = absent.
	DNS *bool
	// Ingress is the annotation ambient.istio.io/bypass-inbound-capture: clients
	// reach the pod directly.
	Ingress bool
	// RerouteInterfaces are links to guests behind the pod, from the annotation
	// istio.io/reroute-virtual-interfaces.
	RerouteInterfaces []string
	Terminating       bool
	Phase             string // of the pod: Pending, Running, ...
}

// Local are the pods of this node that have not ended, by UID. It is empty
// before Synced. The slice is shared and must not be changed.
func (s *Source) Local() []LocalPod { return s.local.get() }

// SubscribeLocal returns a channel that holds one value once Local has changed
// since the last receive. cancel ends the subscription; the channel is never
// closed.
func (s *Source) SubscribeLocal() (changed <-chan struct{}, cancel func()) {
	return s.local.subscribe()
}

// watched is a value that is replaced as a whole, and tells who wants to know.
type watched[T any] struct {
	mu          sync.Mutex // guards the fields below
	value       T
	subscribers map[chan struct{}]struct{}
}

func (v *watched[T]) get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.value
}

// set replaces the value, if it differs.
func (v *watched[T]) set(now T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if reflect.DeepEqual(v.value, now) {
		return
	}
	v.value = now
	for c := range v.subscribers {
		signal(c)
	}
}

func (v *watched[T]) subscribe() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.subscribers == nil {
		v.subscribers = map[chan struct{}]struct{}{}
	}
	v.subscribers[c] = struct{}{}
	return c, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.subscribers, c)
	}
}

// localList are the pods of this node.
func (w *world) localList() []LocalPod {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]LocalPod, 0, len(w.localPods))
	for k := range w.localPods {
		out = append(out, w.localPod(w.pods[k]))
	}
	slices.SortFunc(out, func(a, b LocalPod) int {
		return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	// Whoever looks a pod up by its UID must find one.
	return slices.CompactFunc(out, func(a, b LocalPod) bool { return a.UID == b.UID })
}

// localPod is called with mu held, for a pod of this node.
func (w *world) localPod(p *pod) LocalPod {
	t := p.template.Value()
	account := cmp.Or(t.serviceAccount, "default")
	l := LocalPod{
		PodRef:            p.ref(),
		ServiceAccount:    account,
		WorkloadUID:       w.podUID(p.key),
		IPs:               p.addrs,
		ProbePorts:        p.local.probePorts,
		DNS:               p.local.dns,
		Ingress:           p.local.ingress,
		RerouteInterfaces: p.local.reroute,
		Terminating:       p.terminating,
		Phase:             string(p.phase),
	}
	l.Enrol, l.Reason = w.decide(p)
	var err error
	if l.Identity, err = identity.WorkloadID(w.trustDomain, p.namespace, account); err != nil {
		l.Enrol, l.Reason = false, "it can have no identity: "+err.Error()
	}
	return l
}

func (p *pod) ref() PodRef {
	uid := p.uid
	if p.local != nil {
		uid = cmp.Or(p.local.staticUID, uid)
	}
	return PodRef{p.namespace, p.name, uid}
}
