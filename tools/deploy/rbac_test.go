package deploy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// permissions are all that adit may do, and which code does it. A line is
// "[name ]resource[.group] verb"; "own" are roles in adit's namespace alone.
// Whoever adds a line to a role adds one here, with the reason; whoever removes
// the code removes both.
var permissions = map[string]map[string]string{
	"agent": {
		"pods get":                              "agent/kube: Lookup asks for a pod that the informer has not seen",
		"pods list":                             "agent/kube: the world",
		"pods watch":                            "agent/kube: the world",
		"services list":                         "agent/kube: the world",
		"services watch":                        "agent/kube: the world",
		"namespaces get":                        "agent/kube: Lookup reads the labels of that pod's namespace",
		"namespaces list":                       "agent/kube: which namespaces are enrolled",
		"namespaces watch":                      "agent/kube: which namespaces are enrolled, and whether ours is being deleted",
		"nodes list":                            "agent/kube: the locality of pods",
		"nodes watch":                           "agent/kube: the locality of pods",
		"endpointslices.discovery.k8s.io list":  "agent/kube: which pods serve a service",
		"endpointslices.discovery.k8s.io watch": "agent/kube: which pods serve a service",
		"peerauthentications.security.istio.io list":           "agent/kube: policy",
		"peerauthentications.security.istio.io watch":          "agent/kube: policy",
		"authorizationpolicies.security.istio.io list":         "agent/kube: policy",
		"authorizationpolicies.security.istio.io watch":        "agent/kube: policy",
		"runtimeclasses.node.k8s.io list":                      "agent/kube: which pods run in a sandbox",
		"runtimeclasses.node.k8s.io watch":                     "agent/kube: which pods run in a sandbox",
		"authorizationpolicies/status.security.istio.io patch": "agent/kube: tells its author what a policy does not enforce",
		"pods/status patch":                                    "agent/kube: Annotate",
		"events create":                                        "agent/kube: Event",
		"events patch":                                         "agent/kube: Event that repeats",
	},
	"agent own": {
		"adit-ca-root configmaps list":                  "agent/kube: Bundle",
		"adit-ca-root configmaps watch":                 "agent/kube: Bundle",
		"adit-agent daemonsets.apps list":               "agent/kube: Uninstalling",
		"adit-agent daemonsets.apps watch":              "agent/kube: Uninstalling",
		"leases.coordination.k8s.io create":             "agent/kube: the election of who writes status",
		"adit-status leases.coordination.k8s.io get":    "agent/kube: the election of who writes status",
		"adit-status leases.coordination.k8s.io update": "agent/kube: the election of who writes status",
	},
	"ca": {
		"tokenreviews.authentication.k8s.io create": "identity/cakube: who asks",
		"pods get":   "identity/cakube: the node of the asking agent, where its token does not say",
		"pods list":  "identity/cakube: which identities run on which node",
		"pods watch": "identity/cakube: which identities run on which node",
	},
	"ca own": {
		"secrets create":                 "identity/cakube: the first root",
		"adit-ca secrets get":            "identity/cakube: the roots",
		"adit-ca secrets list":           "identity/cakube: the roots",
		"adit-ca secrets watch":          "identity/cakube: another replica has rotated",
		"adit-ca secrets update":         "identity/cakube: rotation",
		"configmaps create":              "identity/cakube: publishes the bundle",
		"adit-ca-root configmaps get":    "identity/cakube: publishes the bundle",
		"adit-ca-root configmaps list":   "identity/cakube: somebody else changed the bundle",
		"adit-ca-root configmaps watch":  "identity/cakube: somebody else changed the bundle",
		"adit-ca-root configmaps update": "identity/cakube: publishes the bundle",
	},
	"ingress": {
		"gatewayclasses.gateway.networking.k8s.io get":              "ingress/kube: an object whose status somebody else has changed meanwhile",
		"gatewayclasses.gateway.networking.k8s.io list":             "ingress/kube: what is served",
		"gatewayclasses.gateway.networking.k8s.io watch":            "ingress/kube: what is served",
		"gatewayclasses/status.gateway.networking.k8s.io patch":     "ingress/kube: what became of it",
		"gateways.gateway.networking.k8s.io get":                    "ingress/kube: an object whose status somebody else has changed meanwhile",
		"gateways.gateway.networking.k8s.io list":                   "ingress/kube: what is served",
		"gateways.gateway.networking.k8s.io watch":                  "ingress/kube: what is served",
		"gateways/status.gateway.networking.k8s.io patch":           "ingress/kube: what became of it",
		"listenersets.gateway.networking.k8s.io get":                "ingress/kube: an object whose status somebody else has changed meanwhile",
		"listenersets.gateway.networking.k8s.io list":               "ingress/kube: what is served",
		"listenersets.gateway.networking.k8s.io watch":              "ingress/kube: what is served",
		"listenersets/status.gateway.networking.k8s.io patch":       "ingress/kube: what became of it",
		"httproutes.gateway.networking.k8s.io get":                  "ingress/kube: an object whose status somebody else has changed meanwhile",
		"httproutes.gateway.networking.k8s.io list":                 "ingress/kube: what is served",
		"httproutes.gateway.networking.k8s.io watch":                "ingress/kube: what is served",
		"httproutes/status.gateway.networking.k8s.io patch":         "ingress/kube: what became of it",
		"grpcroutes.gateway.networking.k8s.io get":                  "ingress/kube: an object whose status somebody else has changed meanwhile",
		"grpcroutes.gateway.networking.k8s.io list":                 "ingress/kube: what is served",
		"grpcroutes.gateway.networking.k8s.io watch":                "ingress/kube: what is served",
		"grpcroutes/status.gateway.networking.k8s.io patch":         "ingress/kube: what became of it",
		"tlsroutes.gateway.networking.k8s.io get":                   "ingress/kube: an object whose status somebody else has changed meanwhile",
		"tlsroutes.gateway.networking.k8s.io list":                  "ingress/kube: what is served",
		"tlsroutes.gateway.networking.k8s.io watch":                 "ingress/kube: what is served",
		"tlsroutes/status.gateway.networking.k8s.io patch":          "ingress/kube: what became of it",
		"tcproutes.gateway.networking.k8s.io get":                   "ingress/kube: an object whose status somebody else has changed meanwhile",
		"tcproutes.gateway.networking.k8s.io list":                  "ingress/kube: what is served",
		"tcproutes.gateway.networking.k8s.io watch":                 "ingress/kube: what is served",
		"tcproutes/status.gateway.networking.k8s.io patch":          "ingress/kube: what became of it",
		"udproutes.gateway.networking.k8s.io get":                   "ingress/kube: an object whose status somebody else has changed meanwhile",
		"udproutes.gateway.networking.k8s.io list":                  "ingress/kube: what is served",
		"udproutes.gateway.networking.k8s.io watch":                 "ingress/kube: what is served",
		"udproutes/status.gateway.networking.k8s.io patch":          "ingress/kube: what became of it",
		"backendtlspolicies.gateway.networking.k8s.io get":          "ingress/kube: an object whose status somebody else has changed meanwhile",
		"backendtlspolicies.gateway.networking.k8s.io list":         "ingress/kube: what is served",
		"backendtlspolicies.gateway.networking.k8s.io watch":        "ingress/kube: what is served",
		"backendtlspolicies/status.gateway.networking.k8s.io patch": "ingress/kube: what became of it",
		"referencegrants.gateway.networking.k8s.io list":            "ingress/kube: who may refer to whom",
		"referencegrants.gateway.networking.k8s.io watch":           "ingress/kube: who may refer to whom",
		"clienttrafficpolicies.gateway.envoyproxy.io get":           "ingress/kube: an object whose status somebody else has changed meanwhile",
		"clienttrafficpolicies.gateway.envoyproxy.io list":          "ingress/kube: HTTP/3",
		"clienttrafficpolicies.gateway.envoyproxy.io watch":         "ingress/kube: HTTP/3",
		"clienttrafficpolicies/status.gateway.envoyproxy.io patch":  "ingress/kube: what of it is not honoured",
		"customresourcedefinitions.apiextensions.k8s.io list":       "ingress/kube: which version of Gateway API is installed",
		"secrets list":                                 "ingress/kube: certificates",
		"configmaps list":                              "ingress/kube: CAs that Gateways and policies name; agent/kube: Bundle",
		"namespaces list":                              "ingress/kube: which routes a listener lets in; agent/kube: the world",
		"endpointslices.discovery.k8s.io list":         "ingress/kube: backends; agent/kube: the world",
		"services list":                                "ingress/kube: backends, and the Services of Gateways; agent/kube: the world",
		"pods list":                                    "agent/kube: which backends are in the mesh",
		"nodes list":                                   "agent/kube: which backends are in the mesh",
		"runtimeclasses.node.k8s.io list":              "agent/kube: which backends are in the mesh",
		"peerauthentications.security.istio.io list":   "agent/kube: which backends are in the mesh",
		"authorizationpolicies.security.istio.io list": "agent/kube: which backends are in the mesh",
		"customresourcedefinitions.apiextensions.k8s.io watch": "ingress/kube: which version of Gateway API is installed",
		"secrets watch":                                 "ingress/kube: certificates",
		"configmaps watch":                              "ingress/kube: CAs that Gateways and policies name; agent/kube: Bundle",
		"namespaces watch":                              "ingress/kube: which routes a listener lets in; agent/kube: the world",
		"endpointslices.discovery.k8s.io watch":         "ingress/kube: backends; agent/kube: the world",
		"services watch":                                "ingress/kube: backends, and the Services of Gateways; agent/kube: the world",
		"pods watch":                                    "agent/kube: which backends are in the mesh",
		"nodes watch":                                   "agent/kube: which backends are in the mesh",
		"runtimeclasses.node.k8s.io watch":              "agent/kube: which backends are in the mesh",
		"peerauthentications.security.istio.io watch":   "agent/kube: which backends are in the mesh",
		"authorizationpolicies.security.istio.io watch": "agent/kube: which backends are in the mesh",
		"services get":                                  "ingress/kube: whether a name is somebody else's",
		"services create":                               "ingress/kube: a Service for each Gateway",
		"services patch":                                "ingress/kube: a Service for each Gateway",
		"services delete":                               "ingress/kube: a Service whose Gateway is gone",
	},
	"ingress own": {
		"secrets create":                                 "ingress/kube: Keys, the first time",
		"adit-ingress-keys secrets get":                  "ingress/kube: Keys",
		"leases.coordination.k8s.io create":              "ingress/kube: the election of who writes",
		"adit-gateway leases.coordination.k8s.io get":    "ingress/kube: the election of who writes",
		"adit-gateway leases.coordination.k8s.io update": "ingress/kube: the election of who writes",
	},
}

