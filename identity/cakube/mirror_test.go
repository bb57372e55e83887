package cakube

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A kubelet may create mirror pods in any namespace on its own node, without a
// service account. They must not make the node entitled to that namespace's
// default identity.
func TestMirrorPodGivesNoIdentity(t *testing.T) {
	x := newPodIndex()
	_ = x.Add(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "payments", Name: "x-stolen", UID: "u1",
			Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "0123"}},
		Spec: corev1.PodSpec{NodeName: "stolen"}, Status: corev1.PodStatus{Phase: corev1.PodRunning},
	})
	if x.has("stolen", "payments", "default") {
		t.Error("node stolen may have the identity payments/default by a mirror pod")
	}
}
