package kube

import (
	"context"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
)

// uninstall is whether the DaemonSet that this agent's pod is of is gone, or on
// its way.
type uninstall struct{ gone atomic.Bool }

// Uninstalling reports whether this agent is being removed from the cluster,
// rather than restarted: its DaemonSet is gone, or its namespace is on its way.
// It is followed from the start, since the right to ask may be taken away
// before the agent is stopped. Where that cannot be told it is false, which
// leaves the pods captured.
func (s *Source) Uninstalling() bool {
	if s.uninstall.gone.Load() {
		return true
	}
	select {
	case <-s.synced:
	default:
		return false
	}
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.self.Namespace != "" && (w.namespaces[w.self.Namespace] == nil || w.namespaces[w.self.Namespace].terminating)
}

// followUninstall follows the DaemonSet of this agent's pod. A DaemonSet that
// was deleted and made again, as by kubectl replace, is there.
func (s *Source) followUninstall(ctx context.Context) {
	name := s.daemonSet(ctx)
	if name == "" {
		return
	}
	s.follow(ctx, &kind{
		state:   newKindState(nameOf(daemonSets), true),
		from:    untyped(s.api, daemonSets, s.cfg.Self.Namespace, "metadata.name="+name),
		into:    &s.uninstall,
		example: &unstructured.Unstructured{},
	})
}

// daemonSet waits for this agent's own pod, and returns the name of its
// DaemonSet. "" if there is none, or when ctx ends.
func (s *Source) daemonSet(ctx context.Context) string {
	if s.cfg.Self.Name == "" {
		return ""
	}
	changed, cancel := s.SubscribeLocal()
	defer cancel()
	for {
		if owner, ok := s.selfOwner(); ok {
			if owner.kind != "DaemonSet" {
				return ""
			}
			return owner.name
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ""
		}
	}
}

func (s *Source) selfOwner() (podOwner, bool) {
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[key{w.self.Namespace, w.self.Name}]
	if p == nil || p.local == nil {
		return podOwner{}, false
	}
	return p.local.owner, true
}

var _ cache.ReflectorStore = (*uninstall)(nil)

// Add implements cache.ReflectorStore.
func (u *uninstall) Add(obj any) error { return u.Update(obj) }

// Update implements cache.ReflectorStore.
func (u *uninstall) Update(obj any) error {
	d, ok := obj.(*unstructured.Unstructured)
	u.gone.Store(!ok || d.GetDeletionTimestamp() != nil)
	return nil
}

// Delete implements cache.ReflectorStore.
func (u *uninstall) Delete(any) error {
	u.gone.Store(true)
	return nil
}

// Replace implements cache.ReflectorStore.
func (u *uninstall) Replace(list []any, _ string) error {
	if len(list) == 0 {
		u.gone.Store(true)
		return nil
	}
	return u.Update(list[0])
}

// Resync implements cache.ReflectorStore.
func (u *uninstall) Resync() error { return nil }
