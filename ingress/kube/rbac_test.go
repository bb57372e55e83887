package kube

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The permissions that the manifests give, and the admission policy that narrows
// them, are all that the edge needs.
func TestAsTheEdgesServiceAccount(t *testing.T) {
	w := newWorld(t)
	w.system = "adit-system"
	w.apiServer.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: adit-system}")
	w.install()
	for _, name := range []string{"clusterrole.yaml", "role.yaml", "admissionpolicy.yaml"} {
		raw, err := os.ReadFile(filepath.Join("../../deploy/base/ingress", name))
		if err != nil {
			t.Fatal(err)
		}
		for doc := range strings.SplitSeq(string(raw), "\n---\n") {
			if name == "role.yaml" { // kustomize adds the namespace
				doc = strings.Replace(doc, "\nmetadata:\n", "\nmetadata:\n  namespace: adit-system\n", 1)
			}
			w.apiServer.apply(t, doc)
		}
	}
	p := w.podAt(w.config("ingress-token", w.address), "a")
	eventually(t, "every kind is followed that there is", func() bool {
		for _, k := range p.Kinds() {
			if !k.Synced && !strings.Contains(k.Name, "envoyproxy") {
				return false
			}
		}
		return true
	})
	for range 2 { // made, and read
		if _, err := p.Keys(t.Context()); err != nil {
			t.Error(err)
		}
	}
	w.gateway("eg", "  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}\n")
	w.route("r", "eg")
	w.apiServer.apply(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: "+w.apps+"}\ntype: Opaque\nstringData: {a: b}")
	name := serviceName(gw(w.apps, "eg"), roleBalancer)
	eventually(t, "the Service is there", func() bool {
		return slices.ContainsFunc(w.services(w.system), func(s corev1.Service) bool { return s.Name == name })
	})
	w.assign(name, "192.0.2.3")
	var g gatewayv1.Gateway
	eventually(t, "the status is written", func() bool {
		w.get("Gateway", "eg", &g)
		return len(g.Status.Addresses) == 1
	})
	eventually(t, "so is that of the route", func() bool {
		var r gatewayv1.HTTPRoute
		w.get("HTTPRoute", "r", &r)
		return len(r.Status.Parents) == 1
	})
	w.merge("Gateway", "eg", `{"spec":{"infrastructure":{"labels":{"team":"edge"}}}}`)
	eventually(t, "the Service is changed, and the alias", func() bool {
		labelled := func(s corev1.Service) bool { return s.Labels["team"] == "edge" }
		return slices.ContainsFunc(w.services(w.system), labelled) && slices.ContainsFunc(w.services(w.apps), labelled)
	})
	for _, k := range p.Kinds() {
		if !k.Connected || k.Error != "" && !strings.Contains(k.Name, "envoyproxy") {
			t.Errorf("%+v", k)
		}
	}
	// Nobody's but its own: the policy holds on a real API server.
	w.apiServer.apply(t, "apiVersion: v1\nkind: Service\nmetadata: {name: bank, namespace: "+w.apps+"}\nspec: {ports: [{port: 80}], selector: {app: bank}}")
	eventually(t, "the policy is in force", func() bool {
		err := p.api.core.Patch(types.MergePatchType).Namespace(w.apps).Resource("services").Name("bank").
			Body([]byte(`{"metadata":{"labels":{"x":"y"}}}`)).Do(t.Context()).Error()
		return err != nil && strings.Contains(err.Error(), "Services of its own only")
	})
	w.delete(t, "gateway.networking.k8s.io/v1", "Gateway", w.apps, "eg")
	eventually(t, "the Services go", func() bool {
		return !slices.ContainsFunc(slices.Concat(w.services(w.system), w.services(w.apps)), func(s corev1.Service) bool { return s.Labels[labelManaged] == managedBy })
	})
	p.stop()
	if u, err := w.client.Resource(leases).Namespace("adit-system").Get(t.Context(), leaseName, metav1.GetOptions{}); err != nil || holderOf(u) != "" {
		t.Errorf("the Lease is not let go: %v, %v", u, err)
	}
}