func TestPermissionsHaveReasons(t *testing.T) {
	all := kustomize(t, "overlays/ingress")
	got := make(map[string]map[string]string)
	for _, component := range []string{"agent", "ca", "ingress"} {
		name := "adit-" + component
		got[component] = granted(get[*rbac.ClusterRole](t, all, "ClusterRole "+name).Rules)
		got[component+" own"] = granted(get[*rbac.Role](t, all, "Role adit-system/"+name).Rules)

		cluster := get[*rbac.ClusterRoleBinding](t, all, "ClusterRoleBinding "+name)
		own := get[*rbac.RoleBinding](t, all, "RoleBinding adit-system/"+name)
		bound(t, cluster, cluster.RoleRef, cluster.Subjects, "ClusterRole", name)
		bound(t, own, own.RoleRef, own.Subjects, "Role", name)
	}
	for role, want := range permissions {
		for _, p := range slices.Sorted(maps.Keys(got[role])) {
			if want[p] == "" {
				t.Errorf("%s may %q, and nobody says why", role, p)
			}
		}
		for _, p := range slices.Sorted(maps.Keys(want)) {
			if _, ok := got[role][p]; !ok {
				t.Errorf("%s may not %q, which it needs: %s", role, p, want[p])
			}
		}
	}
	for key, o := range all {
		switch o.(type) {
		case *rbac.Role, *rbac.ClusterRole:
			if !strings.HasSuffix(key, "adit-agent") && !strings.HasSuffix(key, "adit-ca") && !strings.HasSuffix(key, "adit-ingress") {
				t.Errorf("%s is not in the table of permissions", key)
			}
		}
	}
}

