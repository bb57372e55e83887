package cakube

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unique"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/caserver"
)

// runningPods selects the pods that have a node and have not ended for good.
const runningPods = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

// Authorize implements [caserver.Authorizer]: the caller is a node agent, and a
// pod of that service account runs on its node; or it is a workload that may ask
// for itself, and does. A pod that is not known yet is looked for at the API
// server before it is denied.
func (b *Backend) Authorize(ctx context.Context, caller caserver.Caller, id spiffeid.ID) error {
	account := caller.Namespace + "/" + caller.ServiceAccount
	agent := slices.Contains(b.cfg.Agents, account)
	if !agent && !slices.Contains(b.cfg.Workloads, account) {
		return caserver.Refuse(caserver.ReasonCaller, "service account %s is no node agent, nor asks for itself; agents are: %s; for themselves may ask: %s",
			account, strings.Join(b.cfg.Agents, ", "), strings.Join(b.cfg.Workloads, ", "))
	}
	if caller.Node == "" {
		return caserver.Refuse(caserver.ReasonToken, "the token of %s is bound to no node", caller)
	}
	namespace, name, ok := identity.ParseWorkloadID(id)
	if !ok {
		return caserver.Refuse(caserver.ReasonRequest, "%s is not the identity of a service account", id)
	}
	if !agent && (namespace != caller.Namespace || name != caller.ServiceAccount) {
		return caserver.Refuse(caserver.ReasonIdentity, "service account %s may have its own identity only, not %s", account, id)
	}
	return b.runs(ctx, caller.Node, namespace, name)
}

// runs returns nil if a pod of a service account runs on a node.
func (b *Backend) runs(ctx context.Context, node, namespace, account string) error {
	if b.pods.has(node, namespace, account) {
		return nil
	}
	// Names come out of a SPIFFE ID, whose characters a selector does not
	// mistake for its own.
	var found corev1.PodList
	err := b.core.list(ctx, "pods", namespace,
		fmt.Sprintf("spec.nodeName=%s,spec.serviceAccountName=%s,status.phase!=Succeeded,status.phase!=Failed", node, account),
		1, &found)
	switch {
	case err != nil:
		return fmt.Errorf("ask the API server for pods of %s/%s on node %s: %w", namespace, account, node, err)
	case len(found.Items) == 0:
		return caserver.Refuse(caserver.ReasonIdentity, "no pod of service account %s/%s runs on node %s", namespace, account, node)
	}
	return nil
}

// podIndex counts the running pods by node and service account. It implements
// [cache.ReflectorStore], so that nothing else of a pod is kept.
type podIndex struct {
	synced chan struct{} // closed at the first list

	mu     sync.RWMutex // guards the fields below
	pods   map[types.UID]podKey
	counts map[podKey]int
	once   sync.Once
}

// podKey is made of names that many pods share.
type podKey struct{ node, namespace, account unique.Handle[string] }

func newPodIndex() *podIndex {
	return &podIndex{synced: make(chan struct{}), pods: make(map[types.UID]podKey), counts: make(map[podKey]int)}
}

func (x *podIndex) has(node, namespace, account string) bool {
	key := podKey{unique.Make(node), unique.Make(namespace), unique.Make(account)}
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.counts[key] > 0
}

func (x *podIndex) Add(obj any) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.putLocked(obj)
	return nil
}

func (x *podIndex) Update(obj any) error { return x.Add(obj) }

func (x *podIndex) Delete(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("a %T among pods", obj)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dropLocked(pod.UID)
	return nil
}

func (x *podIndex) Replace(list []any, _ string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	clear(x.pods)
	clear(x.counts)
	for _, obj := range list {
		x.putLocked(obj)
	}
	x.once.Do(func() { close(x.synced) })
	return nil
}

func (x *podIndex) Resync() error { return nil }

func (x *podIndex) putLocked(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	x.dropLocked(pod.UID)
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return
	}
	// Admission gives every pod a service account but those that mirror a file of
	// kubelet's. A kubelet may make such in any namespace: were they taken for the
	// default account's, a node could be default in all of them.
	account := pod.Spec.ServiceAccountName
	if account == "" || pod.Annotations[corev1.MirrorPodAnnotationKey] != "" {
		return
	}
	key := podKey{unique.Make(pod.Spec.NodeName), unique.Make(pod.Namespace), unique.Make(account)}
	x.pods[types.UID(strings.Clone(string(pod.UID)))] = key
	x.counts[key]++
}

func (x *podIndex) dropLocked(uid types.UID) {
	key, ok := x.pods[uid]
	if !ok {
		return
	}
	delete(x.pods, uid)
	if x.counts[key]--; x.counts[key] == 0 {
		delete(x.counts, key)
	}
}
