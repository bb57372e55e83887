package kube

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestOneNamespaceDoesNotStarveOthers(t *testing.T) {
	by := map[string][]key{"z": {{"ConfigMap", types.NamespacedName{Namespace: "z", Name: "ca"}}}}
	for i := range 3000 {
		by["a"] = append(by["a"], key{"ConfigMap", types.NamespacedName{Namespace: "a", Name: fmt.Sprint(i / 2)}})
	}
	small := by["z"][0]
	want := fairly(by, 1000)
	if len(want) != 1000 || !want[small] {
		t.Errorf("%d are followed, that of the small namespace among them: %v", len(want), want[small])
	}
	if want := fairly(by, 5000); len(want) != 1501 {
		t.Errorf("%d are followed of 1501", len(want))
	}
}