// granted are rules one by one, as the table has them.
func granted(rules []rbac.PolicyRule) map[string]string {
	out := make(map[string]string)
	for _, r := range rules {
		names := r.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					for _, name := range names {
						if group != "" {
							group = "." + strings.TrimPrefix(group, ".")
						}
						out[strings.TrimSpace(fmt.Sprintf("%s %s%s %s", name, resource, group, verb))] = ""
					}
				}
			}
		}
	}
	return out
}

// bound fails unless a role is given to the service account of its name alone.
func bound(t *testing.T, binding runtime.Object, ref rbac.RoleRef, subjects []rbac.Subject, kind, name string) {
	t.Helper()
	if ref.Kind != kind || ref.Name != name || ref.APIGroup != rbac.GroupName {
		t.Errorf("%T %s gives %+v", binding, name, ref)
	}
	want := rbac.Subject{Kind: rbac.ServiceAccountKind, Name: name, Namespace: "adit-system"}
	if len(subjects) != 1 || subjects[0] != want {
		t.Errorf("%T %s gives it to %+v, want %+v alone", binding, name, subjects, want)
	}
}

// Two verbs would be the end of every other line: read any Secret, become anyone.
func TestNobodyMayReadSecretsOrGrant(t *testing.T) {
	for key, o := range kustomize(t, "overlays/default") {
		var rules []rbac.PolicyRule
		cluster := false
		switch o := o.(type) {
		case *rbac.ClusterRole:
			rules, cluster = o.Rules, true
		case *rbac.Role:
			rules = o.Rules
		}
		for _, r := range rules {
			for _, word := range slices.Concat(r.APIGroups, r.Resources, r.Verbs) {
				if word == "*" || word == "escalate" || word == "bind" || word == "impersonate" {
					t.Errorf("%s: %s", key, word)
				}
			}
			if slices.Contains(r.Resources, "secrets") && (cluster || len(r.ResourceNames) == 0 && !slices.Equal(r.Verbs, []string{"create"})) {
				t.Errorf("%s may %v secrets that are not its own", key, r.Verbs)
			}
			if slices.Contains(r.Resources, "serviceaccounts/token") {
				t.Errorf("%s may make itself a token of any account", key)
			}
		}
	}
}
