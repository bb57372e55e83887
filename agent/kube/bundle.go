package kube

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/adit-mesh/adit/identity"
)

// Bundle is a set of certificates in a ConfigMap that is followed.
type Bundle struct {
	namespace, name, key string
	certs                watched[[]*x509.Certificate]
}

// Bundle follows the certificates (PEM) under key in a ConfigMap. They are read
// while Run runs.
func (s *Source) Bundle(namespace, configMap, key string) *Bundle {
	b := &Bundle{namespace: namespace, name: configMap, key: key}
	s.bundles.add(b)
	return b
}

// Current are the certificates as last read, nil before the first. The slice
// must not be changed. A ConfigMap that is deleted or malformed changes
// nothing.
func (b *Bundle) Current() []*x509.Certificate { return b.certs.get() }

// Subscribe returns a channel that holds one value once Current has changed
// since the last receive. cancel ends the subscription; the channel is never
// closed.
func (b *Bundle) Subscribe() (changed <-chan struct{}, cancel func()) { return b.certs.subscribe() }

// bundles are those that are to be followed.
type bundles struct {
	mu    sync.Mutex // guards the fields below
	fresh []*Bundle  // not followed yet
	wake  chan struct{}
}

func (b *bundles) add(x *Bundle) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fresh = append(b.fresh, x)
	signal(b.wakeLocked())
}

func (b *bundles) wakeLocked() chan struct{} {
	if b.wake == nil {
		b.wake = make(chan struct{}, 1)
	}
	return b.wake
}

func (b *bundles) take() (fresh []*Bundle, more <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fresh, b.fresh = b.fresh, nil
	return fresh, b.wakeLocked()
}

func (b *bundles) run(ctx context.Context, s *Source) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		fresh, more := b.take()
		for _, x := range fresh {
			wg.Go(func() { s.followBundle(ctx, x) })
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Source) followBundle(ctx context.Context, b *Bundle) {
	s.follow(ctx, &kind{
		state:   newKindState("configmap "+b.namespace+"/"+b.name, true),
		from:    typed(s.api, s.api.core, "configmaps", b.namespace, "metadata.name="+b.name, func() *corev1.ConfigMapList { return &corev1.ConfigMapList{} }),
		into:    &bundleStore{b, s},
		example: &corev1.ConfigMap{},
	})
}

// bundleStore takes a ConfigMap from a reflector.
type bundleStore struct {
	*Bundle
	source *Source
}

var _ cache.ReflectorStore = (*bundleStore)(nil)

func (b *bundleStore) Add(obj any) error { return b.Update(obj) }

func (b *bundleStore) Update(obj any) error {
	m, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("%T is not a ConfigMap", obj)
	}
	certs, err := identity.ParseRoots([]byte(m.Data[b.key]))
	if err != nil {
		b.source.log.Error("the ConfigMap of the trust bundle is not usable; the roots that were known stay trusted",
			"configMap", b.namespace+"/"+b.name, "key", b.key, "error", err)
		return nil
	}
	b.certs.set(certs)
	return nil
}

func (b *bundleStore) Delete(any) error {
	b.source.log.Warn("the ConfigMap of the trust bundle is gone; the roots that were known stay trusted",
		"configMap", b.namespace+"/"+b.name)
	return nil
}

func (b *bundleStore) Replace(list []any, _ string) error {
	for _, obj := range list {
		if err := b.Update(obj); err != nil {
			return err
		}
	}
	return nil
}

func (b *bundleStore) Resync() error { return nil }
