package gateway

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Located is a condition, and what of an object it is about.
type Located struct {
	Of string // a listener or a parent; "" = the object
	metav1.Condition
}

// Says compares what a condition says with another's.
func (c Located) Says(d Located) bool {
	return c.Of == d.Of && c.Type == d.Type && c.Status == d.Status && c.Reason == d.Reason && c.Message == d.Message
}

// Bad says whether somebody has to do something. Some conditions are good when
// they are false.
func (c Located) Bad() bool {
	switch c.Type {
	case string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.RouteConditionPartiallyInvalid),
		string(gatewayv1.GatewayConditionInsecureFrontendValidationMode):
		return c.Status == metav1.ConditionTrue
	case string(gatewayv1.ListenerConditionOverlappingTLSConfig):
		return false // a remark
	}
	return c.Status == metav1.ConditionFalse
}

// Conditions are all conditions in an object's status.
func Conditions(o runtime.Object) (out []Located) {
	add := func(of string, list []metav1.Condition) {
		for _, c := range list {
			out = append(out, Located{of, c})
		}
	}
	parents := func(list []gatewayv1.RouteParentStatus) {
		for _, p := range list {
			add(parentName(p.ParentRef), p.Conditions)
		}
	}
	ancestors := func(list []gatewayv1.PolicyAncestorStatus) {
		for _, a := range list {
			add(parentName(a.AncestorRef), a.Conditions)
		}
	}
	switch o := o.(type) {
	case *gatewayv1.GatewayClass:
		add("", o.Status.Conditions)
	case *gatewayv1.Gateway:
		add("", o.Status.Conditions)
		for _, l := range o.Status.Listeners {
			add("listener "+string(l.Name), l.Conditions)
		}
	case *gatewayv1.ListenerSet:
		add("", o.Status.Conditions)
		for _, l := range o.Status.Listeners {
			add("listener "+string(l.Name), l.Conditions)
		}
	case *gatewayv1.HTTPRoute:
		parents(o.Status.Parents)
	case *gatewayv1.GRPCRoute:
		parents(o.Status.Parents)
	case *gatewayv1.TLSRoute:
		parents(o.Status.Parents)
	case *gatewayv1.TCPRoute:
		parents(o.Status.Parents)
	case *gatewayv1.UDPRoute:
		parents(o.Status.Parents)
	case *gatewayv1.BackendTLSPolicy:
		ancestors(o.Status.Ancestors)
	case *ClientTrafficPolicy:
		ancestors(o.Status.Ancestors)
	}
	return out
}

func parentName(r gatewayv1.ParentReference) string {
	name := "Gateway "
	if r.Kind != nil {
		name = string(*r.Kind) + " "
	}
	if r.Namespace != nil {
		name += string(*r.Namespace) + "/"
	}
	name += string(r.Name)
	if r.SectionName != nil {
		name += ", listener " + string(*r.SectionName)
	}
	return name
}
