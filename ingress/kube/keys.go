package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	keysSecret = "adit-ingress-keys"
	keysEntry  = "key"
	keysSize   = 32
)

// Keys returns 32 random bytes that all pods of the namespace share, so that
// what one of them has sealed another can open. They are in the Secret
// adit-ingress-keys; whoever finds none makes it. It asks until it has an answer
// or ctx ends; a Secret that is not as it should be is not replaced.
func (s *Source) Keys(ctx context.Context) ([]byte, error) {
	var err error
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		var keys []byte
		var final bool
		keys, final, err = s.keys(attempt)
		cancel()
		if err == nil {
			return keys, nil
		}
		if final {
			return nil, err
		}
		if !sleep(ctx, pause) {
			return nil, err
		}
	}
}

func (s *Source) keys(ctx context.Context) (keys []byte, final bool, err error) {
	where := s.cfg.Namespace + "/" + keysSecret
	for range 2 {
		var there corev1.Secret
		err := s.api.core.Get().Namespace(s.cfg.Namespace).Resource("secrets").Name(keysSecret).Do(ctx).Into(&there)
		if err == nil {
			if keys := there.Data[keysEntry]; len(keys) == keysSize {
				return keys, true, nil
			}
			return nil, true, fmt.Errorf("secret %s does not have %d bytes under %q; delete it, and restart the pods of the edge", where, keysSize, keysEntry)
		}
		if !apierrors.IsNotFound(err) {
			return nil, apierrors.IsForbidden(err), fmt.Errorf("secret %s: %w", where, err)
		}
		fresh := &corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{keysEntry: make([]byte, keysSize)}}
		fresh.Name, fresh.Namespace = keysSecret, s.cfg.Namespace
		fresh.Labels = map[string]string{labelManaged: managedBy, "app.kubernetes.io/part-of": "adit"}
		if _, err := rand.Read(fresh.Data[keysEntry]); err != nil {
			return nil, true, err
		}
		err = s.api.core.Post().Namespace(s.cfg.Namespace).Resource("secrets").Body(fresh).Do(ctx).Error()
		switch {
		case err == nil:
			return fresh.Data[keysEntry], true, nil
		case !apierrors.IsAlreadyExists(err): // otherwise another pod was faster
			return nil, apierrors.IsForbidden(err), fmt.Errorf("make secret %s: %w", where, err)
		}
	}
	return nil, false, fmt.Errorf("secret %s comes and goes", where)
}
