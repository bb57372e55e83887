package capture

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// Repair is one thing that was found changed in a pod's network namespace.
type Repair struct {
	Kind RepairKind
	What string // what was wrong, for a person
	PID  uint32 // the thread that last changed our table, as the kernel numbers it; 0 = unknown
	Comm string // that thread's command name
	Err  error  // why it could not be repaired; nil if it was

	span generations // of the ruleset, in which it happened
}

// RepairKind is a small fixed set, fit for a metric label.
type RepairKind string

// What can be found changed.
const (
	RepairTable  RepairKind = "table"
	RepairRoute  RepairKind = "route" // routes, and the rule that leads to them
	RepairSysctl RepairKind = "sysctl"
)

// reconciler keeps a namespace as it should be.
type reconciler struct {
	netns    *Netns
	logger   *slog.Logger
	onRepair func(Repair)
	interval time.Duration
}

func newReconciler(n *Netns, logger *slog.Logger, onRepair func(Repair), interval time.Duration) reconciler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if onRepair == nil {
		onRepair = func(Repair) {}
	}
	if interval == 0 {
		interval = 30 * time.Second
	}
	return reconciler{netns: n, logger: logger.With("netns", n.String()), onRepair: onRepair, interval: interval}
}

// Pauses between repairs when somebody keeps undoing them.
const (
	minRepairPause = 50 * time.Millisecond
	maxRepairPause = 5 * time.Second
)

// teardownTime is how long lo may be down before that is reported: runtimes take it down first when a pod ends,
// and everything else a moment later.
const teardownTime = 2 * time.Second

// Run keeps the namespace as it should be: it compares all of it at intervals, and at once when the kernel
// reports a change to the rules or the routes. Repairs are logged and handed to OnRepair. It returns nil when
// ctx ends, or when the Pod is removed or detached.
func (p *Pod) Run(ctx context.Context) error {
	return p.run(ctx, startWatch(ctx, p.netns, p.logger, podTable.Name, true), p.verify)
}

// run calls verify at intervals and whenever w hears of a change, until ctx ends or verify finds that there is
// nothing open any more. It stops w.
func (r *reconciler) run(ctx context.Context, w *watch, verify func() (repairs []Repair, open bool)) error {
	defer w.stop()
	tick := time.NewTicker(r.interval)
	defer tick.Stop()
	var pause time.Duration
	var last time.Time
	var down time.Time         // since when lo is
	var again <-chan time.Time // to see whether it still is
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.changed:
		case <-again:
		}
		if time.Since(last) > 10*maxRepairPause {
			pause = 0
		}
		if wait := time.Until(last.Add(pause)); wait > 0 && !sleep(ctx, wait) {
			return nil
		}
		repairs, open := verify()
		if !open {
			return nil
		}
		if !slices.ContainsFunc(repairs, loopbackDown) {
			down, again = time.Time{}, nil
		} else if down.IsZero() {
			down, again = time.Now(), time.After(teardownTime)
		}
		for _, found := range repairs {
			if loopbackDown(found) && time.Since(down) < teardownTime {
				continue
			}
			if found.Kind == RepairTable {
				by := w.authorIn(ctx, found.span)
				found.PID, found.Comm = by.pid, by.comm
			}
			r.report(found)
		}
		if len(repairs) > 0 {
			last = time.Now()
			pause = min(max(2*pause, minRepairPause), maxRepairPause)
		}
	}
}

func loopbackDown(r Repair) bool { return errors.Is(r.Err, errLoopbackDown) }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// verify compares the namespace with what it should be and repairs it. The rules come first: until they are
// back the pod talks plaintext. open is false once the Pod is closed.
func (p *Pod) verify() (repairs []Repair, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false
	}
	if r, ok := p.table.repair(ruleset(p.rules, p.stage)); !ok {
		repairs = append(repairs, r)
	}
	added, err := p.routes.ensure()
	for _, what := range added {
		repairs = append(repairs, Repair{Kind: RepairRoute, What: what + " was missing"})
	}
	if err != nil {
		repairs = append(repairs, Repair{Kind: RepairRoute, What: "routes cannot be made as they should be", Err: err})
	}
	if p.markAccept.Load() {
		repairs = append(repairs, p.verifySysctlsLocked()...)
	}
	return repairs, true
}

func (p *Pod) verifySysctlsLocked() (repairs []Repair) {
	changed, err := p.sysctl.setMark(p.netns)
	for _, name := range changed {
		repairs = append(repairs, Repair{Kind: RepairSysctl, What: name + " was turned off"})
	}
	if err != nil {
		// New app legs go the other way; this is not found again.
		p.markAccept.Store(false)
		repairs = append(repairs, Repair{Kind: RepairSysctl, What: "sysctls cannot be turned on again; using conntrack marks", Err: err})
	}
	return repairs
}

func (r *reconciler) report(found Repair) {
	level, msg := slog.LevelWarn, "capture repaired"
	attrs := []slog.Attr{slog.String("kind", string(found.Kind)), slog.String("what", found.What)}
	if found.Comm != "" {
		attrs = append(attrs, slog.String("by", found.Comm), slog.Uint64("pid", uint64(found.PID)))
	}
	if found.Err != nil {
		level, msg = slog.LevelError, "capture could not be repaired"
		attrs = append(attrs, slog.Any("error", found.Err))
	}
	r.logger.LogAttrs(context.Background(), level, msg, attrs...)
	r.onRepair(found)
}
