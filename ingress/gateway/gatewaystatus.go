package gateway

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// statusInput is what besides the objects a Gateway's status is made of.
type statusInput struct {
	placed    Placement
	isPlaced  bool
	failed    string    // the sockets of it that could not be had
	until     time.Time // when a certificate's dates make a difference. Zero: never
	generated bool
}

func (a statusInput) same(b statusInput, now time.Time) bool {
	return a.generated && a.isPlaced == b.isPlaced && a.failed == b.failed &&
		(a.until.IsZero() || now.Before(a.until)) &&
		slices.EqualFunc(a.placed.Addresses, b.placed.Addresses, func(x, y gatewayv1.GatewayStatusAddress) bool {
			return x.Value == y.Value && samePointer(x.Type, y.Type)
		}) && samePointer(a.placed.Problem, b.placed.Problem)
}

// gatewayStatuses are the statuses of a Gateway and of its ListenerSets.
func (t *Translator) gatewayStatuses(g *gateway, applied ingress.Applied, placed map[types.NamespacedName]Placement) []Status {
	now := t.options.Now()
	input := statusInput{generated: true}
	input.placed, input.isPlaced = placed[g.name()]
	for _, b := range t.bound[g.name()] {
		if err := applied.Failed[b.bind]; err != nil && b.known {
			input.failed += fmt.Sprintf("%v: %v\n", b.bind, err)
		}
		if err := applied.NoQUIC[b.bind]; err != nil && b.known {
			input.failed += fmt.Sprintf("%v/quic: %v\n", b.bind, err)
		}
	}
	if g.status != nil && g.statusInput.same(input, now) {
		return g.status
	}
	w := statusWriter{t: t, g: g, applied: applied, now: now, bound: make(map[portKey]bound)}
	for _, b := range t.bound[g.name()] {
		w.bound[b.portKey] = b
	}
	markOverlaps(g.owners)
	list := []Status{w.gateway(input)}
	for _, o := range g.owners[1:] {
		list = append(list, w.listenerSet(o))
	}
	input.until = w.until
	g.status, g.statusInput = list, input
	return list
}

// statusWriter makes the statuses of one Gateway and its ListenerSets.
type statusWriter struct {
	t       *Translator
	g       *gateway
	applied ingress.Applied
	bound   map[portKey]bound
	now     time.Time
	until   time.Time

	programmed condition // of the Gateway
}

// generation is that of the specification which the last plan was made of. One
// that came with the same specification counts too.
func (w *statusWriter) generation(o *owner, current int64) int64 {
	if w.t.staleGateways.has(w.g.name()) {
		return o.generation
	}
	return current
}

func (w *statusWriter) gateway(input statusInput) Status {
	g := w.g
	o := g.obj
	generation := w.generation(g.owners[0], o.Generation)
	var listeners []gatewayv1.ListenerStatus
	var states []listenerStatus
	for _, l := range g.owners[0].listeners {
		var previous []metav1.Condition
		if i := slices.IndexFunc(o.Status.Listeners, func(s gatewayv1.ListenerStatus) bool { return string(s.Name) == l.name }); i >= 0 {
			previous = o.Status.Listeners[i].Conditions
		}
		s := w.listener(l)
		states = append(states, s)
		listeners = append(listeners, gatewayv1.ListenerStatus{
			Name:           gatewayv1.SectionName(l.name),
			SupportedKinds: l.supportedKinds(),
			AttachedRoutes: l.attachedRoutes(),
			Conditions:     conditions(previous, generation, w.now, s.conditions()...),
		})
	}
	w.programmed = w.gatewayProgrammed(states, input)
	wanted := []condition{w.gatewayAccepted(states), w.programmed, w.gatewayResolved(states)}
	if g.frontend.insecure() {
		wanted = append(wanted, is(gatewayv1.GatewayConditionInsecureFrontendValidationMode, gatewayv1.GatewayReasonConfigurationChanged,
			"tls.frontend lets in clients whose certificate is not valid, or that have none"))
	}
	attached := int32(0)
	for _, o := range g.owners[1:] {
		if o.refused.ok() {
			attached++
		}
	}
	return Status{Kind: kindGateway, Namespace: o.Namespace, Name: o.Name, UID: o.UID, Generation: generation,
		Gateway: &gatewayv1.GatewayStatus{
			Addresses:            input.placed.Addresses,
			Conditions:           conditions(o.Status.Conditions, generation, w.now, wanted...),
			Listeners:            listeners,
			AttachedListenerSets: &attached,
		}}
}

func (w *statusWriter) gatewayAccepted(states []listenerStatus) condition {
	g := w.g
	if g.pending {
		return condition{string(gatewayv1.GatewayConditionAccepted), metav1.ConditionUnknown, g.accepted.reason, g.accepted.message}
	}
	if !g.accepted.ok() {
		return isNot(gatewayv1.GatewayConditionAccepted, g.accepted)
	}
	if names := invalidNow(g.owners[0].listeners, states); names != "" {
		return is(gatewayv1.GatewayConditionAccepted, gatewayv1.GatewayReasonListenersNotValid,
			"some listeners are not valid, the others are served: "+names)
	}
	return is(gatewayv1.GatewayConditionAccepted, gatewayv1.GatewayReasonAccepted, "the Gateway is accepted")
}

// invalidNow is invalidListeners with those of which the socket could not be had.
func invalidNow(list []*listener, states []listenerStatus) string {
	var names []string
	for i, l := range list {
		why := l.invalid().reason
		if why == "" && states[i].accepted.status != metav1.ConditionTrue {
			why = states[i].accepted.reason
		}
		if why != "" {
			names = append(names, fmt.Sprintf("%s (%s)", l.name, why))
		}
	}
	return strings.Join(names, ", ")
}

