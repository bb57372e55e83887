package inspect

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/adit-mesh/adit/agent/mesh"
)

// InputError is a question that cannot be answered as it was asked.
type InputError struct {
	Message string `json:"error"`
	// Candidates are what may have been meant, ready to be asked for.
	Candidates []string `json:"candidates,omitempty"`
	// NotFound: the question is well formed, and about nothing that is known.
	NotFound bool `json:"notFound,omitempty"`
}

func (e *InputError) Error() string {
	if len(e.Candidates) == 0 {
		return e.Message
	}
	return e.Message + "; did you mean " + orList(e.Candidates) + "?"
}

func orList(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
	return strings.Join(words, "")
}

// place is what somebody's words stand for.
type place struct {
	addr     netip.Addr
	port     uint16         // 0 = not said
	workload *mesh.Workload // nil: none is known there
	service  *mesh.Service  // set if a service was named
	notes    []string       // how the words were taken
}

// finder looks for things in one state of the world.
type finder struct{ mesh.World }

// name is a reference to an object: namespace/name with an optional kind.
type name struct{ kind, namespace, name string }

const (
	kindPod     = "pod"
	kindService = "service"
)

var kinds = map[string]string{
	"pod": kindPod, "pods": kindPod, "po": kindPod,
	"service": kindService, "services": kindService, "svc": kindService,
}

// parseName reads namespace/name and kind/namespace/name.
func parseName(text string) (name, error) {
	parts := strings.Split(text, "/")
	var n name
	switch len(parts) {
	case 2:
		n = name{"", parts[0], parts[1]}
		if kinds[n.namespace] != "" {
			return n, &InputError{Message: fmt.Sprintf("%q has no namespace; write %s/NAMESPACE/%s", text, parts[0], parts[1])}
		}
	case 3:
		n = name{kinds[parts[0]], parts[1], parts[2]}
		if n.kind == "" {
			return n, &InputError{Message: fmt.Sprintf("%q: %q is no kind that can be asked about; use pod or service", text, parts[0])}
		}
	default:
		return n, &InputError{Message: fmt.Sprintf("%q is not NAMESPACE/NAME", text)}
	}
	if n.namespace == "" || n.name == "" {
		return n, &InputError{Message: fmt.Sprintf("%q is not NAMESPACE/NAME", text)}
	}
	return n, nil
}

// source finds who is to connect: a pod, or an address.
func (a *Agent) source(f finder, text string) (place, error) {
	if text == "" {
		return place{}, &InputError{Message: "no source; name a pod as NAMESPACE/NAME, or an IP address"}
	}
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		addr = addr.Unmap()
		return place{addr: addr, workload: a.Store.Workload(addr)}, nil
	}
	if _, err := netip.ParseAddrPort(text); err == nil {
		return place{}, &InputError{Message: fmt.Sprintf("source %s: leave out the port, which the kernel chooses", text)}
	}
	if !strings.Contains(text, "/") {
		return place{}, &InputError{
			Message: fmt.Sprintf("source %q is neither an IP address nor NAMESPACE/NAME", text), Candidates: f.podsCalled(text),
		}
	}
	n, err := parseName(text)
	if err != nil {
		return place{}, err
	}
	if n.kind == kindService {
		return place{}, &InputError{
			Message: fmt.Sprintf("source %s: a service accepts connections and makes none; name a pod", text), Candidates: f.near(n, kindPod),
		}
	}
	w, note := f.pod(n)
	if w == nil {
		message := fmt.Sprintf("no pod %s/%s is known", n.namespace, n.name)
		if f.service(n) != nil {
			message += "; there is a service of that name, which makes no connections"
		}
		return place{}, &InputError{Message: message, Candidates: f.near(n, kindPod), NotFound: true}
	}
	return atPod(w, note)
}

