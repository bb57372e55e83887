package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// The module of the real build, and what an API server will read.
func TestWritesWhatAditReads(t *testing.T) {
	out := filepath.Join(t.TempDir(), "crds")
	if err := run("../..", out); err != nil {
		t.Fatal(err)
	}
	for name, file := range wanted {
		data, err := os.ReadFile(filepath.Join(out, file))
		if err != nil {
			t.Fatal(err)
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.UnmarshalStrict(data, &crd); err != nil {
			t.Fatalf("%s is no CustomResourceDefinition: %v", file, err)
		}
		if crd.Name != name {
			t.Errorf("%s defines %s, want %s", file, crd.Name, name)
		}
		served := false
		for _, v := range crd.Spec.Versions {
			served = served || v.Name == "v1" && v.Served && v.Subresources != nil && v.Subresources.Status != nil
		}
		if !served {
			t.Errorf("%s serves no v1 with a status, which the agent reads and writes", name)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(out, "*.yaml")); len(files) != len(wanted) {
		t.Errorf("%d files written, want %d: apply -f takes them all", len(files), len(wanted))
	}
}

func TestRefusesAStreamWithout(t *testing.T) {
	const (
		peer  = "kind: CustomResourceDefinition\nmetadata: {name: peerauthentications.security.istio.io}\n"
		authz = "kind: CustomResourceDefinition\nmetadata: {name: authorizationpolicies.security.istio.io}\n"
	)
	for _, c := range []struct{ name, stream, want string }{
		{"one is missing", peer, "no definition of authorizationpolicies.security.istio.io"},
		{"one is there twice", peer + "\n---\n" + authz + "\n---\n" + peer, "peerauthentications.security.istio.io is there twice"},
		{"not YAML", "kind: [\n", "yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := pick([]byte(c.stream))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that says %q", err, c.want)
			}
		})
	}
}
