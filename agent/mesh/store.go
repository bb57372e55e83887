package mesh

import (
	"net/netip"

	"github.com/adit-mesh/adit/agent/policy"
)

// World is everything that a source knows.
type World struct {
	Workloads []*Workload
	Services  []*Service
	Policies  []policy.Policy
}

// Update is a change of the world: objects that are new or have changed, and
// the keys of those that are gone. Removals come first.
type Update struct {
	Workloads        []*Workload
	Services         []*Service
	Policies         []policy.Policy
	RemovedWorkloads []string // uid
	RemovedServices  []NamespacedHostname
	RemovedPolicies  []string // "namespace/name"
}

// Store holds the world. Readers never wait for writers.
type Store struct {
	// Node is the name of this node; its workloads are Local. Set before use.
	Node string
	// Network is the network of this node. Set before use.
	Network string
	// Random returns a uniform number in [0, n). nil = math/rand/v2. It is
	// called concurrently. Set before use.
	Random func(n uint64) uint64
}

func NewStore() *Store                                               { return &Store{} }
func (s *Store) Apply(u Update) error                                { return nil }
func (s *Store) Replace(w World) error                               { return nil }
func (s *Store) Subscribe() (changed <-chan struct{}, cancel func()) { return nil, func() {} }
func (s *Store) Workload(addr netip.Addr) *Workload                  { return nil }
func (s *Store) WorkloadByUID(uid string) *Workload                  { return nil }
func (s *Store) Service(key NamespacedHostname) *Service             { return nil }
func (s *Store) Local() []*Workload                                  { return nil }
func (s *Store) World() World                                        { return World{} }
func (s *Store) Policies(w *Workload) policy.Set                     { return policy.Set{} }
func (s *Store) Outbound(src *Workload, dst netip.AddrPort) Route    { return Route{} }
func (s *Store) Inbound(self *Workload, local netip.Addr, authority string) (Delivery, error) {
	return Delivery{}, nil
}
func (e *InboundError) Error() string { return e.Reason }