// destination finds what src is to connect to.
func (a *Agent) destination(f finder, src place, text string) (place, error) {
	switch {
	case text == "":
		return place{}, &InputError{Message: "no destination; name a pod or a service as NAMESPACE/NAME:PORT, a hostname or an IP address"}
	case strings.Contains(text, "://"):
		return place{}, &InputError{Message: fmt.Sprintf("destination %q is a URL; leave the scheme and the path out", text)}
	}
	if dst, err := netip.ParseAddrPort(text); err == nil {
		if dst.Port() == 0 {
			return place{}, &InputError{Message: fmt.Sprintf("destination %s: port 0 is none", text)}
		}
		return a.byAddress(dst.Addr().Unmap(), dst.Port()), nil
	}
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return a.completePort(f, a.byAddress(addr.Unmap(), 0), src, text)
	}
	host, port, err := splitPort(text)
	if err != nil {
		return place{}, err
	}
	var p place
	if strings.Contains(host, "/") {
		p, err = f.byName(src, host, port)
	} else {
		p, err = f.byHostname(src, host)
	}
	if err != nil {
		return place{}, err
	}
	p.port = port
	return a.completePort(f, p, src, host)
}

// splitPort takes the port off host:port. 0 = there is none.
func splitPort(text string) (host string, port uint16, err error) {
	host, digits, ok := strings.Cut(text, ":")
	if !ok {
		return text, 0, nil
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return "", 0, &InputError{Message: fmt.Sprintf("destination %q: %q is not a port from 1 to 65535; ports are given as numbers", text, digits)}
	}
	return host, uint16(n), nil
}

func (a *Agent) byAddress(addr netip.Addr, port uint16) place {
	return place{addr: addr, port: port, workload: a.Store.Workload(addr)}
}

// byName finds namespace/name. Of a service and a pod with one name it is the
// service, which is what can be dialled by name, unless only the pod can have
// the port.
func (f finder) byName(src place, text string, port uint16) (place, error) {
	n, err := parseName(text)
	if err != nil {
		return place{}, err
	}
	var svc *mesh.Service
	var w *mesh.Workload
	var notes []string
	if n.kind != kindPod {
		svc = f.service(n)
	}
	if n.kind != kindService {
		w, notes = f.pod(n)
		if svc != nil && len(notes) > 0 {
			w = nil // only a pod that is really called so competes with the service
		}
	}
	switch {
	case svc != nil && w != nil:
		if _, ok := svc.Ports[port]; ok || port == 0 {
			p, err := f.atService(src, svc)
			p.notes = append(p.notes, fmt.Sprintf("%s is a pod too; %s/%s asks about that", text, kindPod, text))
			return p, err
		}
		return atPod(w, []string{fmt.Sprintf("%s is a service too, without port %d; %s/%s asks about that", text, port, kindService, text)})
	case svc != nil:
		return f.atService(src, svc)
	case w != nil:
		return atPod(w, notes)
	}
	what := cmp.Or(n.kind, "pod or service")
	return place{}, &InputError{
		Message: fmt.Sprintf("no %s %s/%s is known", what, n.namespace, n.name), Candidates: f.near(n, n.kind), NotFound: true,
	}
}

// byHostname finds what a pod like src would reach by that name: a service by
// its hostname or a shorter form that the pod's resolver completes.
func (f finder) byHostname(src place, host string) (place, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	namespace := ""
	if src.workload != nil {
		namespace = src.workload.Namespace
	}
	labels := strings.Split(host, ".")
	for _, svc := range f.Services {
		switch {
		case svc.Hostname == host:
		case len(labels) == 1 && svc.Name == host && svc.Namespace == namespace:
		case len(labels) == 2 && svc.Name == labels[0] && svc.Namespace == labels[1]:
		case len(labels) == 3 && svc.Name == labels[0] && svc.Namespace == labels[1] && labels[2] == "svc":
		default:
			continue
		}
		return f.atService(src, svc)
	}
	for _, w := range f.Workloads {
		if w.Hostname != "" && w.Hostname == host {
			return atPod(w, nil)
		}
	}
	message := fmt.Sprintf("no service has the hostname %s; if it is outside of the mesh, ask about its IP address", host)
	if len(labels) == 1 {
		message = fmt.Sprintf("destination %q is no service of namespace %q; write NAMESPACE/NAME, a hostname or an IP address", host, namespace)
	}
	n := name{"", namespace, labels[0]}
	if len(labels) > 1 {
		n.namespace = labels[1]
	}
	return place{}, &InputError{Message: message, Candidates: f.near(n, ""), NotFound: true}
}

