package gateway

import (
	"fmt"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// parent is what routes are attached to: a Gateway or a ListenerSet.
type parent struct {
	kind string
	types.NamespacedName
}

func (p parent) String() string { return p.kind + "/" + p.Namespace + "/" + p.Name }

type listenerKey struct {
	parent parent
	name   string
}

// listener is one of the merged list of listeners of a Gateway. It stays the same
// from one plan to the next as long as its parent has a listener of that name and
// protocol.
type listener struct {
	listenerKey
	gateway *gateway

	// Of the specification.
	port       uint16
	udp        bool
	protocol   ingress.Protocol
	host       string
	namespaces namespaceRule
	kinds      []string // of routes that it takes
	spec       *gatewayv1.Listener

	// What the plan found.
	accepted   verdict // syntax and support
	conflict   verdict
	unresolved verdict // ResolvedRefs
	broken     verdict // nothing can be served although it is accepted
	quic       quicOptions
	tls        *ingress.TLSConfig // nil: TLS does not end here
	overlap    verdict            // OverlappingTLSConfig, which is looked at for statuses alone

	// What is attached to it.
	builder     *route.Builder[*proxy.Rule]
	attachments map[routeKey]*attachment
	attached    map[string]int // by kind
	unsettled   set[routeKey]  // attachments that the table or streams do not have yet
	mixed       bool           // routes of both HTTP kinds were told apart
	streams     []*ingress.StreamRoute

	served *ingress.Listener // as in the last Config; nil: not in it
}

// namespaceRule says which namespaces routes or ListenerSets may come from.
type namespaceRule struct {
	from     gatewayv1.FromNamespaces
	own      string // for Same
	selector labels.Selector
}

func newNamespaceRule(from *gatewayv1.FromNamespaces, selector *metav1.LabelSelector, own string, byDefault gatewayv1.FromNamespaces) (namespaceRule, error) {
	r := namespaceRule{from: byDefault, own: own, selector: labels.Nothing()}
	if from != nil && *from != "" {
		r.from = *from
	}
	if r.from != gatewayv1.NamespacesFromSelector {
		return r, nil
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return r, err
	}
	r.selector = s
	return r, nil
}

// allows says whether namespace is let in. A selector lets nothing in of which
// the labels are not known.
func (r namespaceRule) allows(namespace string, known map[string]labels.Set) bool {
	switch r.from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == r.own
	case gatewayv1.NamespacesFromSelector:
		set, ok := known[namespace]
		return ok && r.selector.Matches(set)
	}
	return false
}

func (r namespaceRule) String() string {
	return fmt.Sprintf("%s %s %s", r.from, r.own, r.selector)
}

// protocols are those that are served, with the kinds of routes that they take.
var protocols = map[gatewayv1.ProtocolType]struct {
	protocol ingress.Protocol
	kinds    []string
}{
	gatewayv1.HTTPProtocolType:  {ingress.HTTP, []string{kindHTTPRoute, kindGRPCRoute}},
	gatewayv1.HTTPSProtocolType: {ingress.HTTPS, []string{kindHTTPRoute, kindGRPCRoute}},
	gatewayv1.TLSProtocolType:   {ingress.TLS, []string{kindTLSRoute}},
	gatewayv1.TCPProtocolType:   {ingress.TCP, []string{kindTCPRoute}},
	gatewayv1.UDPProtocolType:   {ingress.UDP, []string{kindUDPRoute}},
}

// read takes over what a listener's specification says, and checks what can be
// checked without looking at anything else.
func (l *listener) read(spec *gatewayv1.Listener) {
	l.spec = spec
	l.accepted, l.conflict, l.unresolved, l.broken = verdict{}, verdict{}, verdict{}, verdict{}
	l.quic = quicOptions{}
	l.port = uint16(spec.Port)
	l.host = hostname(spec.Hostname)
	l.kinds = nil

	protocol, ok := protocols[spec.Protocol]
	if !ok {
		l.tls = nil
		l.accepted = because(gatewayv1.ListenerReasonUnsupportedProtocol,
			fmt.Sprintf("protocol %q is not one of HTTP, HTTPS, TLS, TCP and UDP", spec.Protocol))
		return
	}
	l.protocol, l.udp = protocol.protocol, protocol.protocol == ingress.UDP
	if l.protocol == ingress.TCP || l.protocol == ingress.UDP {
		l.host = "" // the field is ignored for them
	}
	if spec.Port < 1 || spec.Port > 65535 {
		l.refuse(gatewayv1.ListenerReasonPortUnavailable, fmt.Sprintf("port %d is not between 1 and 65535", spec.Port))
	}
	l.readAllowedRoutes(protocol.kinds)
	l.readTLS()
}