// served says in one condition which listeners are programmed. No listener at
// all, or only such as are not, make it false for the reason of the first.
func served[K ~string](kind K, what string, list []*listener, states []listenerStatus) condition {
	var down []string
	var why condition
	for i, s := range states {
		if s.programmed.status != metav1.ConditionTrue {
			if down = append(down, list[i].name); len(down) == 1 {
				why = s.programmed
			}
		}
	}
	switch {
	case len(states) == 0:
		return isNot(kind, because(gatewayv1.GatewayReasonInvalid, what+" has no listener"))
	case len(down) == len(states):
		return isNot(kind, verdict{why.reason, fmt.Sprintf("no listener is served; %s: %s", down[0], why.message)})
	case len(down) > 0:
		return is(kind, gatewayv1.GatewayReasonProgrammed, fmt.Sprintf("%s is served; not its listeners %s: see there", what, strings.Join(down, ", ")))
	}
	return is(kind, gatewayv1.GatewayReasonProgrammed, what+" is served")
}

func (w *statusWriter) gatewayResolved(states []listenerStatus) condition {
	if !w.g.unresolved.ok() {
		return isNot(gatewayv1.GatewayConditionResolvedRefs, w.g.unresolved)
	}
	if c := w.g.presents; c != nil {
		if dates := w.validity([]*certificate{c}); !dates.ok() {
			return isNot(gatewayv1.GatewayConditionResolvedRefs,
				because(gatewayv1.GatewayReasonInvalidClientCertificateRef, "tls.backend.clientCertificateRef: "+dates.message))
		}
	}
	for i, s := range states {
		if s.resolved.status != metav1.ConditionTrue {
			return isNot(gatewayv1.GatewayConditionResolvedRefs, because(gatewayv1.GatewayReasonListenersNotResolved,
				fmt.Sprintf("listener %s: %s", w.g.owners[0].listeners[i].name, s.resolved.message)))
		}
	}
	return is(gatewayv1.GatewayConditionResolvedRefs, gatewayv1.GatewayReasonResolvedRefs, "all references are resolved")
}

func (w *statusWriter) gatewayProgrammed(states []listenerStatus, input statusInput) condition {
	const kind = gatewayv1.GatewayConditionProgrammed
	g := w.g
	p := input.placed.Problem
	switch {
	case g.pending:
		return condition{string(kind), metav1.ConditionUnknown, string(gatewayv1.GatewayReasonPending), g.accepted.message}
	case !g.accepted.ok():
		return isNot(kind, because(gatewayv1.GatewayReasonInvalid, "the Gateway is not accepted: "+g.accepted.message))
	case !g.address.ok():
		return isNot(kind, g.address)
	case !input.isPlaced:
		return isNot(kind, because(gatewayv1.GatewayReasonPending, "where clients reach the Gateway is not known yet"))
	case p != nil:
		return isNot(kind, because(p.Reason, p.Message))
	case len(input.placed.Addresses) == 0:
		return isNot(kind, because(gatewayv1.GatewayReasonAddressNotAssigned, "no address is assigned to the Gateway yet"))
	}
	return served(kind, "the Gateway", g.owners[0].listeners, states)
}

func (w *statusWriter) listenerSet(o *owner) Status {
	obj := o.set.obj
	generation := w.generation(o, obj.Generation)
	var listeners []gatewayv1.ListenerEntryStatus
	var states []listenerStatus
	for _, l := range o.listeners {
		var previous []metav1.Condition
		if i := slices.IndexFunc(obj.Status.Listeners, func(s gatewayv1.ListenerEntryStatus) bool { return string(s.Name) == l.name }); i >= 0 {
			previous = obj.Status.Listeners[i].Conditions
		}
		s := w.listener(l)
		states = append(states, s)
		listeners = append(listeners, gatewayv1.ListenerEntryStatus{
			Name:           gatewayv1.SectionName(l.name),
			SupportedKinds: l.supportedKinds(),
			AttachedRoutes: l.attachedRoutes(),
			Conditions:     conditions(previous, generation, w.now, s.conditions()...),
		})
	}
	return Status{Kind: kindListenerSet, Namespace: obj.Namespace, Name: obj.Name, UID: obj.UID, Generation: generation,
		ListenerSet: &gatewayv1.ListenerSetStatus{
			Conditions: conditions(obj.Status.Conditions, generation, w.now, w.setAccepted(o, states), w.setProgrammed(o, states)),
			Listeners:  listeners,
		}}
}

func (w *statusWriter) setAccepted(o *owner, states []listenerStatus) condition {
	if !o.refused.ok() {
		return isNot(gatewayv1.ListenerSetConditionAccepted, o.refused)
	}
	if names := invalidNow(o.listeners, states); names != "" {
		return is(gatewayv1.ListenerSetConditionAccepted, gatewayv1.ListenerSetReasonListenersNotValid,
			"some listeners are not valid, the others are served: "+names)
	}
	return is(gatewayv1.ListenerSetConditionAccepted, gatewayv1.ListenerSetReasonAccepted, "the ListenerSet is accepted")
}

// reasonParentNotProgrammed is named by ListenerSet's documentation, and has no
// constant.
const reasonParentNotProgrammed gatewayv1.ListenerSetConditionReason = "ParentNotProgrammed"

func (w *statusWriter) setProgrammed(o *owner, states []listenerStatus) condition {
	const kind = gatewayv1.ListenerSetConditionProgrammed
	if !o.refused.ok() {
		return isNot(kind, o.refused)
	}
	if w.programmed.status != metav1.ConditionTrue {
		return isNot(kind, because(reasonParentNotProgrammed, fmt.Sprintf("Gateway %s is not programmed", w.g.name())))
	}
	return served(kind, "the ListenerSet", o.listeners, states)
}
