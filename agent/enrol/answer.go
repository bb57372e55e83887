package enrol

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/agent/enrol/ask"
	"github.com/adit-mesh/adit/agent/kube"
)

const (
	// lookupTimeout bounds asking the API server about a pod.
	lookupTimeout = 5 * time.Second
	// goneTimeout bounds how long a pod that ends takes leave of its peers.
	goneTimeout = 2 * time.Second
	// checkTimeout bounds the answer to CHECK.
	checkTimeout = 2 * time.Second
)

// answer does what the CNI plugin asks, and returns why not. netns, which may be
// nil, stays the caller's.
func (e *Enrol) answer(ctx context.Context, r ask.Request, netns *os.File) error {
	if r.Command == ask.Status || e.excluded(r.Namespace) {
		return nil
	}
	switch r.Command {
	case ask.Add:
		return e.add(ctx, r, netns)
	case ask.Del:
		e.del(ctx, r, netns)
		return nil
	default:
		return e.check(ctx, r, netns)
	}
}

// add returns nil when the pod may start: it is captured, or is not to be.
func (e *Enrol) add(ctx context.Context, r ask.Request, netns *os.File) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, e.AddTimeout)
	defer cancel()
	ref := kube.PodRef{Namespace: r.Namespace, Name: r.Name, UID: r.UID}
	pod, err := e.lookup(ctx, ref)
	log := e.Logger.With("pod", ref.String(), "uid", pod.UID, "container", r.ContainerID)
	switch {
	case err != nil:
		log.Warn("pod does not start: it is not known whether it is to be captured", "error", err)
		return err
	case !pod.Enrol:
		log.Info("pod starts uncaptured", "reason", pod.Reason)
		return nil
	}
	s, verdict, err := e.admit(pod, r, netns)
	if err == nil {
		err = e.await(ctx, s, verdict)
	}
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case errors.Is(err, errUnwanted):
		log.Info("pod starts uncaptured", "reason", err, "took", took)
		return nil
	case err != nil:
		log.Warn("pod does not start: it is not captured", "reason", pod.Reason, "error", err, "took", took)
		return err
	}
	log.Info("pod starts captured", "reason", pod.Reason, "netns", s.inode, "took", took)
	return nil
}

// lookup decides about a pod.
func (e *Enrol) lookup(ctx context.Context, ref kube.PodRef) (kube.LocalPod, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	pod, err := e.Kube.Lookup(ctx, ref)
	switch {
	case err != nil:
		return kube.LocalPod{}, fmt.Errorf("it is not known whether pod %s is to be captured: %w", ref, err)
	case ref.UID != "" && pod.UID != ref.UID:
		return kube.LocalPod{}, fmt.Errorf("pod %s with uid %s has been deleted: the one of this name now has uid %s", ref, ref.UID, pod.UID)
	}
	if pod.WorkloadUID == "" {
		// The runtime starts a pod that is none of this node's. Whatever is wrong,
		// it is not the label.
		return kube.LocalPod{}, fmt.Errorf("pod %s should not start here: %s; is the agent's --node-name that of its kubelet?", ref, pod.Reason)
	}
	return pod, nil
}

// admit makes a sandbox of what the runtime says, and puts it into the set.
func (e *Enrol) admit(pod kube.LocalPod, r ask.Request, netns *os.File) (*sandbox, *verdict, error) {
	inode, err := e.podNamespace(netns)
	if err != nil {
		return nil, nil, fmt.Errorf("pod %s: %w", pod.PodRef, err)
	}
	if len(r.Addresses) == 0 {
		return nil, nil, fmt.Errorf("pod %s has no address: the CNI plugins before adit-cni gave it none", pod.PodRef)
	}
	if err := verify(netns, r.Netns, r.Addresses); err != nil {
		return nil, nil, fmt.Errorf("pod %s: %w", pod.PodRef, err)
	}
	own, err := duplicate(netns, r.Netns)
	if err != nil {
		return nil, nil, err
	}
	// Before the pod is in the set: what is captured is to have addresses.
	e.Kube.SetAddresses(pod.PodRef, slices.Clone(r.Addresses))
	if len(pod.IPs) == 0 {
		pod.IPs = slices.Clone(r.Addresses)
	}
	s := newSandbox(pod, own, r.Netns, inode, sinceBoot())
	s.container = r.ContainerID
	var v *verdict
	e.change(func() (left []*sandbox) {
		delete(e.ended, inode)
		s, left = e.put(s)
		v = s.verdict
		return left
	})
	return s, v, nil
}

