package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/agent/policy"
)

// World is everything that a source knows.
type World struct {
	Workloads []*Workload
	Services  []*Service
	Policies  []policy.Policy
}

// Update is a change of the world: objects that are new or have changed, and
// the keys of those that are gone. Removals come first; of two objects with
// one key the last counts.
type Update struct {
	Workloads        []*Workload
	Services         []*Service
	Policies         []policy.Policy
	RemovedWorkloads []string // uid
	RemovedServices  []NamespacedHostname
	RemovedPolicies  []string // "namespace/name"
}

// Store holds the world.
//
// A read is one atomic load and lookups in a snapshot that no writer changes.
// Writers take turns, build the next snapshot beside it at the cost of their
// change, and publish it whole.
type Store struct {
	// Node is the name of this node. Set before use.
	Node string
	// Network is the network of this node. Set before use.
	Network string
	// Random returns a uniform number in [0, n). nil = math/rand/v2. It is
	// called concurrently. Set before use.
	Random func(n uint64) uint64
	// Quarantine is for how long an address that nobody has any more is refused
	// to pods of this node, if whoever had it last took HBONE: his processes may
	// outlive him, and whoever gets the address next may not be known yet, and
	// neither is to be talked to in plaintext for not being known. 0 = such an
	// address is like any other of which nothing is known. Set before use.
	Quarantine time.Duration

	current atomic.Pointer[snapshot]

	writing sync.Mutex // one writer at a time
	leaving []former   // in the order of their ends; guarded by writing

	subscriberMu sync.Mutex
	subscribers  map[chan struct{}]struct{}
}

// NewStore returns an empty Store.
func NewStore() *Store {
	s := &Store{subscribers: map[chan struct{}]struct{}{}}
	s.current.Store(&snapshot{})
	return s
}

// Apply makes a change, whole or not at all: if any object is refused, the
// error names every such object and the world stays as it was.
func (s *Store) Apply(u Update) error {
	p, err := prepare(u)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	s.publish(p, u.RemovedWorkloads, u.RemovedServices, u.RemovedPolicies)
	return nil
}

// Replace makes w the whole world, or changes nothing and says why. Objects
// that are the same as before stay the same pointers.
func (s *Store) Replace(w World) error {
	p, err := prepare(Update{Workloads: w.Workloads, Services: w.Services, Policies: w.Policies})
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	now := s.current.Load()
	s.publish(p,
		gone(now.workloads, p.workloads, func(w *Workload) string { return w.UID }),
		gone(now.services, p.services, (*Service).Key),
		gone(now.policies, p.policies, (*policy.Compiled).Key))
	return nil
}

// gone are the keys of m that wanted lacks.
func gone[K comparable, V, T any](m pmap[K, V], wanted []T, key func(T) K) []K {
	keep := make(map[K]struct{}, len(wanted))
	for _, v := range wanted {
		keep[key(v)] = struct{}{}
	}
	var out []K
	for k := range m.all() {
		if _, ok := keep[k]; !ok {
			out = append(out, k)
		}
	}
	return out
}

// prepared are objects that have been checked.
type prepared struct {
	workloads []*Workload
	services  []*Service
	policies  []*policy.Compiled
}

func prepare(u Update) (prepared, error) {
	var p prepared
	var errs []error
	for _, w := range u.Workloads {
		w, err := w.prepare()
		errs = append(errs, err)
		p.workloads = append(p.workloads, w)
	}
	for _, svc := range u.Services {
		svc, err := svc.prepare()
		errs = append(errs, err)
		p.services = append(p.services, svc)
	}
	for _, pol := range u.Policies {
		c, err := policy.Compile(pol)
		errs = append(errs, err)
		p.policies = append(p.policies, c)
	}
	if err := errors.Join(errs...); err != nil {
		return prepared{}, fmt.Errorf("mesh: world not changed: %w", err)
	}
	return p, nil
}

// publish is called with writing held.
func (s *Store) publish(p prepared, workloads []string, services []NamespacedHostname, policies []string) {
	d := newDraft(s.current.Load(), s.isLocal)
	for _, uid := range workloads {
		d.removeWorkload(uid)
	}
	for _, key := range services {
		d.removeService(key)
	}
	for _, key := range policies {
		d.removePolicy(key)
	}
	for _, svc := range p.services {
		d.putService(svc)
	}
	for _, w := range p.workloads {
		d.putWorkload(w)
	}
	for _, c := range p.policies {
		d.putPolicy(c)
	}
	if !d.changed {
		return
	}
	s.quarantine(d, time.Now())
	s.current.Store(d.finish())
	s.notify()
}

func (s *Store) isLocal(w *Workload) bool {
	if w.Netns != "" {
		return w.Node == "" || s.Node == "" || w.Node == s.Node
	}
	return s.Node != "" && w.Node == s.Node
}

// Subscribe returns a channel that holds one value once the world has changed
// since the last receive; the change is visible by then. Several changes may
// be one value. cancel ends the subscription; the channel is never closed.
func (s *Store) Subscribe() (changed <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	s.subscriberMu.Lock()
	defer s.subscriberMu.Unlock()
	s.subscribers[c] = struct{}{}
	return c, func() {
		s.subscriberMu.Lock()
		defer s.subscriberMu.Unlock()
		delete(s.subscribers, c)
	}
}

func (s *Store) notify() {
	s.subscriberMu.Lock()
	defer s.subscriberMu.Unlock()
	for c := range s.subscribers {
		select {
		case c <- struct{}{}:
		default: // a value waits already
		}
	}
}

// Workload is the workload at an address of this node's network, nil if none
// is known.
func (s *Store) Workload(addr netip.Addr) *Workload {
	return s.current.Load().workloadAt(NetworkAddress{s.Network, plain(addr)})
}

// WorkloadByUID is the workload with a uid, nil if none is known.
func (s *Store) WorkloadByUID(uid string) *Workload {
	w, _ := s.current.Load().workloads.get(uid)
	return w
}

// Service is the service under a key, nil if none is known.
func (s *Store) Service(key NamespacedHostname) *Service {
	if svc, ok := s.current.Load().services.get(key); ok {
		return svc.Service
	}
	return nil
}

// Local are the workloads of this node, by uid: those with a netns that no
// other node claims, and those whose node is this one.
func (s *Store) Local() []*Workload {
	var out []*Workload
	for _, w := range s.current.Load().local.all() {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *Workload) int { return cmp.Compare(a.UID, b.UID) })
	return out
}

// World is everything there is, sorted by key, for a dump. Its objects are
// shared and must not be changed.
func (s *Store) World() World { return s.current.Load().world() }

// Policies is the set in force for a destination workload. A nil workload, one
// of which nothing is known, is refused everything.
func (s *Store) Policies(w *Workload) policy.Set { return s.current.Load().policiesOf(w) }

// Outbound decides where a connection of src to dst goes. A nil src is a
// workload of which nothing is known, on this node's network.
func (s *Store) Outbound(src *Workload, dst netip.AddrPort) Route {
	if src == nil {
		src = &Workload{Network: s.Network, Node: s.Node}
	}
	random := s.Random
	if random == nil {
		random = rand.Uint64N
	}
	o := outbound{
		snapshot: s.current.Load(),
		random:   random,
		src:      src,
		dst:      netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()),
	}
	return o.decide()
}

// Inbound decides where in the pod of self a tunnel for authority goes; local
// is the address on which the tunnel was accepted. The error is an
// *InboundError, which has the status for the peer.
func (s *Store) Inbound(self *Workload, local netip.Addr, authority string) (Delivery, error) {
	return s.current.Load().inbound(self, local, authority)
}
