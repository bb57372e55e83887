package cakube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

const (
	// RotateAnnotation on the Secret asks for the next root to be made now. It
	// is removed once that has happened.
	RotateAnnotation = "adit-mesh.github.io/rotate-root"

	// rootsKey is the Secret's, bundleKey the ConfigMap's.
	rootsKey  = "roots.json"
	bundleKey = "root-cert.pem"

	// checkEvery is how often Secret and ConfigMap, or the given issuer, are
	// read without an event.
	checkEvery = time.Minute
	// rootsBelieved is how long roots are signed with that could not be read
	// again. It is shorter than what package ca keeps a retired root for.
	rootsBelieved = 5 * time.Minute
	// After an error the pause doubles between these.
	retryMin, retryMax = 500 * time.Millisecond, 15 * time.Second
	// maxSteps bounds what one reconciliation does; two replicas that compete
	// each lose some of theirs.
	maxSteps = 16
	// republishEvery is between two changes of the ConfigMap by one replica.
	// While a given issuer reaches one replica before the other they disagree
	// about it, and must not fight at full speed.
	republishEvery = 5 * time.Second
)

// keep reconciles at every event, at the time of the next step, and at
// intervals, until ctx ends.
func (b *Backend) keep(ctx context.Context) {
	var pause time.Duration
	for {
		again, err := b.reconcile(ctx)
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		news := err != nil && (b.err == nil || b.err.Error() != err.Error())
		b.err = err
		b.mu.Unlock()

		wait := checkEvery
		if err != nil {
			pause = min(max(2*pause, retryMin), retryMax)
			wait = time.Duration(float64(pause) * (0.8 + 0.4*rand.Float64()))
			if news {
				b.log.Error("roots and trust bundle are not in order", "error", err)
			}
		} else {
			pause = 0
			if !again.IsZero() {
				wait = max(min(wait, time.Until(again)), 10*time.Millisecond)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-b.changed:
			timer.Stop()
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// reconcile brings roots and bundle one step after the other to where they
// should be, and returns when there is more to do. Everything it decides by is
// read now.
func (b *Backend) reconcile(ctx context.Context) (again time.Time, err error) {
	step := b.stepKept
	if b.cfg.IssuerDir != "" {
		step = b.stepGiven
	}
	for range maxSteps {
		more, again, err := step(ctx)
		switch {
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
			// Another replica was quicker; what it wrote is read next.
			select {
			case <-time.After(rand.N(50 * time.Millisecond)):
			case <-ctx.Done():
				return time.Time{}, ctx.Err()
			}
		case err != nil || !more:
			return again, err
		}
	}
	return time.Time{}, errors.New("other writers of the Secret or the ConfigMap were quicker every time; trying again")
}

// stepKept does one thing that must be done to Secret or ConfigMap. If it did,
// there may be more.
func (b *Backend) stepKept(ctx context.Context) (more bool, again time.Time, err error) {
	secret, set, err := b.readRoots(ctx)
	if err != nil {
		return false, time.Time{}, err
	}
	authority := set.Authority(b.cfg.Policy.MaxTTL)
	b.adopt(authority, set)
	current, err := b.readBundle(ctx)
	if err != nil {
		return false, time.Time{}, err
	}

	_, rotate := secret.Annotations[RotateAnnotation]
	published, _ := identity.ParseRoots([]byte(current.Data[bundleKey])) // damaged is not published
	next, what, again, err := set.Step(b.cfg.Policy, published, rotate)
	if err != nil {
		return false, time.Time{}, err
	}
	if next != set || rotate {
		if what == "" {
			what = "a new root was asked for and is on its way already"
		}
		return true, time.Time{}, b.writeRoots(ctx, secret, next, what)
	}
	more, err = b.publish(ctx, current, authority)
	return more, again, err
}

// stepGiven publishes the roots of a given issuer and then signs with it.
func (b *Backend) stepGiven(ctx context.Context) (more bool, again time.Time, err error) {
	a, err := ca.LoadGiven(b.cfg.IssuerDir, b.cfg.Policy.MaxTTL)
	if err != nil {
		return false, time.Time{}, err
	}
	current, err := b.readBundle(ctx)
	if err != nil {
		return false, time.Time{}, err
	}
	// The new files reach one replica before the other. Until they agree
	// about the bundle they must not fight at full speed.
	if next := b.republish; current.Data[bundleKey] != bundleText(a) && time.Now().Before(next) {
		return false, next, nil
	}
	more, err = b.publish(ctx, current, a)
	switch {
	case more:
		b.republish = time.Now().Add(republishEvery)
	case err == nil:
		b.adopt(a, nil)
	}
	return more, time.Time{}, err
}

// readRoots reads the Secret, or makes it. A Secret whose content cannot be
// read is left alone, and so is everything else until somebody has put it right.
func (b *Backend) readRoots(ctx context.Context) (*corev1.Secret, *ca.RootSet, error) {
	secret := new(corev1.Secret)
	err := b.core.get(ctx, "secrets", b.cfg.Namespace, b.cfg.Secret, secret)
	if apierrors.IsNotFound(err) {
		return b.createRoots(ctx)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the roots from Secret %s/%s: %w", b.cfg.Namespace, b.cfg.Secret, err)
	}
	data, ok := secret.Data[rootsKey]
	if !ok {
		return nil, nil, fmt.Errorf("the Secret %s/%s has no key %s; it is left as it is: restore it, or delete it to have new roots made",
			b.cfg.Namespace, b.cfg.Secret, rootsKey)
	}
	set, err := ca.ParseRootSet(b.cfg.TrustDomain, data)
	if err != nil {
		return nil, nil, fmt.Errorf("the Secret %s/%s cannot be used and is left as it is; restore it from a backup: %w",
			b.cfg.Namespace, b.cfg.Secret, err)
	}
	return secret, set, nil
}

// createRoots makes the Secret, out of the roots in memory if there are any:
// agents trust those. Create fails for all but one of the replicas.
func (b *Backend) createRoots(ctx context.Context) (*corev1.Secret, *ca.RootSet, error) {
	b.mu.Lock()
	set := b.roots
	b.mu.Unlock()
	what := "the Secret with the roots is gone; it is made again from memory"
	if set == nil {
		var err error
		if set, err = ca.NewRootSet(b.cfg.TrustDomain, b.cfg.Policy); err != nil {
			return nil, nil, err
		}
		what = "made the first root"
	}
	data, err := set.Encode()
	if err != nil {
		return nil, nil, err
	}
	secret := new(corev1.Secret)
	err = b.core.create(ctx, "secrets", b.cfg.Namespace, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: b.cfg.Secret, Namespace: b.cfg.Namespace, Labels: labels()},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{rootsKey: data},
	}, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("create the Secret %s/%s: %w", b.cfg.Namespace, b.cfg.Secret, err)
	}
	b.log.Info(what, "secret", b.cfg.Secret, "trust_domain", b.cfg.TrustDomain.Name())
	return secret, set, nil
}

// writeRoots replaces the Secret's roots if it is still the one that was read.
func (b *Backend) writeRoots(ctx context.Context, read *corev1.Secret, set *ca.RootSet, what string) error {
	data, err := set.Encode()
	if err != nil {
		return err
	}
	secret := read.DeepCopy()
	secret.Data[rootsKey] = data
	delete(secret.Annotations, RotateAnnotation)
	if err := b.core.update(ctx, "secrets", b.cfg.Namespace, b.cfg.Secret, secret, new(corev1.Secret)); err != nil {
		return fmt.Errorf("write the roots to Secret %s/%s: %w", b.cfg.Namespace, b.cfg.Secret, err)
	}
	b.log.Info(what, "secret", b.cfg.Secret)
	return nil
}

// readBundle reads the ConfigMap; one without a resourceVersion is not there.
func (b *Backend) readBundle(ctx context.Context) (*corev1.ConfigMap, error) {
	cm := new(corev1.ConfigMap)
	err := b.core.get(ctx, "configmaps", b.cfg.Namespace, b.cfg.ConfigMap, cm)
	if apierrors.IsNotFound(err) {
		return new(corev1.ConfigMap), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the trust bundle from ConfigMap %s/%s: %w", b.cfg.Namespace, b.cfg.ConfigMap, err)
	}
	return cm, nil
}

// publish brings the ConfigMap to a's roots, and reports whether it had to.
func (b *Backend) publish(ctx context.Context, current *corev1.ConfigMap, a *ca.Authority) (wrote bool, err error) {
	want := bundleText(a)
	if current.Data[bundleKey] == want {
		b.mu.Lock()
		b.bundled = true
		b.mu.Unlock()
		return false, nil
	}
	if current.ResourceVersion == "" {
		err = b.core.create(ctx, "configmaps", b.cfg.Namespace, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: b.cfg.ConfigMap, Namespace: b.cfg.Namespace, Labels: labels()},
			Data:       map[string]string{bundleKey: want},
		}, new(corev1.ConfigMap))
	} else {
		cm := current.DeepCopy()
		if cm.Data == nil {
			cm.Data = make(map[string]string)
		}
		cm.Data[bundleKey] = want
		err = b.core.update(ctx, "configmaps", b.cfg.Namespace, b.cfg.ConfigMap, cm, new(corev1.ConfigMap))
	}
	if err != nil {
		return false, fmt.Errorf("publish the trust bundle in ConfigMap %s/%s: %w", b.cfg.Namespace, b.cfg.ConfigMap, err)
	}
	b.log.Info("published the trust bundle", "config_map", b.cfg.ConfigMap, "roots", len(a.Roots))
	return true, nil
}

func bundleText(a *ca.Authority) string { return string(identity.EncodeCertificates(a.Roots)) }

func labels() map[string]string {
	return map[string]string{"app.kubernetes.io/name": "adit-ca", "app.kubernetes.io/part-of": "adit"}
}
