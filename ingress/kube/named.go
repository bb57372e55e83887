package kube

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxNamed bounds the objects that are followed one by one: each is a request
// that stays open.
const maxNamed = 1000

// named follows single objects, as long as they are referred to.
type named struct {
	*follower
	all map[key]*namedOne
	// ending are those that were let go, and may not have said so yet.
	ending map[key]<-chan struct{}
	wg     sync.WaitGroup
	// full says that there were more than maxNamed.
	full bool
}

type namedOne struct {
	state *kindState
	stop  context.CancelFunc
	done  chan struct{} // closed once it is gone from the inbox's point of view
}

// set makes want what is followed. What is not any more is gone from the inbox's
// point of view.
func (n *named) set(ctx context.Context, want map[key]bool) {
	for k, done := range n.ending {
		select {
		case <-done:
			delete(n.ending, k)
		default:
		}
	}
	for k, one := range n.all {
		if !want[k] {
			one.stop()
			n.ending[k] = one.done
			delete(n.all, k)
		}
	}
	full := len(want) >= maxNamed // the rest has been left out
	for k := range want {
		if n.all[k] != nil {
			continue
		}
		n.start(ctx, k)
	}
	if full && !n.full {
		n.log.Error("more Secrets and ConfigMaps are referred to than are followed one by one; the rest counts as missing. Give Secrets the type kubernetes.io/tls",
			"limit", maxNamed)
	}
	n.full = full
}

func (n *named) start(ctx context.Context, k key) {
	ctx, stop := context.WithCancel(ctx)
	field := fields.OneTermEqualSelector("metadata.name", k.Name).String()
	kd := &kind{name: k.kind, state: newKindState(k.String())}
	if k.kind == "Secret" {
		kd.example, kd.convert = &corev1.Secret{}, trimmed[*corev1.Secret]
		kd.from = typed(n.api, n.api.core, "secrets", k.Namespace, field, func() *corev1.SecretList { return &corev1.SecretList{} })
	} else {
		kd.example, kd.convert = &corev1.ConfigMap{}, trimmed[*corev1.ConfigMap]
		kd.from = typed(n.api, n.api.core, "configmaps", k.Namespace, field, func() *corev1.ConfigMapList { return &corev1.ConfigMapList{} })
	}
	one := &namedOne{kd.state, stop, make(chan struct{})}
	before := n.ending[k]
	delete(n.ending, k)
	n.all[k] = one
	n.wg.Go(func() {
		defer close(one.done)
		if before != nil {
			<-before // or its end would be taken for the end of what is there again
		}
		n.follow(ctx, kd)
		n.inbox.put(k, nil)
	})
}

// settled waits until what is followed has been seen once, or ctx ends.
func (n *named) settled(ctx context.Context) {
	for _, one := range n.all {
		select {
		case <-one.state.settled:
		case <-ctx.Done():
			return
		}
	}
}

// references are the Secrets and ConfigMaps that an object refers to.
func references(o object) (refs []key) {
	add := func(kind string, namespace, name string) {
		if (kind == "Secret" || kind == "ConfigMap") && name != "" {
			refs = append(refs, key{kind, types.NamespacedName{Namespace: namespace, Name: name}})
		}
	}
	secret := func(r gatewayv1.SecretObjectReference) {
		kind, namespace := "Secret", o.GetNamespace()
		if r.Group != nil && *r.Group != "" {
			return
		}
		if r.Kind != nil {
			kind = string(*r.Kind)
		}
		if r.Namespace != nil {
			namespace = string(*r.Namespace)
		}
		add(kind, namespace, string(r.Name))
	}
	listener := func(tls *gatewayv1.ListenerTLSConfig) {
		if tls != nil {
			for _, r := range tls.CertificateRefs {
				secret(r)
			}
		}
	}
	clients := func(c gatewayv1.TLSConfig) {
		if c.Validation == nil {
			return
		}
		for _, r := range c.Validation.CACertificateRefs {
			namespace := o.GetNamespace()
			if r.Namespace != nil {
				namespace = string(*r.Namespace)
			}
			if r.Group == "" {
				add(string(r.Kind), namespace, string(r.Name))
			}
		}
	}
	switch o := o.(type) {
	case *gatewayv1.Gateway:
		for _, l := range o.Spec.Listeners {
			listener(l.TLS)
		}
		if t := o.Spec.TLS; t != nil {
			if t.Backend != nil && t.Backend.ClientCertificateRef != nil {
				secret(*t.Backend.ClientCertificateRef)
			}
			if t.Frontend != nil {
				clients(t.Frontend.Default)
				for _, p := range t.Frontend.PerPort {
					clients(p.TLS)
				}
			}
		}
	case *gatewayv1.ListenerSet:
		for _, l := range o.Spec.Listeners {
			listener(l.TLS)
		}
	case *gatewayv1.BackendTLSPolicy:
		for _, r := range o.Spec.Validation.CACertificateRefs {
			if r.Group == "" {
				add(string(r.Kind), o.Namespace, string(r.Name))
			}
		}
	}
	return refs
}
