package kube

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// observePod takes what the watch says of a pod. One that Lookup has seen since
// is newer.
func (w *world) observePod(k key, uid string, now *pod) {
	if old := w.pods[k]; old != nil && old.looked && old.uid != uid && now.since <= old.since {
		return
	}
	w.setPod(k, now)
}

// forgetPod takes that the watch has lost a pod: the one with uid, or for ""
// whichever it knew by that name.
func (w *world) forgetPod(k key, uid string) {
	old := w.pods[k]
	switch {
	case old == nil, uid != "" && old.uid != uid:
		return
	case uid == "" && old.looked:
		return // the list is older; confirm asks again
	}
	w.setPod(k, nil)
}

// is reports whether p is the pod that a reference names. kubelet has a UID of
// its own for pods that it made from a file.
func (p *pod) is(uid string) bool {
	return uid == "" || uid == p.uid || p.local != nil && p.local.staticUID == uid
}

// Lookup decides about one pod now: from what is known, else by asking the API
// server within ctx. ref.UID may be "". An error means that nothing is known,
// so that the pod must not be let start uncaptured.
func (s *Source) Lookup(ctx context.Context, ref PodRef) (LocalPod, error) {
	l, known, ok := s.known(ref)
	if ok && (l.Enrol || !known.byLabel) {
		return l, nil
	}
	if !ok {
		p, err := s.getPod(ctx, ref)
		if err != nil {
			return LocalPod{}, err
		}
		if p.local == nil {
			return s.elsewhere(p), nil
		}
		if ended(p.phase) {
			return LocalPod{PodRef: p.ref(), Phase: string(p.phase), Reason: fmt.Sprintf("the pod has ended (%s)", p.phase)}, nil
		}
		s.world.change(func() { s.world.lookedUp(p) })
	}
	// That a namespace has no label is worth asking again: its label and the pod
	// came by different watches, and the label may have come first.
	n, err := s.getNamespace(ctx, ref.Namespace, ok)
	w := s.world
	w.change(func() {
		p := w.pods[key{ref.Namespace, ref.Name}]
		_, cached := w.namespaces[ref.Namespace]
		switch {
		case p == nil || !p.is(ref.UID):
			l, err = LocalPod{}, fmt.Errorf("pod %s is gone", ref)
			return
		case err == nil && n.name != "":
			// Or the pod that is captured now would be released until the watch
			// has caught up.
			w.setNamespace(n.name, &n)
		case err != nil && !cached:
			return
		}
		l, err = w.localPod(p), nil
	})
	return l, err
}

// knowledge is on what a decision from memory rests.
type knowledge struct{ byLabel bool }

// known decides from memory, if ref is the pod that is remembered there.
func (s *Source) known(ref PodRef) (LocalPod, knowledge, bool) {
	select {
	case <-s.synced:
	default:
		return LocalPod{}, knowledge{}, false
	}
	if ref.UID == "" {
		return LocalPod{}, knowledge{}, false // it may be another of the same name
	}
	w := s.world
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pods[key{ref.Namespace, ref.Name}]
	if p == nil || p.local == nil || !p.is(ref.UID) {
		return LocalPod{}, knowledge{}, false
	}
	// Would it be captured if its namespace were labelled?
	would, _ := w.judge(p, modeAmbient, true, w.runtimes)
	return w.localPod(p), knowledge{byLabel: would}, true
}

func (s *Source) elsewhere(p *pod) LocalPod {
	return LocalPod{PodRef: p.ref(), Phase: string(p.phase), Reason: fmt.Sprintf("it is a pod of node %q, and this is %q", p.node.Value(), s.cfg.NodeName)}
}

// lookedUp takes a pod that was asked for.
func (w *world) lookedUp(p *pod) {
	if old := w.pods[p.key]; old != nil && old.uid == p.uid {
		return // the watch was quicker
	}
	p.looked = true
	w.setPod(p.key, p)
}

