package kube

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"
)

// uninstall is whether the DaemonSet that this agent's pod is of is gone, or on
// its way.
type uninstall struct {
	gone  atomic.Bool
	state *kindState // of the watch
}

// Uninstalling reports whether this agent is being removed from the cluster,
// rather than restarted: its DaemonSet is gone and has not left it to another, or
// its namespace is on its way. It is followed from the start, since the right to ask may be taken away
// before the agent is stopped. Where that cannot be told it is false, which
// leaves the pods captured.
func (s *Source) Uninstalling() bool {
	if s.uninstall.gone.Load() {
		// Somebody who deletes the DaemonSet and not its pods, with
		// --cascade=orphan, is about to make another for them. From then on this
		// pod is nobody's, and its end is no removal either.
		if owner, ok := s.selfOwner(); !ok || owner.kind == "DaemonSet" {
			return true
		}
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

// AskUninstalling is Uninstalling at the moment at which the agent is stopped,
// when there is no second chance: while a watch that it rests on is being
// renewed, it asks the API server, once and for as long as ctx lets it. Two
// seconds are plenty.
//
// An API server that is away or refuses has not said that the agent is removed,
// and the answer is false: a restart that was taken for a removal would let go of
// pods that the mesh is to protect. So an uninstall that takes the agent's rights
// away while its watch is being renewed leaves the rules in the pods behind.
func (s *Source) AskUninstalling(ctx context.Context) bool {
	if s.Uninstalling() {
		return true
	}
	if s.cfg.Self.Name == "" || s.followsUninstall() {
		return false
	}
	removed, err := s.askUninstalling(ctx)
	if err != nil {
		s.log.Warn("cannot tell a removal from a restart, so the pods stay captured; if adit is removed, restart this node or its pods", "error", err)
	}
	return removed
}

// followsUninstall reports whether Uninstalling answers from watches that stand.
func (s *Source) followsUninstall() bool {
	select {
	case <-s.synced:
	default:
		return false
	}
	return s.uninstall.state.get().Connected &&
		slices.ContainsFunc(s.Kinds(), func(k KindStatus) bool { return k.Name == "namespaces" && k.Connected })
}

func (s *Source) askUninstalling(ctx context.Context) (bool, error) {
	owner, ok := s.selfOwner()
	if !ok {
		p, err := s.getPod(ctx, s.cfg.Self)
		if err != nil {
			return false, err
		}
		if p.local == nil {
			return false, fmt.Errorf("pod %s is of node %q, and this is %q", s.cfg.Self, p.node.Value(), s.cfg.NodeName)
		}
		owner = p.local.owner
	}
	if owner.kind == "DaemonSet" {
		// A list of one: the role allows no get, which it needs for nothing else.
		list, err := s.api.dynamic.Resource(daemonSets).Namespace(s.cfg.Self.Namespace).
			List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + owner.name})
		if err != nil {
			return false, fmt.Errorf("DaemonSet %s/%s is not known, and the API server cannot be asked: %w", s.cfg.Self.Namespace, owner.name, err)
		}
		if len(list.Items) == 0 || list.Items[0].GetDeletionTimestamp() != nil {
			return true, nil
		}
	}
	// Of a namespace that is deleted, the pods may go before their DaemonSet.
	n, err := s.getNamespace(ctx, s.cfg.Self.Namespace, false)
	return err == nil && (n.name == "" || n.terminating), err
}

// followUninstall follows the DaemonSet of this agent's pod. A DaemonSet that
// was deleted and made again, as by kubectl replace, is there.
func (s *Source) followUninstall(ctx context.Context) {
	name := s.daemonSet(ctx)
	if name == "" {
		return
	}
	s.follow(ctx, &kind{
		state:   s.uninstall.state,
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
