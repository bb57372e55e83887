package enrol

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/adit-mesh/adit/agent/kube"
)

// begun is a context that has ended: what is called with it does not wait.
var begun = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// noAddress is why a pod is not looked for.
const noAddress = "it has no address yet"

// change changes the sandboxes by f, which returns those that it took from the
// map, brings the others to what Kubernetes says and tells the Enroller. f runs
// with e.mu held.
func (e *Enrol) change(f func() (left []*sandbox)) {
	e.publishing.Lock()
	defer e.publishing.Unlock()
	local := e.Kube.Local()
	e.mu.Lock()
	left := append(f(), e.decide(local)...)
	pods := e.pods()
	e.mu.Unlock()
	for _, s := range left {
		// Before the set goes without them. A pod that is merely not in it is
		// released, and its processes may still be there.
		e.Enroller.Gone(begun, s.pod.WorkloadUID, s.inode)
	}
	e.Enroller.Set(pods)
}

// decide brings the sandboxes to what Kubernetes says, and forgets those that
// are not to be captured. It returns those that another has taken the place of.
// e.mu is held.
func (e *Enrol) decide(local []kube.LocalPod) (left []*sandbox) {
	listed := make(map[string]*kube.LocalPod, len(local))
	for i := range local {
		if pod := &local[i]; pod.Enrol || listed[pod.UID] == nil { // should two claim one UID
			listed[pod.UID] = pod
		}
	}
	for uid, s := range e.sandboxes {
		pod := listed[uid]
		switch {
		case pod == nil && s.listed:
			s.verdict.give(errDeleted) // and remains until it is over
		case pod == nil:
		default:
			s.pod, s.listed = *pod, true
			if !pod.Enrol && !s.release {
				delete(e.sandboxes, uid)
				s.close(errUnwanted)
			}
		}
	}
	left = e.keepOnePerWorkload(listed)

	missingNow := make(map[string]missing)
	for uid, pod := range listed {
		if !pod.Enrol || e.sandboxes[uid] != nil {
			continue
		}
		why, known := e.missing[uid]
		if !known {
			why.since = time.Now()
		}
		if len(pod.IPs) == 0 {
			why.reason = noAddress
		} else if why.reason == noAddress {
			why.reason = ""
		}
		missingNow[uid] = why
	}
	e.missing = missingNow
	return left
}

// keepOnePerWorkload lets of several pods of one name only the latest be. Those
// before it have been deleted, by force if they still run. e.mu is held.
func (e *Enrol) keepOnePerWorkload(listed map[string]*kube.LocalPod) (left []*sandbox) {
	latest := make(map[string]*sandbox, len(e.sandboxes))
	for _, s := range e.sandboxes {
		other := latest[s.pod.WorkloadUID]
		if other == nil {
			latest[s.pod.WorkloadUID] = s
			continue
		}
		keep, drop := s, other
		if listed[other.pod.UID] != nil && listed[s.pod.UID] == nil ||
			(listed[other.pod.UID] != nil) == (listed[s.pod.UID] != nil) && other.born > s.born {
			keep, drop = other, s
		}
		latest[s.pod.WorkloadUID] = keep
		left = append(left, drop)
	}
	for _, s := range left {
		delete(e.sandboxes, s.pod.UID)
		s.close(errReplaced)
		e.Logger.Info("pod is left: another pod has its name", "pod", s.pod.String(), "uid", s.pod.UID)
	}
	return left
}

// pods are the set for the Enroller. e.mu is held.
func (e *Enrol) pods() []Pod {
	list := make([]Pod, 0, len(e.sandboxes))
	for _, s := range e.sandboxes {
		list = append(list, Pod{
			UID: s.pod.WorkloadUID, Ref: s.pod.PodRef, Identity: s.pod.Identity, Rules: e.Rules(&s.pod),
			IPs: s.pod.IPs, Open: s.open, Inode: s.inode, Netns: s.name, Release: !s.pod.Enrol,
		})
	}
	slices.SortFunc(list, func(a, b Pod) int { return cmp.Compare(a.UID, b.UID) })
	return list
}

// put makes s its pod's sandbox. If the pod has this very namespace already, what
// is there stays, and s is closed. e.mu is held.
func (e *Enrol) put(s *sandbox) (now *sandbox, left []*sandbox) {
	old := e.sandboxes[s.pod.UID]
	switch {
	case old == nil:
	case old.inode == s.inode: // a namespace that is held keeps its inode number to itself
		if old.verdict.given() {
			old.verdict = newVerdict() // the runtime adds it again
		}
		old.container = cmp.Or(s.container, old.container)
		old.release = s.release
		if !old.listed {
			old.pod = s.pod
		}
		_ = s.netns.Close()
		return old, nil
	default:
		old.close(errReplaced)
		left = []*sandbox{old}
	}
	e.sandboxes[s.pod.UID] = s
	delete(e.missing, s.pod.UID)
	return s, left
}

// drop ends a sandbox, if it is still the pod's. e.mu is held.
func (e *Enrol) drop(s *sandbox, verdict error) (left []*sandbox) {
	if e.sandboxes[s.pod.UID] != s {
		return nil
	}
	delete(e.sandboxes, s.pod.UID)
	s.close(verdict)
	return []*sandbox{s}
}

func (e *Enrol) closeAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for uid, s := range e.sandboxes {
		delete(e.sandboxes, uid)
		s.close(errEnded)
	}
}