func atPod(w *mesh.Workload, notes []string) (place, error) {
	if len(w.Addresses) == 0 {
		return place{}, &InputError{Message: fmt.Sprintf("pod %s has no address that is known; is it running? if it is on the network of its node, ask about the node's address", nameOf(w)), NotFound: true}
	}
	return place{addr: w.Addresses[0], workload: w, notes: notes}, nil
}

// atService takes the virtual address that a resolver would most likely give to
// src; without one, that of an endpoint.
func (f finder) atService(src place, svc *mesh.Service) (place, error) {
	network := ""
	if src.workload != nil {
		network = src.workload.Network
	}
	p := place{service: svc}
	for _, vip := range svc.VIPs {
		addr := vip.Prefix.Addr()
		if vip.Network != network {
			continue
		}
		if !p.addr.IsValid() || p.addr.Is4() != src.addr.Is4() && addr.Is4() == src.addr.Is4() {
			p.addr = addr
		}
	}
	if p.addr.IsValid() {
		return p, nil
	}
	members := f.members(svc)
	for _, w := range members {
		if len(w.Addresses) > 0 && w.Status == mesh.Healthy {
			p.addr, p.workload = w.Addresses[0], w
			p.notes = []string{fmt.Sprintf("service %s/%s is headless: its name stands for the addresses of its %d pods, of which this is %s",
				svc.Namespace, svc.Name, len(members), nameOf(w))}
			return p, nil
		}
	}
	return place{}, &InputError{
		Message:  fmt.Sprintf("service %s/%s is headless and none of its %d pods is ready: its name has no address", svc.Namespace, svc.Name, len(members)),
		NotFound: true,
	}
}

// members are the workloads that serve svc.
func (f finder) members(svc *mesh.Service) []*mesh.Workload {
	var out []*mesh.Workload
	for _, w := range f.Workloads {
		if _, ok := w.Services[svc.Key()]; ok {
			out = append(out, w)
		}
	}
	return out
}

// completePort finds the port that was not said where there is only one.
func (a *Agent) completePort(f finder, p, src place, text string) (place, error) {
	if p.port != 0 {
		return p, nil
	}
	var ports []uint16
	svc := p.service
	if svc == nil && p.workload == nil {
		svc = f.serviceAt(p.addr)
	}
	switch {
	case svc != nil:
		ports = slices.Sorted(maps.Keys(svc.Ports))
	case p.workload != nil:
		ports = targetPorts(f, p.workload)
	}
	if len(ports) == 1 {
		p.port = ports[0]
		p.notes = append(p.notes, fmt.Sprintf("port %d is the only one that is known of the destination", p.port))
		return p, nil
	}
	e := &InputError{Message: fmt.Sprintf("destination %s has no port; write %s", text, joinPort(text, "PORT"))}
	for _, port := range ports[:min(len(ports), maxCandidates)] {
		e.Candidates = append(e.Candidates, joinPort(text, strconv.Itoa(int(port))))
	}
	return p, e
}

// serviceAt finds the service with a virtual address.
func (f finder) serviceAt(addr netip.Addr) *mesh.Service {
	for _, svc := range f.Services {
		for _, vip := range svc.VIPs {
			if vip.Prefix.Contains(addr) {
				return svc
			}
		}
	}
	return nil
}

func joinPort(host, port string) string {
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + port
}

// targetPorts are the ports of w that a service leads to.
func targetPorts(f finder, w *mesh.Workload) []uint16 {
	ports := make(map[uint16]bool)
	for _, svc := range f.Services {
		own, ok := w.Services[svc.Key()]
		if !ok {
			continue
		}
		for port, target := range svc.Ports {
			if t := cmp.Or(own[port], target); t != 0 {
				ports[t] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(ports))
}
