package kube

import (
	"context"
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A reflector starts a list in a goroutine that nobody waits for: whichever of
// the list and the end comes first, nothing is asked after the end.
func TestNoListAfterTheEnd(t *testing.T) {
	for range 200 {
		ended := false
		n := &noted{state: newKindState("things", true), listWatch: listWatch{
			list: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				if ended { // the race detector sees it too
					t.Error("a list after the end")
				}
				return &metav1.PartialObjectMetadataList{}, nil
			},
		}}
		done := make(chan error)
		go func() {
			_, err := n.ListWithContext(t.Context(), metav1.ListOptions{})
			done <- err
		}()
		n.end()
		ended = true
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
