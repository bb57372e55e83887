package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/capture"
)

// PodState is where a local pod is in its life:
//
//	enrolling ──> serving ──> draining ──> (gone)
//	   ^  |          |
//	   |  v          | network namespace replaced, or serving broke
//	 retrying <──────+
type PodState string

// The states of a local pod.
const (
	PodEnrolling PodState = "enrolling"
	PodServing   PodState = "serving"
	PodRetrying  PodState = "retrying"
	PodDraining  PodState = "draining"
	// PodReleased is not captured any more, and waits to be forgotten.
	PodReleased PodState = "released"
)

// PodStatus describes one local pod for an operator.
type PodStatus struct {
	UID      string    `json:"uid"`
	Netns    string    `json:"netns"`
	Inode    uint64    `json:"netnsInode,omitempty"`
	Identity string    `json:"identity"`
	State    PodState  `json:"state"`
	Since    time.Time `json:"since"`
	// Error is why the latest attempt failed, Attempts how many have in a row.
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"failedAttempts,omitempty"`
	// Repairs counts what somebody else changed of the pod's capture and the
	// agent put back; LastRepair is the latest.
	Repairs     int    `json:"captureRepairs"`
	LastRepair  string `json:"lastCaptureRepair,omitempty"`
	Connections int    `json:"connections"`
	// BypassInbound: plaintext reaches the application without the agent, and
	// ProbePorts are open to kubelet's probes.
	BypassInbound bool     `json:"bypassInbound,omitempty"`
	ProbePorts    []uint16 `json:"probePorts,omitempty"`
}

// Pauses between attempts to start a pod.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 15 * time.Second
)

// certificateWait is how long a pod that serves holds readiness up for its
// first certificate.
const certificateWait = 10 * time.Second

// netnsCheck is how often a pod's name is compared with the network namespace
// that it stood for.
const netnsCheck = 5 * time.Second

// errReplaced: the pod's name stands for another network namespace now.
var errReplaced = errors.New("its network namespace has been replaced")

// podRunner captures and serves one pod, again and again if need be, until its
// context ends.
type podRunner struct {
	set    *podSet
	pod    LocalPod
	ctx    context.Context
	cancel context.CancelCauseFunc
	last   atomic.Pointer[mesh.Workload] // for a pod that has left the store
	// release gives the pod's identity back, nil as long as it is not held.
	// run's goroutine owns it.
	release func()

	newRules chan struct{} // one-slot edge

	mu     sync.Mutex // guards the fields below
	status PodStatus
	rules  capture.Rules
}

func (s *podSet) newRunner(ctx context.Context, pod LocalPod) *podRunner {
	r := &podRunner{set: s, pod: pod, rules: pod.Rules, newRules: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	r.status = PodStatus{
		UID: pod.UID, Netns: pod.Netns, Identity: pod.Identity.String(), State: PodEnrolling, Since: time.Now(),
	}
	s.Ready.wait(r.readyName(), "not enrolled yet")
	return r
}

func (r *podRunner) readyName() string { return "pod " + r.pod.UID }

func (r *podRunner) run() {
	defer func() {
		if r.release != nil {
			r.release()
		}
	}()
	pause := firstRetry
	for r.ctx.Err() == nil {
		r.setState(PodEnrolling)
		began := time.Now()
		err := r.serve()
		switch {
		case r.ctx.Err() != nil:
			if err != nil {
				r.set.Logger.Warn("pod was not left as it should be", "pod", r.pod.UID, "netns", r.pod.Netns, "error", err)
			}
			return
		case errors.Is(err, errReplaced):
			pause = firstRetry
			continue // the new namespace is not captured yet
		case time.Since(began) > time.Minute:
			pause = firstRetry
		}
		r.failed(err, pause)
		select {
		case <-time.After(pause):
		case <-r.ctx.Done():
		}
		pause = min(2*pause, lastRetry)
	}
}

// serve captures the pod and serves it until the runner's context ends, the
// network namespace is replaced, or something breaks.
func (r *podRunner) serve() (err error) {
	netns, err := r.pod.open()
	if err != nil {
		return err
	}
	inode := netns.Inode()
	if r.pod.Inode != 0 && r.pod.Inode != inode {
		netns.Close()
		return fmt.Errorf("its network namespace is another one than was found to be its own (%d, not %d)", inode, r.pod.Inode)
	}
	if err := r.set.claim(inode, r.pod.UID); err != nil {
		netns.Close()
		return err
	}
	defer r.set.unclaim(inode)
	if r.pod.Release {
		return r.removeLeftovers(netns)
	}
	// Before the rules are there, since connections come with them. Kept until
	// the runner ends: an attempt that fails costs no further certificate.
	if r.release == nil {
		r.release = r.set.Identity.Acquire(r.pod.Identity)
	}
	captured, err := capture.Enrol(r.ctx, r.captureConfig(netns))
	if err != nil {
		netns.Close()
		return err
	}

	e := newEnrolled(r, captured)
	r.set.captured(r.pod) // before Wait says that it is, for then it is written soon
	r.serving(inode)
	reason := e.watch(inode)
	return errors.Join(reason, e.leave(reason))
}

func (r *podRunner) captureConfig(netns *capture.Netns) capture.PodConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	return capture.PodConfig{
		Netns: netns, Rules: r.rules, SysctlRoot: r.set.SysctlRoot, OnRepair: r.repaired, Logger: r.set.Logger.With("pod", r.pod.UID),
	}
}

// setRules changes what is captured, now or as soon as the pod is.
func (r *podRunner) setRules(rules capture.Rules) {
	r.mu.Lock()
	changed := !reflect.DeepEqual(r.rules, rules)
	r.rules = rules
	r.mu.Unlock()
	if changed {
		signal(r.newRules)
	}
}

// removeLeftovers frees a pod that is not to be captured from the rules of an
// earlier agent, and then waits for its end: there is nothing more to do.
func (r *podRunner) removeLeftovers(netns *capture.Netns) error {
	// Adopting them first takes them from whoever else may think he has them.
	captured, err := capture.Enrol(r.ctx, r.captureConfig(netns))
	if err != nil {
		netns.Close()
		return err
	}
	if err := captured.Remove(); err != nil {
		return errors.Join(err, captured.Detach())
	}
	// What the earlier agent said of the pod stands, and peers would go on
	// opening tunnels to it.
	r.set.released(r.pod)
	r.set.Logger.Info("pod is freed from what an earlier agent left", "pod", r.pod.UID, "netns", r.pod.Netns)
	r.set.Ready.done(r.readyName())
	r.setState(PodReleased)
	<-r.ctx.Done()
	return nil
}

func (r *podRunner) proxyPod(captured *capture.Pod) proxy.Pod {
	return proxy.Pod{
		UID:      r.pod.UID,
		Workload: r.workload,
		Outbound: captured.Outbound(), Inbound: captured.Inbound(), HBONE: captured.HBONE(),
		Dial: captured.Dial, DialApp: captured.DialApp,
	}
}

// workload is what is known of the pod, or was before it left the store.
func (r *podRunner) workload() *mesh.Workload {
	if w := r.set.Store.WorkloadByUID(r.pod.UID); w != nil {
		r.last.Store(w)
		return w
	}
	return r.last.Load()
}

func (r *podRunner) setState(state PodState) {
	r.mu.Lock()
	r.status.State, r.status.Since = state, time.Now()
	r.mu.Unlock()
	r.set.wake()
}

func (r *podRunner) serving(inode uint64) {
	r.mu.Lock()
	r.status.State, r.status.Since = PodServing, time.Now()
	r.status.Inode, r.status.Error, r.status.Attempts = inode, "", 0
	r.mu.Unlock()
	r.set.wake()
	r.set.Logger.Info("pod is captured", "pod", r.pod.UID, "netns", r.pod.Netns, "identity", r.pod.Identity.String())
}

func (r *podRunner) failed(err error, pause time.Duration) {
	if err == nil {
		err = errors.New("stopped being served")
	}
	r.mu.Lock()
	first := r.status.Error != err.Error()
	r.status.State, r.status.Since = PodRetrying, time.Now()
	r.status.Error = err.Error()
	r.status.Attempts++
	r.mu.Unlock()
	r.set.Ready.fail(r.readyName(), err.Error())
	if first { // the same news every 15 s is none
		r.set.trouble(r.pod, "CaptureFailed", "the pod's traffic is not captured: "+err.Error())
		r.set.Logger.Error("pod is not captured; trying again", "pod", r.pod.UID, "netns", r.pod.Netns, "error", err, "in", pause)
	}
}

func (r *podRunner) repaired(repair capture.Repair) {
	r.set.Telemetry.CaptureRepair(r.pod.UID, string(repair.Kind))
	what := repair.What
	if repair.Comm != "" {
		what = fmt.Sprintf("%s, changed by %s (pid %d)", what, repair.Comm, repair.PID)
	}
	if repair.Err != nil {
		what = fmt.Sprintf("%s: %v", what, repair.Err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Repairs++
	r.status.LastRepair = what
}

func (r *podRunner) snapshot() PodStatus {
	r.mu.Lock()
	status := r.status
	status.BypassInbound, status.ProbePorts = r.rules.Ingress, probePorts(r.rules)
	r.mu.Unlock()
	status.Connections = r.set.Proxy.Live(r.pod.UID)
	return status
}
