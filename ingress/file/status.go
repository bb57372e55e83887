package file

import (
	"log/slog"
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress/gateway"
)

// publish keeps the statuses, as an API server would in the objects, and says
// what turned bad.
func (s *Source) publish(statuses []gateway.Status) {
	all := make(map[key]runtime.Object, len(statuses))
	for _, st := range statuses {
		k := key{st.Kind, st.Namespace, st.Name}
		e := s.table.entries[k]
		if e == nil {
			continue
		}
		if merged, differs := st.Merge(e.object); differs {
			o := merged.(object)
			s.say(k, conditionsOf(e.object), conditionsOf(o))
			e.object = o
			// It has the times of the conditions, which the next status keeps.
			s.translator.Set(o)
		}
		all[k] = e.object
	}
	s.mu.Lock()
	s.statuses = all
	s.mu.Unlock()
}

// located is a condition, and what of an object it is about.
type located struct {
	of string // a listener or a parent; "" = the object
	metav1.Condition
}

// say logs a line for each condition that is bad, and was not so before, and one
// when all are good again.
func (s *Source) say(k key, before, now []located) {
	wasBad := slices.ContainsFunc(before, located.bad)
	for _, c := range now {
		if c.bad() && !slices.ContainsFunc(before, c.says) {
			attrs := []any{"object", k.String(), "condition", c.Type, "status", string(c.Status), "reason", c.Reason}
			if c.of != "" {
				attrs = append(attrs, "of", c.of)
			}
			s.log.Warn(c.Message, attrs...)
		}
	}
	if !slices.ContainsFunc(now, located.bad) {
		level := slog.LevelDebug
		if wasBad {
			level = slog.LevelInfo
		}
		s.log.Log(background, level, "the conditions are good", "object", k.String())
	}
}

// says compares what a condition says with another's.
func (c located) says(d located) bool {
	return c.of == d.of && c.Type == d.Type && c.Status == d.Status && c.Reason == d.Reason && c.Message == d.Message
}

// bad says whether somebody has to do something. Some conditions are good when
// they are false.
func (c located) bad() bool {
	switch c.Type {
	case string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.RouteConditionPartiallyInvalid),
		string(gatewayv1.GatewayConditionInsecureFrontendValidationMode):
		return c.Status == metav1.ConditionTrue
	case string(gatewayv1.ListenerConditionOverlappingTLSConfig):
		return false // a remark
	}
	return c.Status == metav1.ConditionFalse
}

// conditionsOf are all conditions in an object's status.
func conditionsOf(o object) (out []located) {
	add := func(of string, list []metav1.Condition) {
		for _, c := range list {
			out = append(out, located{of, c})
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
	case *gateway.ClientTrafficPolicy:
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

// keepStatus gives an object the status of the version before it.
func keepStatus(old, now object) {
	if reflect.TypeOf(old) != reflect.TypeOf(now) {
		return
	}
	from := reflect.ValueOf(old).Elem().FieldByName("Status")
	if to := reflect.ValueOf(now).Elem().FieldByName("Status"); to.IsValid() && to.CanSet() {
		to.Set(from)
	}
}