// refuse makes the listener not accepted. The first reason stands.
func (l *listener) refuse(reason gatewayv1.ListenerConditionReason, message string) {
	if l.accepted.ok() {
		l.accepted = because(reason, message)
	}
}

func (l *listener) readAllowedRoutes(supported []string) {
	l.kinds = supported
	l.namespaces = namespaceRule{from: gatewayv1.NamespacesFromSame, own: l.parent.Namespace, selector: labels.Nothing()}
	allowed := l.spec.AllowedRoutes
	if allowed == nil {
		return
	}
	if n := allowed.Namespaces; n != nil {
		rule, err := newNamespaceRule(n.From, n.Selector, l.parent.Namespace, gatewayv1.NamespacesFromSame)
		l.namespaces = rule
		if err != nil {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("allowedRoutes.namespaces.selector: %v", err))
		}
	}
	if len(allowed.Kinds) == 0 {
		return
	}
	l.kinds = nil
	var wrong []string
	for _, k := range allowed.Kinds {
		if (k.Group == nil || *k.Group == gatewayv1.GroupName) && slices.Contains(supported, string(k.Kind)) {
			l.kinds = appendNew(l.kinds, string(k.Kind))
		} else {
			wrong = append(wrong, string(k.Kind))
		}
	}
	if len(wrong) == 0 {
		return
	}
	l.unresolved = because(gatewayv1.ListenerReasonInvalidRouteKinds,
		fmt.Sprintf("allowedRoutes.kinds: a listener of protocol %s takes %s, not %s",
			l.spec.Protocol, strings.Join(supported, " and "), strings.Join(wrong, ", ")))
	if len(l.kinds) == 0 {
		l.broken = because(gatewayv1.ListenerReasonInvalid, "none of allowedRoutes.kinds can be attached")
	}
}

// terminates says whether TLS ends at the listener.
func (l *listener) terminates() bool {
	switch l.protocol {
	case ingress.HTTPS:
		return true
	case ingress.TLS:
		return !l.passthrough()
	}
	return false
}

func (l *listener) passthrough() bool {
	return l.spec.TLS != nil && l.spec.TLS.Mode != nil && *l.spec.TLS.Mode == gatewayv1.TLSModePassthrough
}

func (l *listener) readTLS() {
	switch l.protocol {
	case ingress.HTTPS, ingress.TLS:
		switch {
		case l.spec.TLS == nil:
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("tls is missing, which protocol %s requires", l.spec.Protocol))
		case l.protocol == ingress.HTTPS && l.passthrough():
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, "tls.mode Passthrough is for protocol TLS: with HTTPS, TLS ends here")
		default:
			l.readTLSOptions()
		}
	default:
		if l.spec.TLS != nil {
			l.refuse(gatewayv1.ListenerReasonUnsupportedValue, fmt.Sprintf("tls is set, which protocol %s does not have", l.spec.Protocol))
		}
	}
}

// signature is all that decides which routes are attached to the listener, and
// how they are compiled for it.
func (l *listener) signature() string {
	return fmt.Sprintf("%q %d %d %q %q %s %t", l.name, l.port, l.protocol, l.host, l.kinds, l.namespaces, l.passthrough())
}

// usable says whether the listener belongs in a Config: nothing of it conflicts
// with others, and it is understood. It may be broken nevertheless, and then
// serves nobody.
func (l *listener) usable() bool {
	return l.conflict.ok() && (l.accepted.ok() || l.accepted.reason == string(gatewayv1.ListenerReasonNoValidCACertificate))
}

// valid says whether the listener can serve clients, sockets aside.
func (l *listener) valid() bool { return l.accepted.ok() && l.conflict.ok() && l.broken.ok() }
