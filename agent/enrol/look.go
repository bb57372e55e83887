package enrol

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture"
)

const (
	// quarantine is for how long a namespace whose end the runtime has announced
	// is not looked at: its processes may be there a little longer.
	quarantine = 10 * time.Second
	// newborn is for how long a sandbox that the runtime told of may have no
	// process.
	newborn = time.Minute
)

// pacer says when the processes are looked through: soon, while that helps.
type pacer struct {
	scanned time.Time           // latest scan
	checked time.Time           // latest scan or check of the sandboxes that there are
	gap     time.Duration       // from one scan to the next
	lost    map[string]struct{} // what the latest scan did not find
	// swept says that what an earlier agent had left has been looked for.
	swept bool
}

const (
	firstGap = 100 * time.Millisecond
	lastGap  = 5 * time.Second
)

// due is how long a scan for these pods has to wait.
func (p *pacer) due(now time.Time, lost map[string]struct{}) time.Duration {
	for uid := range lost {
		if _, old := p.lost[uid]; !old {
			p.gap = 0
		}
	}
	return max(0, max(p.gap, firstGap)-now.Sub(p.scanned))
}

func (p *pacer) done(now time.Time, lost map[string]struct{}) {
	p.scanned, p.lost = now, lost
	p.gap = min(max(2*p.gap, firstGap), lastGap)
}

// look brings the set up to date, and looks for the namespaces that it lacks. It
// returns after how long it is to be called again. At first it also looks for
// what an earlier agent has left in pods that are not to be captured.
func (e *Enrol) look(ctx context.Context) time.Duration {
	first := !e.looked.swept
	e.change(func() []*sandbox { return nil })
	now := time.Now()
	uids := make(map[string]bool)
	lost := e.lost()
	for uid := range lost {
		uids[uid] = true
	}
	local := e.Kube.Local()
	if first {
		for i := range local {
			uids[local[i].UID] = true
		}
	}
	check := now.Sub(e.looked.checked) >= e.Interval
	if check {
		e.looked.checked = now
		for _, uid := range e.unwitnessed() {
			uids[uid] = true
		}
	}
	if len(uids) == 0 { // nothing to look for
		e.sweep()
		return max(firstGap, e.Interval-now.Sub(e.looked.checked))
	}
	if wait := e.looked.due(now, lost); wait > 0 && !check && !first {
		return wait
	}
	for i := range local {
		if uid := local[i].UID; !uids[uid] {
			uids[uid] = false
		}
	}
	found, err := e.scanner.scan(uids)
	if err != nil {
		e.Logger.Error("pods that run already are not found", "error", err)
		return lastGap
	}
	e.takeIn(ctx, now, local, uids, found, first)
	if ctx.Err() != nil {
		return 0 // before all of them were
	}
	e.sweep()
	lost = e.lost()
	e.looked.done(now, lost)
	if len(lost) > 0 {
		return e.looked.gap
	}
	return max(firstGap, e.Interval-now.Sub(e.looked.checked))
}

// sweep notes that what ran already has been found.
func (e *Enrol) sweep() {
	if !e.looked.swept {
		e.looked.swept = true
		close(e.swept)
	}
}

// lost are the pods that are to be captured, have an address and have no
// namespace.
func (e *Enrol) lost() map[string]struct{} {
	local := e.Kube.Local()
	e.mu.Lock()
	defer e.mu.Unlock()
	lost := make(map[string]struct{})
	for i := range local {
		if p := &local[i]; p.Enrol && len(p.IPs) > 0 && e.sandboxes[p.UID] == nil {
			lost[p.UID] = struct{}{}
		}
	}
	return lost
}

// unwitnessed are the pods of whose sandboxes no process is known to be there.
// It also forgets announcements of old.
func (e *Enrol) unwitnessed() (uids []string) {
	e.mu.Lock()
	type witness struct {
		uid   string
		pid   int
		inode uint64
	}
	var list []witness
	for uid, s := range e.sandboxes {
		list = append(list, witness{uid, s.witness, s.inode})
	}
	for inode, at := range e.ended {
		if time.Since(at) > quarantine {
			delete(e.ended, inode)
		}
	}
	e.mu.Unlock()
	for _, w := range list {
		if w.pid == 0 || !e.scanner.inside(w.pid, w.inode) {
			uids = append(uids, w.uid)
		}
	}
	return uids
}

// takeIn makes sandboxes of what a scan for some pods, which began at a time, has
// found.
func (e *Enrol) takeIn(ctx context.Context, began time.Time, local []kube.LocalPod, uids map[string]bool, found map[string]*traces, first bool) {
	pods := make(map[string]*kube.LocalPod, len(local))
	for i := range local {
		pods[local[i].UID] = &local[i]
	}
	e.mu.Lock()
	have := make(map[string]*sandbox, len(e.sandboxes))
	maps.Copy(have, e.sandboxes)
	e.mu.Unlock()

	for uid, s := range have {
		if uids[uid] {
			e.revisit(ctx, s, pods[uid], found[uid], began)
		}
	}
	for uid, pod := range pods {
		if ctx.Err() != nil {
			return
		}
		switch {
		case have[uid] != nil:
		case pod.Enrol:
			e.takeMissing(pod, found[uid])
		case first:
			e.takeLeftover(pod, found[uid])
		}
	}
	e.change(func() []*sandbox { return nil })
}

