package cakube

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// RequestRotation asks the replicas that share a Secret to make their next root
// now, by an annotation. The answer is asked for without the Secret's content,
// so that no key comes to whoever asks. It does not wait for the root.
func RequestRotation(ctx context.Context, cfg *rest.Config, namespace, secret string) error {
	core, err := newClient(cfg, corev1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{RotateAnnotation: time.Now().UTC().Format(time.RFC3339)},
	}})
	if err != nil {
		return err
	}
	err = core.Patch(types.MergePatchType).Namespace(namespace).Resource("secrets").Name(secret).
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").
		Body(patch).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no Secret %s/%s; does the CA run there, and with a root of its own?", namespace, secret)
	}
	if err != nil {
		return fmt.Errorf("annotate the Secret %s/%s: %w", namespace, secret, err)
	}
	return nil
}
