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
}

func TestPermissionsHaveReasons(t *testing.T) {
	all := kustomize(t, "overlays/default")
	got := make(map[string]map[string]string)
	for _, component := range []string{"agent", "ca"} {
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
			if !strings.HasSuffix(key, "adit-agent") && !strings.HasSuffix(key, "adit-ca") {
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
