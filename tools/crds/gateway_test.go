package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admission "k8s.io/api/admissionregistration/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// The kinds that the edge follows, which each channel must serve as v1.
var gatewayKinds = []string{
	"BackendTLSPolicy", "GRPCRoute", "Gateway", "GatewayClass", "HTTPRoute", "ListenerSet", "ReferenceGrant",
	"TCPRoute", "TLSRoute", "UDPRoute",
}

func TestWritesTheBundlesOfGatewayAPI(t *testing.T) {
	out := t.TempDir()
	if err := writeGatewayAPI("../..", out); err != nil {
		t.Fatal(err)
	}
	m, err := locate("../..", gatewayAPI)
	if err != nil {
		t.Fatal(err)
	}
	for _, channel := range channels {
		files, err := filepath.Glob(filepath.Join(out, channel, "*"))
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		guarded := false
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var annotations map[string]string
			if filepath.Base(name) == "vap_safeupgrades.yaml" {
				first, _, _ := strings.Cut(string(data), "\n---\n")
				var policy admission.ValidatingAdmissionPolicy
				if err := yaml.UnmarshalStrict([]byte(first), &policy); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				// In both channels the policy says that it is of the standard one.
				guarded, annotations = true, map[string]string{
					group + "/bundle-version": policy.Annotations[group+"/bundle-version"], group + "/channel": channel,
				}
			} else {
				var crd apiextensions.CustomResourceDefinition
				if err := yaml.UnmarshalStrict(data, &crd); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				annotations = crd.Annotations
				if slices.ContainsFunc(crd.Spec.Versions, func(v apiextensions.CustomResourceDefinitionVersion) bool {
					return v.Name == "v1" && v.Served && v.Subresources != nil && v.Subresources.Status != nil || crd.Spec.Names.Kind == "ReferenceGrant"
				}) {
					kinds = append(kinds, crd.Spec.Names.Kind)
				}
			}
			if annotations[group+"/bundle-version"] != m.Version || annotations[group+"/channel"] != channel {
				t.Errorf("%s is of bundle %s, channel %s; want %s, %s", name,
					annotations[group+"/bundle-version"], annotations[group+"/channel"], m.Version, channel)
			}
		}
		if slices.Sort(kinds); !slices.Equal(kinds, gatewayKinds) {
			t.Errorf("the %s channel serves %v as v1 with a status, want %v", channel, kinds, gatewayKinds)
		}
		if !guarded {
			t.Errorf("the %s channel lacks the policy that guards upgrades", channel)
		}
	}
}

func TestWritesClientTrafficPolicy(t *testing.T) {
	out := t.TempDir()
	if err := writeEnvoyGateway("../..", out); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(out, "clienttrafficpolicies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensions.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		t.Fatal(err)
	}
	if crd.Name != "clienttrafficpolicies.gateway.envoyproxy.io" || crd.Spec.Versions[0].Name != "v1alpha1" {
		t.Errorf("it defines %s %s", crd.Name, crd.Spec.Versions[0].Name)
	}
	target := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"].Properties["targetRef"]
	if got := target.Properties["namespace"]; got.Type != "string" || slices.Contains(target.Required, "namespace") || target.Properties["sectionName"].Type != "string" {
		t.Errorf("targetRef is %+v; want it to take a namespace", target)
	}
}

// What is read without an API server is of the version that API servers get.
func TestSchemasAreOfTheModule(t *testing.T) {
	const kept = "../../ingress/file/schema/gateway-api.json"
	fresh := filepath.Join(t.TempDir(), "schema.json")
	if err := writeSchemas("../..", fresh); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(fresh)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the module says; run make crds, and commit it", kept)
	}
}
