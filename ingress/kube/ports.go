package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/ingress"
)

// Target ports are between these. What the process itself listens on is left
// out, and what a kernel gives to outgoing connections begins above.
const (
	firstTarget, lastTarget     = 10000, 32000
	firstReserved, lastReserved = 15000, 15099
	shift                       = 10000 // port 443 becomes 10443 if that is free
)

// serviceIndex knows the Services that are ours, by Gateway and role.
type serviceIndex struct {
	namespace string // of the pods
	// byName are all of ours.
	byName map[types.NamespacedName]*corev1.Service
	// balancers are those with target ports, by Gateway.
	balancers map[types.NamespacedName]map[role]*corev1.Service
	// targets says which port of which Gateway a target port is for.
	targets map[uint16]target
	// promised are target ports that have been given and are not in a Service yet.
	promised map[target]uint16
	stale    bool
}

type target struct {
	gateway types.NamespacedName
	port    uint16
}

func newServiceIndex(namespace string) *serviceIndex {
	return &serviceIndex{
		namespace: namespace,
		byName:    make(map[types.NamespacedName]*corev1.Service),
		balancers: make(map[types.NamespacedName]map[role]*corev1.Service),
		targets:   make(map[uint16]target),
		promised:  make(map[target]uint16),
	}
}

// set takes note of a Service, and says whether that concerns us.
func (x *serviceIndex) set(name types.NamespacedName, s *corev1.Service) bool {
	old := x.byName[name]
	if s != nil {
		if _, _, ok := isOurs(s, x.namespace); !ok {
			s = nil
			if old == nil {
				return false
			}
		}
	}
	switch {
	case s == nil && old == nil:
		return false
	case s == nil:
		delete(x.byName, name)
	default:
		x.byName[name] = s
	}
	x.stale = true
	return true
}

// settle brings the indexes up to date. If two Services claim a target port,
// which two leaders at once could bring about, the older one has it.
func (x *serviceIndex) settle() {
	if !x.stale {
		return
	}
	x.stale = false
	clear(x.balancers)
	clear(x.targets)
	all := slices.SortedFunc(maps.Values(x.byName), func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	for _, s := range all {
		gw, r, _ := isOurs(s, x.namespace)
		if s.Namespace != x.namespace || r == roleAlias || s.Name != serviceName(gw, r) {
			continue
		}
		if x.balancers[gw] == nil {
			x.balancers[gw] = make(map[role]*corev1.Service, 1)
		}
		x.balancers[gw][r] = s
		for port, t := range targetsOf(s) {
			if _, taken := x.targets[t]; !taken {
				x.targets[t] = target{gw, port}
			}
		}
	}
	for want, t := range x.promised {
		if _, taken := x.targets[t]; taken {
			delete(x.promised, want)
			continue
		}
		x.targets[t] = want
	}
}

// forget takes back what was promised to Gateways that are not there any more.
func (x *serviceIndex) forget(gone func(types.NamespacedName) bool) {
	for want, t := range x.promised {
		if gone(want.gateway) {
			delete(x.promised, want)
			delete(x.targets, t)
		}
	}
}

// bind is the socket for a port of a Gateway, by its Service.
func (x *serviceIndex) bind(gw types.NamespacedName, port uint16, udp bool) (ingress.Bind, bool) {
	for _, s := range x.balancers[gw] {
		if t, ok := targetsOf(s)[port]; ok && x.targets[t] == (target{gw, port}) {
			return ingress.Bind{Port: t, UDP: udp}, true
		}
	}
	return ingress.Bind{}, false
}

// allocate gives a target port to each port of a Gateway: the one that it has,
// if nobody else has it, or a free one.
func (x *serviceIndex) allocate(p *plan) error {
	p.targets = make(map[uint16]uint16, len(p.ports))
	have := make(map[uint16]uint16)
	for _, port := range p.ports {
		if t, ok := x.promised[target{p.name, port.Port}]; ok {
			have[port.Port] = t
		}
	}
	for _, s := range x.balancers[p.name] {
		maps.Copy(have, targetsOf(s))
	}
	for _, port := range p.ports {
		if p.targets[port.Port] != 0 {
			continue // the same for TCP and UDP
		}
		want := target{p.name, port.Port}
		t := have[port.Port]
		if t == 0 || x.targets[t] != want {
			var ok bool
			if t, ok = x.free(port.Port); !ok {
				return fmt.Errorf("no target port is left between %d and %d for port %d of Gateway %s", firstTarget, lastTarget, port.Port, p.name)
			}
			x.targets[t], x.promised[want] = want, t
		}
		p.targets[port.Port] = t
	}
	return nil
}

func (x *serviceIndex) free(port uint16) (uint16, bool) {
	usable := func(t int) bool {
		_, taken := x.targets[uint16(t)]
		return !taken && t >= firstTarget && t <= lastTarget && (t < firstReserved || t > lastReserved)
	}
	if t := int(port) + shift; usable(t) {
		return uint16(t), true
	}
	for t := firstTarget; t <= lastTarget; t++ {
		if usable(t) {
			return uint16(t), true
		}
	}
	return 0, false
}