// revisit finds out whether a sandbox is still its pod's. t is nil if no process
// of the pod was found.
func (e *Enrol) revisit(ctx context.Context, s *sandbox, pod *kube.LocalPod, t *traces, began time.Time) {
	e.mu.Lock()
	witness, inode, born, since := s.witness, s.inode, s.born, s.since
	e.mu.Unlock()
	if n, ok := t.find(inode); ok {
		e.mu.Lock()
		s.witness = n.pid
		e.mu.Unlock()
		return
	}
	if witness != 0 && e.scanner.inside(witness, inode) {
		return
	}
	// Nobody is inside. A sandbox of the same pod that is younger has taken its
	// place without the runtime having told.
	if pod != nil && pod.Enrol && t != nil {
		younger := &traces{err: t.err}
		for _, n := range t.namespaces {
			if n.start > born {
				younger.namespaces = append(younger.namespaces, n)
			}
		}
		if e.takeMissing(pod, younger) {
			return
		}
	}
	if pod == nil && began.Sub(since) > newborn && ctx.Err() == nil {
		e.Logger.Info("pod is over: Kubernetes has it no more, and no process of it is left", "pod", s.name)
		e.change(func() []*sandbox { return e.drop(s, errEnded) })
	}
}

// takeMissing enrols a pod that is to be captured in the namespace that has its
// address, and reports whether there is one.
func (e *Enrol) takeMissing(pod *kube.LocalPod, t *traces) bool {
	n, netns, why := e.choose(pod, t)
	if netns == nil {
		e.mu.Lock()
		if m, ok := e.missing[pod.UID]; ok {
			m.reason = why
			e.missing[pod.UID] = m
		}
		e.mu.Unlock()
		return false
	}
	if e.takeFound(pod, n, netns, false) {
		e.Logger.Info("running pod is to be captured", "pod", pod.String(), "uid", pod.UID, "reason", pod.Reason,
			"netns", n.inode, "pid", n.pid)
	}
	return true
}

// choose picks the namespace of a pod, and opens it.
func (e *Enrol) choose(pod *kube.LocalPod, t *traces) (n namespace, netns *os.File, why string) {
	switch {
	case len(pod.IPs) == 0:
		return n, nil, noAddress
	case t == nil:
		return n, nil, "no process of it is found in a network namespace of its own; is the agent in the PID namespace of the node?"
	}
	if t.err != nil {
		why = t.err.Error()
	}
	for _, n := range t.namespaces {
		if e.hasEnded(n.inode) {
			why = "its sandbox is being torn down"
			continue
		}
		netns, err := e.openVerified(pod, n)
		if err == nil {
			return n, netns, ""
		}
		why = err.Error()
	}
	return n, nil, why
}

// openVerified opens a namespace if the pod's address is in it. A process of the
// pod may be in another's namespace, for a moment or because it may do so.
func (e *Enrol) openVerified(pod *kube.LocalPod, n namespace) (*os.File, error) {
	f, err := e.scanner.open(n, pod.UID)
	if err != nil {
		return nil, err
	}
	if err := verify(f, e.scanner.path(n.pid, "ns/net"), pod.IPs); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// verify reports an error unless one of the addresses is in the namespace.
func verify(netns *os.File, name string, want []netip.Addr) error {
	n, err := openNetns(name, netns)
	if err != nil {
		return err
	}
	defer n.Close()
	have, err := n.Addresses()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(want, func(a netip.Addr) bool { return slices.Contains(have, a.Unmap()) }) {
		return fmt.Errorf("network namespace %s has not the pod's address: it has %s, the pod %s", name, text(have), text(want))
	}
	return nil
}

func text(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "none"
	}
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = a.String()
	}
	return strings.Join(list, " and ")
}

// takeLeftover hands a pod over that is not to be captured and is.
func (e *Enrol) takeLeftover(pod *kube.LocalPod, t *traces) {
	if t == nil {
		return
	}
	for _, n := range t.namespaces {
		f, err := e.scanner.open(n, pod.UID)
		if err != nil {
			continue
		}
		left, err := present(f, e.scanner.path(n.pid, "ns/net"))
		if err != nil {
			e.Logger.Warn("pod may have rules of an earlier agent", "pod", pod.String(), "error", err)
		}
		if !left {
			_ = f.Close()
			continue
		}
		if e.takeFound(pod, n, f, true) {
			e.Logger.Info("pod is to be freed from the rules of an earlier agent", "pod", pod.String(), "reason", pod.Reason)
		}
		return
	}
}

func present(netns *os.File, name string) (bool, error) {
	n, err := openNetns(name, netns)
	if err != nil {
		return false, err
	}
	defer n.Close()
	return capture.Present(n)
}

// takeFound makes a sandbox of a namespace that was found, unless the runtime has
// told of a younger one meanwhile.
func (e *Enrol) takeFound(pod *kube.LocalPod, n namespace, netns *os.File, release bool) (taken bool) {
	s := newSandbox(*pod, netns, e.scanner.path(n.pid, "ns/net"), n.inode, n.start)
	s.witness, s.release, s.listed = n.pid, release, true
	e.change(func() (left []*sandbox) {
		old := e.sandboxes[pod.UID]
		if e.quarantined(n.inode) || old != nil && old.born >= s.born {
			_ = netns.Close()
			return nil
		}
		taken = true
		_, left = e.put(s)
		return left
	})
	return taken
}

func (e *Enrol) hasEnded(inode uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.quarantined(inode)
}

// quarantined reports whether the end of a namespace has just been announced. Its
// number is soon another's. e.mu is held.
func (e *Enrol) quarantined(inode uint64) bool {
	at, ended := e.ended[inode]
	return ended && time.Since(at) <= quarantine
}