func (s *Source) getPod(ctx context.Context, ref PodRef) (*pod, error) {
	var p corev1.Pod
	err := s.api.core.Get().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).Do(ctx).Into(&p)
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("pod %s does not exist: %w", ref, err)
	case err != nil:
		return nil, fmt.Errorf("pod %s is not known, and the API server cannot be asked: %w", ref, err)
	}
	r := newPod(&p, p.Spec.NodeName == s.cfg.NodeName)
	if !r.is(ref.UID) {
		return nil, fmt.Errorf("pod %s with UID %s is gone; another has its name, with UID %s", ref, ref.UID, r.uid)
	}
	return r, nil
}

// getNamespace asks for a namespace; the zero namespace is one that is gone.
// With brief, there is an answer in memory for when there is no other soon.
func (s *Source) getNamespace(ctx context.Context, name string, brief bool) (namespace, error) {
	if brief {
		const soon = time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, soon)
		defer cancel()
	}
	var n corev1.Namespace
	err := s.api.core.Get().Resource("namespaces").Name(name).Do(ctx).Into(&n)
	switch {
	case apierrors.IsNotFound(err):
		return namespace{}, nil
	case err != nil:
		return namespace{}, fmt.Errorf("namespace %s is not known, and the API server cannot be asked: %w", name, err)
	}
	return *newNamespace(&n.ObjectMeta), nil
}

// SetAddresses makes the addresses of a pod known before its status has them.
// They hold until it does, or until the pod is gone. The pod must be known, as
// it is after Lookup. When SetAddresses returns, the store has them, once Synced.
func (s *Source) SetAddresses(ref PodRef, addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	w := s.world
	w.change(func() {
		old := w.pods[key{ref.Namespace, ref.Name}]
		if old == nil || !old.is(ref.UID) {
			s.log.Debug("addresses of a pod that is not known", "pod", ref.String(), "uid", ref.UID)
			return
		}
		now := *old
		now.addrs, now.reported = nil, true
		for _, a := range addrs {
			if a = a.Unmap().WithZone(""); a.IsValid() && !slices.Contains(now.addrs, a) {
				now.addrs = append(now.addrs, a)
			}
		}
		// A sandbox has just been made.
		now.since, now.noSandbox = max(now.since, time.Now().Unix()), false
		w.setPod(now.key, &now)
	})
	s.flush()
}

// confirm looks, now and then, whether what this agent knows of its pods is what
// the API server says: see confirmLooked and sayAgain.
func (s *Source) confirm(ctx context.Context) {
	const every = 15 * time.Second
	for sleep(ctx, every) {
		s.confirmLooked(ctx)
		s.sayAgain()
	}
}

// sayAgain puts annotations back that somebody else took off or changed: peers
// would connect in plaintext to pods that are captured.
func (s *Source) sayAgain() {
	var differ []annotationWrite
	w := s.world
	w.mu.Lock()
	for k := range w.localPods {
		p := w.pods[k]
		if state, told := w.captured[p.uid]; told && state == redirected && p.redirection != redirected && !p.looked {
			differ = append(differ, annotationWrite{key: k, uid: p.uid, state: "enabled"})
		}
	}
	w.mu.Unlock()
	for _, again := range differ {
		s.annotator.putMissing(again)
	}
}

// confirmLooked asks after pods that Lookup has brought in and that the watch does
// not show: one of them is wrong, and only the API server can tell.
func (s *Source) confirmLooked(ctx context.Context) {
	var refs []PodRef
	w := s.world
	w.mu.Lock()
	for k := range w.localPods {
		if p := w.pods[k]; p.looked {
			refs = append(refs, PodRef{p.namespace, p.name, p.uid})
		}
	}
	w.mu.Unlock()
	for _, ref := range refs {
		var p corev1.Pod
		err := s.api.core.Get().Namespace(ref.Namespace).Resource("pods").Name(ref.Name).Do(ctx).Into(&p)
		if apierrors.IsNotFound(err) || err == nil && string(p.UID) != ref.UID {
			w.change(func() { w.forgetPod(key{ref.Namespace, ref.Name}, ref.UID) })
		}
	}
}
