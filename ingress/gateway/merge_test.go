package gateway

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestMergeTwice says that writing a status and reading it back leaves nothing to
// write: that there is no loop.
func TestMergeTwice(t *testing.T) {
	for _, file := range []string{"routes", "listeners", "class", "certificates", "listenersets", "clients", "streams", "mixed", "policies", "options"} {
		at := now
		tr := newTestTranslator(func(o *Options) { o.Now = func() time.Time { return at } })
		read := make(map[string]runtime.Object)
		for _, o := range manifest(t, "testdata/"+file+".yaml") {
			if kinds, _, err := scheme().ObjectKinds(o); err == nil && kinds[0].Version == "v1beta1" {
				continue // the writer reads and writes v1
			}
			read[keyOf(o)] = o
			tr.Set(o)
		}
		written := 0
		for round := range 3 {
			cfg, _ := tr.Build()
			for _, s := range tr.Statuses(failing(cfg), placedAll(tr)) {
				o := read[s.Kind+"/"+s.Namespace+"/"+s.Name]
				if o == nil {
					continue
				}
				next, differs := s.Merge(o)
				if !differs {
					continue
				}
				written++
				if round > 0 {
					t.Errorf("%s: in round %d there is still something to write for %s %s/%s", file, round, s.Kind, s.Namespace, s.Name)
				}
				read[keyOf(o)] = next
				tr.Set(next)
			}
			at = at.Add(time.Minute)
			if after, changed := tr.Build(); changed || after != cfg {
				t.Errorf("%s: statuses that were written make another Config", file)
			}
		}
		if written == 0 {
			t.Errorf("%s: nothing was written", file)
		}
	}
}

// TestMergeForeign says that what others wrote stays.
func TestMergeForeign(t *testing.T) {
	tr, all := shop(t, 1)
	long := metav1.NewTime(now.Add(-48 * time.Hour))
	foreign := metav1.Condition{Type: "example.com/Healthy", Status: metav1.ConditionTrue, LastTransitionTime: long}

	g := all["Gateway/infra/gw"].DeepCopyObject().(*gatewayv1.Gateway)
	g.Status.Conditions = []metav1.Condition{foreign,
		{Type: "InsecureFrontendValidationMode", Status: metav1.ConditionTrue},
		{Type: "Programmed", Status: metav1.ConditionTrue, LastTransitionTime: long},
		{Type: "Accepted", Status: metav1.ConditionFalse, ObservedGeneration: 9, Reason: "Later", LastTransitionTime: long}}
	g.Status.Listeners = []gatewayv1.ListenerStatus{{Name: "a", Conditions: []metav1.Condition{foreign}}, {Name: "gone", Conditions: []metav1.Condition{foreign}}}
	s := statusOf(t, statuses(tr), "Gateway", "gw")
	merged, differs := s.Merge(g)
	if !differs {
		t.Fatal("there is nothing to write")
	}
	next := merged.(*gatewayv1.Gateway)
	if c := next.Status.Conditions[0]; c != foreign {
		t.Errorf("the first condition is %+v, and was another controller's", c)
	}
	if i := indexCondition(next.Status.Conditions, "InsecureFrontendValidationMode"); i >= 0 {
		t.Error("a condition of ours that is not wanted any more is still there")
	}
	if c := conditionOf(t, next.Status.Conditions, "Programmed"); !c.LastTransitionTime.Equal(&long) {
		t.Errorf("a condition that did not change has the time %v", c.LastTransitionTime)
	}
	if c := conditionOf(t, next.Status.Conditions, "Accepted"); c.Reason != "Later" {
		t.Errorf("a condition about a later generation was replaced: %+v", c)
	}
	if len(next.Status.Listeners) != 3 || indexCondition(next.Status.Listeners[1].Conditions, foreign.Type) < 0 {
		t.Errorf("the listeners are %+v", next.Status.Listeners)
	}
	if g.Status.Conditions[2].Reason != "" {
		t.Error("the object that was read was changed")
	}

	r := all["HTTPRoute/infra/route-0"].DeepCopyObject().(*gatewayv1.HTTPRoute)
	theirs := gatewayv1.RouteParentStatus{ControllerName: "example.com/other", ParentRef: gatewayv1.ParentReference{Name: "theirs"}}
	r.Status.Parents = []gatewayv1.RouteParentStatus{
		{ControllerName: DefaultControllerName, ParentRef: gatewayv1.ParentReference{Name: "before"}},
		theirs,
		{ControllerName: DefaultControllerName, ParentRef: r.Spec.ParentRefs[0], Conditions: []metav1.Condition{foreign}},
	}
	merged, differs = statusOf(t, statuses(tr), "HTTPRoute", "route-0").Merge(r)
	parents := merged.(*gatewayv1.HTTPRoute).Status.Parents
	if !differs || len(parents) != 2 {
		t.Fatalf("differs %t, parents %+v", differs, parents)
	}
	if parents[0].ControllerName != "example.com/other" {
		t.Errorf("the entry of another controller became %+v", parents[0])
	}
	if parents[1].ParentRef.Name != "gw" || len(parents[1].Conditions) != 3 || parents[1].Conditions[0] != foreign {
		t.Errorf("our entry became %+v", parents[1])
	}

	// A status for another kind is none for this object.
	if _, differs := s.Merge(r); differs {
		t.Error("a Gateway's status was merged into a route")
	}
}
