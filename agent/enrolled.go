package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/capture"
)

// enrolled is a pod while its capture is in place.
type enrolled struct {
	r        *podRunner
	captured *capture.Pod
	stop     context.CancelCauseFunc // of the two goroutines
	served   chan error              // of Proxy.ServePod
	watched  chan error              // of capture.Pod.Run

	servedDone, watchedDone bool
}

func newEnrolled(r *podRunner, captured *capture.Pod) *enrolled {
	// Not under the runner's context: what is served is drained first.
	ctx, stop := context.WithCancelCause(context.WithoutCancel(r.ctx))
	e := &enrolled{r: r, captured: captured, stop: stop, served: make(chan error, 1), watched: make(chan error, 1)}
	go func() { e.served <- r.set.Proxy.ServePod(ctx, r.proxyPod(captured)) }()
	go func() { e.watched <- captured.Run(ctx) }()
	return e
}

// watch returns when the pod cannot be served as it is any more: nil if its
// runner is to end.
func (e *enrolled) watch(inode uint64) error {
	r := e.r
	ctx, cancel := context.WithCancel(r.ctx)
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		r.awaitCertificate(ctx)
	}()
	defer func() {
		cancel()
		<-waiting
	}()
	check := time.NewTicker(netnsCheck)
	defer check.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return nil
		case err := <-e.served:
			e.servedDone = true
			return fmt.Errorf("serve: %w", orStopped(err))
		case err := <-e.watched:
			e.watchedDone = true
			return fmt.Errorf("watch over the capture rules: %w", orStopped(err))
		case <-r.newRules:
			if err := e.applyRules(); err != nil {
				return err
			}
		case <-check.C:
			if r.pod.Inode == 0 && replaced(r.pod.Netns, inode) {
				return errReplaced
			}
		}
	}
}

// awaitCertificate makes the pod ready with its first certificate. Without one
// it can neither take nor open tunnels, and readiness waits for that only so
// long.
func (r *podRunner) awaitCertificate(ctx context.Context) {
	for {
		attempt, cancel := context.WithTimeout(ctx, certificateWait)
		_, err := r.set.Identity.SVID(attempt, r.pod.Identity)
		if err == nil {
			cancel()
			r.set.Ready.done(r.readyName())
			return
		}
		if ctx.Err() == nil {
			r.set.Ready.fail(r.readyName(), err.Error())
			r.set.trouble(r.pod, "NoCertificate", "the pod can neither open nor take connections of the mesh: "+err.Error())
		}
		<-attempt.Done() // a refusal comes at once, and would as often as it is asked for
		cancel()
		if ctx.Err() != nil {
			return
		}
	}
}

func orStopped(err error) error {
	if err == nil {
		return errors.New("stopped without a reason")
	}
	return err
}

// replaced reports whether name stands for another network namespace than it
// did. A name that is gone tells nothing: the pod may live on without it.
func replaced(name string, inode uint64) bool {
	now, err := capture.OpenNetns(name)
	if err != nil {
		return false
	}
	defer now.Close()
	return now.Inode() != inode
}

// applyRules changes what is captured without a pause in it.
func (e *enrolled) applyRules() error {
	e.r.mu.Lock()
	rules := e.r.rules
	e.r.mu.Unlock()
	if err := e.captured.SetRules(rules); err != nil {
		return fmt.Errorf("change the capture rules: %w", err)
	}
	return nil
}

// goneDrain is how long the container runtime is held up while a pod that ends
// takes leave of its peers. Its processes have ended already.
const goneDrain = time.Second

// leave ends the capture in the way that its end asks for.
//
//   - The agent stops: what live connections are left have lameDuck to end, the
//     rules stay, so that the pod sends nothing in plaintext while it has no
//     agent.
//   - The pod is not to be captured any more: the rules let new connections pass
//     by, live ones drain, then all goes.
//   - The pod's network is about to go: live connections have goneDrain to say
//     goodbye, and the rules go with the namespace.
//   - The pod has changed, its name stands for another namespace, or something
//     broke: live connections are cut, so that whatever comes next need not
//     wait, and the rules stay, for it to adopt or to die with the namespace.
func (e *enrolled) leave(reason error) error {
	r := e.r
	r.setState(PodDraining)
	end := context.Cause(r.ctx)
	remove := errors.Is(end, errRemoved)
	told := false // that the pod has left the mesh
	var err error
	switch {
	case remove:
		if err = e.captured.Drain(); err == nil {
			told = true
			r.set.released(r.pod)
			if !e.servedDone {
				e.waitIdle()
			}
		}
		e.stop(proxy.ErrClosed) // the drain is over
	case errors.Is(end, errGone):
		e.stop(proxy.DrainWithin(goneDrain))
	case reason != nil, errors.Is(end, errChanged):
		e.stop(proxy.ErrClosed)
	default:
		e.stop(proxy.DrainWithin(lameDuck))
	}
	if !e.servedDone {
		err = errors.Join(err, <-e.served)
	}
	if !e.watchedDone {
		err = errors.Join(err, <-e.watched)
	}
	if remove {
		r.set.Logger.Info("pod is not captured any more", "pod", r.pod.UID, "netns", r.pod.Netns)
		if removeErr := e.captured.Remove(); removeErr != nil {
			return errors.Join(err, removeErr, e.captured.Detach())
		}
		if !told {
			r.set.released(r.pod)
		}
		return err
	}
	return errors.Join(err, e.captured.Detach())
}

// newsTravel is how long peers may take to hear that a pod has left the mesh.
const newsTravel = time.Second

// waitIdle lets the connections of a pod that is being removed end while its
// listeners are still there, for peers that have not heard of the removal.
func (e *enrolled) waitIdle() {
	time.Sleep(min(newsTravel, e.r.set.DrainTimeout))
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	deadline := time.NewTimer(e.r.set.DrainTimeout)
	defer deadline.Stop()
	for e.r.set.Proxy.Live(e.r.pod.UID) > 0 {
		select {
		case <-poll.C:
		case <-deadline.C:
			return
		}
	}
}
