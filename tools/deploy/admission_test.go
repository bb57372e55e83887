package deploy

import (
	"testing"

	celgo "github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/environment"
)

// oldest is the first Kubernetes whose API servers must take the policy.
var oldest = version.MustParseGeneric("1.30")

// expression is one of a policy, as the API server's compiler takes it.
type expression struct{ name, text string }

func (e expression) GetName() string            { return e.name }
func (e expression) GetExpression() string      { return e.text }
func (e expression) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.BoolType} }

type variable struct{ expression }

func (variable) ReturnTypes() []*celgo.Type { return []*celgo.Type{celgo.AnyType, celgo.DynType} }

// judge evaluates a policy as an API server does.
type judge struct {
	compiler     *cel.CompositedCompiler
	match, valid []cel.ExpressionAccessor
}

func newJudge(t *testing.T, all objects, name string) *judge {
	t.Helper()
	policy := get[*admissionv1.ValidatingAdmissionPolicy](t, all, "ValidatingAdmissionPolicy "+name)
	binding := get[*admissionv1.ValidatingAdmissionPolicyBinding](t, all, "ValidatingAdmissionPolicyBinding "+name)
	if *policy.Spec.FailurePolicy != admissionv1.Fail || binding.Spec.PolicyName != policy.Name ||
		len(binding.Spec.ValidationActions) != 1 || binding.Spec.ValidationActions[0] != admissionv1.Deny {
		t.Fatal("the policy denies nothing")
	}
	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(oldest))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range policy.Spec.Variables {
		if r := compiler.CompileAndStoreVariable(variable{expression{v.Name, v.Expression}}, cel.OptionalVariableDeclarations{}, environment.NewExpressions); r.Error != nil {
			t.Fatalf("variable %s: %v", v.Name, r.Error)
		}
	}
	j := &judge{compiler: compiler}
	for _, c := range policy.Spec.MatchConditions {
		j.match = append(j.match, expression{c.Name, c.Expression})
	}
	for _, v := range policy.Spec.Validations {
		j.valid = append(j.valid, expression{v.Message, v.Expression})
	}
	return j
}

// allows says whether a request passes: it is none of the policy's, or valid.
// before and after are nil where there is none.
func (j *judge) allows(t *testing.T, attr admission.Attributes, before, after runtime.Object) bool {
	t.Helper()
	evaluate := func(expressions []cel.ExpressionAccessor) bool {
		request := cel.CreateAdmissionRequest(attr, meta.GroupVersionResource(attr.GetResource()), meta.GroupVersionKind(attr.GetKind()))
		compiled := j.compiler.CompileCondition(expressions, cel.OptionalVariableDeclarations{}, environment.NewExpressions)
		results, _, err := compiled.ForInput(t.Context(),
			&admission.VersionedAttributes{Attributes: attr, VersionedObject: after, VersionedOldObject: before, VersionedKind: attr.GetKind()},
			request, cel.OptionalVariableBindings{}, nil, apiservercel.RuntimeCELCostBudget)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range results {
			if r.Error != nil {
				t.Fatalf("%s: %v", r.ExpressionAccessor.GetExpression(), r.Error)
			}
			if r.EvalResult.Value() != true {
				return false
			}
		}
		return true
	}
	return !evaluate(j.match) || evaluate(j.valid)
}

// What an agent may write, and that nobody else is concerned.
func TestAgentAnnotatesItsOwnPodsOnly(t *testing.T) {
	policy := newJudge(t, kustomize(t, "overlays/default"), "adit-agent")
	agent := &user.DefaultInfo{Name: "system:serviceaccount:adit-system:adit-agent",
		Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"node-a"}}}
	for _, c := range []struct {
		name   string
		who    *user.DefaultInfo
		change func(was, is *core.Pod)
		want   bool
	}{
		{"annotates", agent, func(_, p *core.Pod) { p.Annotations["ambient.istio.io/redirection"] = "enabled" }, true},
		{"annotates a pod without annotations", agent, func(was, p *core.Pod) {
			was.Annotations, p.Annotations = nil, map[string]string{"ambient.istio.io/redirection": "pending"}
		}, true},
		{"takes the annotation back", agent, func(_, p *core.Pod) { delete(p.Annotations, "ambient.istio.io/redirection") }, true},
		{"changes nothing", agent, func(_, _ *core.Pod) {}, true},
		{"annotates a pod of another node", agent, func(_, p *core.Pod) { p.Spec.NodeName = "node-b" }, false},
		{"annotates a pod of no node", agent, func(_, p *core.Pod) { p.Spec.NodeName = "" }, false},
		{"changes another annotation", agent, func(_, p *core.Pod) { p.Annotations["other"] = "changed" }, false},
		{"adds another annotation", agent, func(_, p *core.Pod) { p.Annotations["more"] = "" }, false},
		{"removes another annotation", agent, func(_, p *core.Pod) { delete(p.Annotations, "other") }, false},
		{"moves an address", agent, func(_, p *core.Pod) { p.Status.PodIP = "10.0.0.9" }, false},
		{"makes a pod ready", agent, func(_, p *core.Pod) {
			p.Status.Conditions = []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}}
		}, false},
		{"puts a pod behind a service", agent, func(_, p *core.Pod) { p.Labels = map[string]string{"app": "bank"} }, false},
		{"keeps a pod from going", agent, func(_, p *core.Pod) { p.Finalizers = []string{"example.org/never"} }, false},
		{"has a token of no node", &user.DefaultInfo{Name: agent.Name}, func(_, p *core.Pod) { p.Annotations["ambient.istio.io/redirection"] = "enabled" }, false},
		{"is the kubelet", &user.DefaultInfo{Name: "system:node:node-b"}, func(_, p *core.Pod) { p.Status.PodIP = "10.0.0.9" }, true},
		{"is an agent of another installation", &user.DefaultInfo{Name: "system:serviceaccount:other:adit-agent"}, func(_, p *core.Pod) { p.Status.PodIP = "10.0.0.9" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := &core.Pod{
				TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Pod"},
				ObjectMeta: meta.ObjectMeta{Name: "cart", Namespace: "shop",
					Annotations: map[string]string{"other": "stays", "ambient.istio.io/redirection": "pending"}},
				Spec:   core.PodSpec{NodeName: "node-a"},
				Status: core.PodStatus{PodIP: "10.0.0.1"},
			}
			after := before.DeepCopy()
			c.change(before, after)
			gvk := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
			gvr := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
			attr := admission.NewAttributesRecord(after, before, gvk, "shop", "cart", gvr, "status",
				admission.Update, &meta.UpdateOptions{}, false, c.who)
			if got := policy.allows(t, attr, before, after); got != c.want {
				t.Errorf("allowed: %v, want %v", got, c.want)
			}
		})
	}
}
