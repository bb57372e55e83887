package gateway

import (
	"fmt"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// gateway is a Gateway, and what became of it.
type gateway struct {
	obj     *gatewayv1.Gateway
	deleted bool

	// What the last plan found. controller is "" if the Gateway is not ours; the
	// rest then means nothing.
	controller  string
	accepted    verdict
	pending     bool    // accepted is not known: its class is not accepted
	unresolved  verdict // spec.tls.backend
	address     verdict // of spec.addresses that cannot be had whatever is there
	frontend    frontend
	owners      []*owner // the Gateway itself, then its ListenerSets
	owner       map[parent]*owner
	uses        set[reference]
	presents    *certificate // to backends
	listeners   map[listenerKey]*listener
	ports       []*ingress.Port
	portsStale  bool
	keys        []portKey // that have something to serve
	status      []Status  // its own and those of its ListenerSets; nil: to be made
	statusInput statusInput
}

// owner is a Gateway or ListenerSet as the owner of some of the merged listeners.
type owner struct {
	parent
	set        *listenerSet // nil: the Gateway itself
	refused    verdict      // of a ListenerSet: why it is not attached
	generation int64
	listeners  []*listener
	signature  string
}

func newGateway() *gateway {
	return &gateway{listeners: make(map[listenerKey]*listener), uses: make(set[reference])}
}

func (g *gateway) name() types.NamespacedName { return nameOf(g.obj) }

// serving says whether anything of the Gateway belongs in a Config.
func (g *gateway) serving() bool { return g.controller != "" && g.accepted.ok() }

// replan works out the listeners of a Gateway anew: those of its own and those of
// its ListenerSets. Routes are looked at again if that changes where they belong.
func (t *Translator) replan(name types.NamespacedName) {
	t.order, t.clients.stale = nil, true
	g := t.gateways[name]
	if g == nil || g.deleted {
		t.forgetGateway(name, g)
		return
	}
	g.status, g.portsStale = nil, true
	controller, pending := t.classOf(g.obj)
	if controller != g.controller {
		t.staleRoutesOf(g)
		t.policiesStale = true
	}
	if controller == "" {
		t.forgetPlan(g)
		return
	}
	accepted := g.accepted
	uses := make(set[reference])
	r := referrer{t, parent{kindGateway, name}, uses}
	g.controller = controller
	g.accepted, g.pending = checkGateway(g.obj), !pending.ok()
	if g.pending {
		g.accepted = pending
	}
	g.address = checkAddresses(g.obj)
	g.frontend = resolveFrontend(g.obj.Spec.TLS, r, g.frontend)
	t.resolveClientCertificate(g, r)

	before := g.owners
	g.owners = t.mergeListeners(g)
	g.owner = make(map[parent]*owner, len(g.owners))
	for _, o := range g.owners {
		g.owner[o.parent] = o
	}
	findConflicts(g.owners)
	ports := make(map[portKey]*quicOptions)
	for _, o := range g.owners {
		for _, l := range o.listeners {
			l.finish(referrer{t, o.parent, uses}, &g.frontend, ports)
		}
		for _, q := range ports {
			q.settle()
		}
	}
	t.acceptOwners(g)

	t.usedBy.replace(name, g.uses, uses)
	t.forgetCertificates(g.uses)
	g.uses = uses
	t.compareOwners(g, before)
	if g.accepted != accepted {
		t.staleRoutesOf(g) // they are told
	}
	g.keys = g.portsOf()
}

// classOf is the controller name of the Gateway's class: "" if the class is not
// ours or does not exist. pending is why the class is not accepted.
func (t *Translator) classOf(g *gatewayv1.Gateway) (controller string, pending verdict) {
	c := t.classes[string(g.Spec.GatewayClassName)]
	if c == nil || !slices.Contains(t.options.ControllerNames, string(c.Spec.ControllerName)) {
		return "", verdict{}
	}
	if v := checkClass(c); !v.ok() {
		return string(c.Spec.ControllerName),
			because(gatewayv1.GatewayReasonPending, fmt.Sprintf("GatewayClass %q is not accepted: %s", c.Name, v.message))
	}
	return string(c.Spec.ControllerName), verdict{}
}

// resolveClientCertificate follows spec.tls.backend.clientCertificateRef. Without
// a certificate backends that ask for one are met without: they refuse by
// themselves.
func (t *Translator) resolveClientCertificate(g *gateway, r referrer) {
	g.unresolved = verdict{}
	var c *certificate
	if s := g.obj.Spec.TLS; s != nil && s.Backend != nil && s.Backend.ClientCertificateRef != nil {
		f := r.secret(*s.Backend.ClientCertificateRef)
		c = f.certificate
		switch {
		case f.forbidden != "":
			g.unresolved = because(gatewayv1.GatewayReasonRefNotPermitted, "tls.backend.clientCertificateRef: "+f.forbidden)
		case f.problem != nil:
			g.unresolved = because(gatewayv1.GatewayReasonInvalidClientCertificateRef, "tls.backend.clientCertificateRef: "+f.problem.Message)
		}
	}
	t.present(g, c)
}

// present sets what the Gateway presents to backends. Whether it has a
// certificate at all decides which clusters its routes use.
func (t *Translator) present(g *gateway, c *certificate) {
	if c == g.presents {
		return
	}
	if (c == nil) != (g.presents == nil) {
		t.staleRoutesOf(g)
	}
	g.presents = c
	t.index.SetClientCertificate(g.name(), c)
	t.takeBackendChanges()
}

// mergeListeners lists the owners of the Gateway's listeners in order of
// precedence, and reads the listeners of those that are attached.
func (t *Translator) mergeListeners(g *gateway) []*owner {
	self := &owner{parent: parent{kindGateway, g.name()}, generation: g.obj.Generation}
	t.readListeners(g, self, g.obj.Spec.Listeners)
	owners := []*owner{self}
	allowed, err := allowedSets(g.obj)
	for _, s := range t.listenerSets(g.name()) {
		o := &owner{parent: s.parent(), set: s, generation: s.obj.Generation}
		owners = append(owners, o)
		switch {
		case err != nil:
			o.refused = because(gatewayv1.ListenerSetReasonNotAllowed, err.Error())
		case !allowed.allows(s.obj.Namespace, t.namespaces):
			o.refused = because(gatewayv1.ListenerSetReasonNotAllowed,
				fmt.Sprintf("allowedListeners of Gateway %s lets in no ListenerSet of namespace %q", g.name(), s.obj.Namespace))
		default:
			t.readListeners(g, o, s.entries())
		}
	}
	return owners
}

func (t *Translator) readListeners(g *gateway, o *owner, specs []gatewayv1.Listener) {
	var signature strings.Builder
	seen := make(set[listenerKey])
	for i := range specs {
		key := listenerKey{o.parent, string(specs[i].Name)}
		if seen.has(key) {
			continue // two of one name: the definitions rule that out
		}
		seen.add(key)
		l := g.listeners[key]
		if l == nil || l.spec.Protocol != specs[i].Protocol {
			l = &listener{
				listenerKey: key,
				gateway:     g,
				builder:     route.NewBuilder[*proxy.Rule](),
				attachments: make(map[routeKey]*attachment),
				attached:    make(map[string]int),
				unsettled:   make(set[routeKey]),
			}
			g.listeners[key] = l
		}
		l.read(&specs[i])
		o.listeners = append(o.listeners, l)
		signature.WriteString(l.signature())
		signature.WriteByte('\n')
	}
	o.signature = signature.String()
}

// finish resolves what the listener refers to, once it is known which listeners
// conflict. ports are the QUIC options of the ports so far; nil if it is known to
// agree with them.
func (l *listener) finish(r referrer, f *frontend, ports map[portKey]*quicOptions) {
	before := l.tls
	l.tls = nil
	if !l.accepted.ok() || !l.conflict.ok() || !l.terminates() {
		return
	}
	next := &ingress.TLSConfig{Certificates: l.resolveCertificates(r), MinVersion: l.quic.minTLS}
	if l.protocol == ingress.HTTPS {
		if v := f.on(l.port); v != nil {
			next.ClientCAs, next.AllowInvalid = v.pool, v.insecure
			if !v.unresolved.ok() {
				l.unresolve(v.unresolved)
			}
			if !v.none.ok() {
				l.accepted = v.none
				next = &ingress.TLSConfig{} // handshakes fail
			}
		}
		l.agreeOnQUIC(ports)
	}
	l.tls = next
	if before != nil && slices.Equal(before.Certificates, next.Certificates) && before.ClientCAs == next.ClientCAs &&
		before.AllowInvalid == next.AllowInvalid && before.MinVersion == next.MinVersion {
		l.tls = before
	}
}

func (l *listener) agreeOnQUIC(ports map[portKey]*quicOptions) {
	if ports == nil {
		return
	}
	key := portKey{port: l.port}
	if ports[key] == nil {
		ports[key] = &quicOptions{}
	}
	if err := ports[key].agree(l.quic); err != nil {
		l.refuse(gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("tls.options: %v", err))
	}
}

// acceptOwners decides about the Gateway and its ListenerSets by their listeners.
func (t *Translator) acceptOwners(g *gateway) {
	self := g.owners[0]
	if g.accepted.ok() && !slices.ContainsFunc(self.listeners, func(l *listener) bool { return l.accepted.ok() && l.conflict.ok() }) {
		g.accepted = because(gatewayv1.GatewayReasonListenersNotValid, "no listener is valid: "+invalidListeners(self.listeners))
	}
	for _, o := range g.owners[1:] {
		switch {
		case !o.refused.ok():
		case !g.accepted.ok():
			o.refused = because(gatewayv1.ListenerSetReasonParentNotAccepted,
				fmt.Sprintf("Gateway %s is not accepted", g.name()))
		case !slices.ContainsFunc(o.listeners, (*listener).valid):
			o.refused = because(gatewayv1.ListenerSetReasonListenersNotValid, "no listener is valid: "+invalidListeners(o.listeners))
		}
	}
}

// invalidListeners names those of a list that are not valid, and why.
func invalidListeners(list []*listener) string {
	var names []string
	for _, l := range list {
		if why := l.invalid(); !why.ok() {
			names = append(names, fmt.Sprintf("%s (%s)", l.name, why.reason))
		}
	}
	return strings.Join(names, ", ")
}

// invalid is why the listener is not valid.
func (l *listener) invalid() verdict {
	switch {
	case !l.conflict.ok():
		return l.conflict
	case !l.accepted.ok():
		return l.accepted
	case !l.broken.ok() && !l.unresolved.ok():
		return l.unresolved
	}
	return l.broken
}

// compareOwners forgets listeners that are gone, and marks the routes of owners
// whose listeners differ in what attachment depends on.
func (t *Translator) compareOwners(g *gateway, before []*owner) {
	was := make(map[parent]*owner, len(before))
	for _, o := range before {
		was[o.parent] = o
	}
	now := make(set[*listener])
	for _, o := range g.owners {
		if b := was[o.parent]; b == nil || b.signature != o.signature {
			t.staleRoutes.addAll(t.routesOf[o.parent])
		}
		delete(was, o.parent)
		for _, l := range o.listeners {
			now.add(l)
		}
	}
	for p := range was {
		t.staleRoutes.addAll(t.routesOf[p])
	}
	for key, l := range g.listeners {
		if !now.has(l) {
			delete(g.listeners, key)
		}
	}
}

// staleRoutesOf marks every route that names the Gateway or one of its
// ListenerSets.
func (t *Translator) staleRoutesOf(g *gateway) {
	t.staleRoutes.addAll(t.routesOf[parent{kindGateway, g.name()}])
	for name := range t.setsOf[g.name()] {
		t.staleRoutes.addAll(t.routesOf[parent{kindListenerSet, name}])
	}
}

// forgetGateway undoes all of a Gateway that is gone.
func (t *Translator) forgetGateway(name types.NamespacedName, g *gateway) {
	if g == nil {
		return
	}
	t.staleRoutesOf(g)
	t.forgetPlan(g)
	delete(t.gateways, name)
	delete(t.bound, name)
}

// forgetPlan makes a Gateway one that is not ours.
func (t *Translator) forgetPlan(g *gateway) {
	t.present(g, nil)
	t.usedBy.replace(g.name(), g.uses, nil)
	used := g.uses
	*g = gateway{obj: g.obj, deleted: g.deleted, listeners: make(map[listenerKey]*listener), uses: make(set[reference])}
	t.forgetCertificates(used)
}

// forgetCertificates drops what was kept of Secrets that nobody refers to now.
func (t *Translator) forgetCertificates(used set[reference]) {
	for ref := range used {
		if ref.kind == "Secret" && t.usedBy[ref] == nil {
			delete(t.lastGood, ref.NamespacedName)
		}
	}
}
