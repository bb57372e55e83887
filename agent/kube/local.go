package kube

import (
	"context"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// PodRef names one pod. Two pods may have one name, one after the other; only
// the UID tells them apart.
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

// Local are the pods of this node that have not ended, by UID. The slice is
// shared and must not be changed.
func (s *Source) Local() []LocalPod { return nil }

// SubscribeLocal returns a channel that holds one value once Local has changed
// since the last receive. cancel ends the subscription; the channel is never
// closed.
func (s *Source) SubscribeLocal() (changed <-chan struct{}, cancel func()) {
	return make(chan struct{}, 1), func() {}
}

// Lookup decides about one pod now: from what is known, else by asking the API
// server within ctx. ref.UID may be "". An error means that nothing is known,
// so that the pod must not be let start uncaptured.
func (s *Source) Lookup(ctx context.Context, ref PodRef) (LocalPod, error) {
	return LocalPod{}, nil
}

// SetAddresses makes the addresses of a pod known before its status has them.
// They hold until it does, or until the pod is gone.
func (s *Source) SetAddresses(ref PodRef, addrs []netip.Addr) {}