var errNoNetns = errors.New("the container runtime sent no network namespace")

// podNamespace is the inode number of a namespace that may be a pod's.
func (e *Enrol) podNamespace(netns *os.File) (uint64, error) {
	if netns == nil {
		return 0, errNoNetns
	}
	n, err := openNetns("of the container runtime", netns)
	if err != nil {
		return 0, err
	}
	defer n.Close()
	if e.scanner.nodeNamespaces()[n.Inode()] {
		return 0, errors.New("the container runtime sent the network namespace of the node, which is no pod's to be captured in")
	}
	return n.Inode(), nil
}

// await returns when the pod may start, or why it may not.
func (e *Enrol) await(ctx context.Context, s *sandbox, v *verdict) error {
	ctx, cancel := context.WithCancel(ctx)
	captured := make(chan error, 1)
	e.mu.Lock()
	uid := s.pod.WorkloadUID
	e.mu.Unlock()
	go func() { captured <- e.Enroller.Wait(ctx, uid, s.inode) }()
	select {
	case err := <-captured:
		defer cancel()
		if err == nil {
			err = e.awaitWorld(ctx, v)
		}
		switch cause := context.Cause(ctx); {
		case v.given(): // before its capture, or it is captured no more
			return v.err
		case err != nil && errors.Is(cause, errHungUp):
			return cause
		}
		return err
	case <-v.done:
		cancel()
		<-captured
		return v.err
	}
}

// awaitWorld returns when it is known what there is to connect to. A pod that
// starts before has every connection held up, and then reset.
func (e *Enrol) awaitWorld(ctx context.Context, v *verdict) error {
	select {
	case <-e.Kube.Synced():
		return nil
	case <-v.done:
		return v.err
	case <-ctx.Done():
		return errors.New("the agent has not read yet what there is in the cluster; does it reach the API server? adit status says what is missing")
	}
}

// del ends a sandbox that the runtime is about to tear down. One that is not the
// pod's any more, or never was, is none of the pod's business.
func (e *Enrol) del(ctx context.Context, r ask.Request, netns *os.File) {
	var inode uint64
	if netns != nil {
		if info, err := netns.Stat(); err == nil {
			inode = info.Sys().(*syscall.Stat_t).Ino
		}
	}
	e.mu.Lock()
	s := e.find(r, inode)
	if s == nil {
		e.mu.Unlock()
		return
	}
	uid := s.pod.WorkloadUID
	e.ended[s.inode] = time.Now()
	s.verdict.give(errEnded)
	e.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	e.Enroller.Gone(ctx, uid, s.inode)
	e.change(func() []*sandbox { return e.drop(s, errEnded) })
	select { // should it go on after all
	case e.again <- struct{}{}:
	default:
	}
	e.Logger.Info("pod ends", "pod", r.Namespace+"/"+r.Name, "container", r.ContainerID, "netns", s.inode)
}

// find returns the sandbox that a request is about. e.mu is held.
func (e *Enrol) find(r ask.Request, inode uint64) *sandbox {
	for uid, s := range e.sandboxes {
		if r.UID != "" && r.UID != uid || s.pod.Namespace != r.Namespace || s.pod.Name != r.Name {
			continue
		}
		if inode == s.inode || inode == 0 && r.ContainerID != "" && r.ContainerID == s.container {
			return s
		}
	}
	return nil
}

// check reports whether a pod that is to be captured is.
func (e *Enrol) check(ctx context.Context, r ask.Request, netns *os.File) error {
	pod, err := e.lookup(ctx, kube.PodRef{Namespace: r.Namespace, Name: r.Name, UID: r.UID})
	if err != nil || !pod.Enrol {
		return err
	}
	inode, err := e.podNamespace(netns)
	if err != nil {
		return err
	}
	e.mu.Lock()
	s := e.find(r, inode)
	e.mu.Unlock()
	if s == nil {
		return fmt.Errorf("pod %s is not captured in the network namespace that the container runtime has for it", pod.PodRef)
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return e.Enroller.Wait(ctx, pod.WorkloadUID, inode)
}
