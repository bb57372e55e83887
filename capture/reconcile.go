package capture

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Repair is one thing that was found changed in a pod's network namespace.
type Repair struct {
	Kind RepairKind
	What string // what was wrong, for a person
	PID  uint32 // the thread that last changed our table, as the kernel numbers it; 0 = unknown
	Comm string // that thread's command name
	Err  error  // why it could not be repaired; nil if it was
}

// RepairKind is a small fixed set, fit for a metric label.
type RepairKind string

// What can be found changed.
const (
	RepairTable  RepairKind = "table"
	RepairRoute  RepairKind = "route" // routes, and the rule that leads to them
	RepairSysctl RepairKind = "sysctl"
)

// Pauses between repairs when somebody keeps undoing them.
const (
	minRepairPause = 50 * time.Millisecond
	maxRepairPause = 5 * time.Second
)

// Run keeps the namespace as it should be: it compares all of it at intervals, and at once when the kernel
// reports a change to the rules or the routes. Repairs are logged and handed to OnRepair. It returns nil when
// ctx ends, or when the Pod is removed or detached.
func (p *Pod) Run(ctx context.Context) error {
	w := startWatch(ctx, p.netns, p.logger)
	defer w.stop()
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	var pause time.Duration
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-w.changed:
		}
		if time.Since(last) > 10*maxRepairPause {
			pause = 0
		}
		if wait := time.Until(last.Add(pause)); wait > 0 && !sleep(ctx, wait) {
			return nil
		}
		repairs, span, open := p.verify()
		if !open {
			return nil
		}
		for _, r := range repairs {
			if r.Kind == RepairTable {
				by := w.authorIn(ctx, span)
				r.PID, r.Comm = by.pid, by.comm
			}
			p.report(r)
		}
		if len(repairs) > 0 {
			last = time.Now()
			pause = min(max(2*pause, minRepairPause), maxRepairPause)
		}
	}
}

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
// back the pod talks plaintext. span is when the table was changed. open is false once the Pod is closed.
func (p *Pod) verify() (repairs []Repair, span generations, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, span, false
	}
	span.after = p.table.gen
	if r, ok := p.verifyTableLocked(); ok {
		repairs = append(repairs, r)
	}
	span.before = p.table.gen
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
	return repairs, span, true
}

func (p *Pod) verifyTableLocked() (Repair, bool) {
	r := Repair{Kind: RepairTable, What: "table inet " + tableName + " was changed or deleted"}
	ok, err := p.table.intact()
	if err == nil && ok {
		return r, false
	}
	if err != nil {
		r.What = "table inet " + tableName + " cannot be read"
	}
	r.Err = errors.Join(err, p.table.apply(ruleset(p.rules, p.stage)))
	return r, true
}

func (p *Pod) verifySysctlsLocked() (repairs []Repair) {
	changed, err := setMarkSysctls(p.netns)
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

func (p *Pod) report(r Repair) {
	level, msg := slog.LevelWarn, "capture repaired"
	attrs := []slog.Attr{slog.String("kind", string(r.Kind)), slog.String("what", r.What)}
	if r.Comm != "" {
		attrs = append(attrs, slog.String("by", r.Comm), slog.Uint64("pid", uint64(r.PID)))
	}
	if r.Err != nil {
		level, msg = slog.LevelError, "capture could not be repaired"
		attrs = append(attrs, slog.Any("error", r.Err))
	}
	p.logger.LogAttrs(context.Background(), level, msg, attrs...)
	p.onRepair(r)
}
