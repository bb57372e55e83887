package cni

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Installer keeps the plugin and our chain on a node. Its fields are set before Run and not changed.
type Installer struct {
	ConfDir string // where the runtime finds network configurations
	BinDir  string // where the runtime finds plugins
	Binary  string // the plugin, which is copied to BinDir
	Socket  string // where the plugin asks the agent
	// ExcludeNamespaces are those whose pods start without the agent being asked.
	ExcludeNamespaces []string
	// Interval is how often the files are looked at when nothing announces a change. Default: 30 s, or 2 s on a
	// machine that has no more watches to give.
	Interval time.Duration
	Logger   *slog.Logger // default: none

	mu     sync.Mutex // guards status
	status Status

	// The fields below are of Run and Uninstall, which do not run at the same time.

	binary fingerprint          // of the plugin as it was put in place
	broken map[string]time.Time // configurations that make no sense, since when
	pace   pace
}

// Status is what the node has of us.
type Status struct {
	// Chain is the name of our chain in the configuration directory, Source the configuration it was made from. Both
	// are "" as long as there is none.
	Chain, Source string
	// Installed says that the runtime calls the plugin for each pod.
	Installed bool
	// Problems are what keeps the installation from being complete, or may do so.
	Problems []string
	// Writes counts how often the chain was written or removed. A number that goes on growing means that somebody else
	// changes the same files.
	Writes int
}

// clone is for readers on other goroutines.
func (s Status) clone() Status {
	s.Problems = slices.Clone(s.Problems)
	return s
}

// Status describes the latest state.
func (i *Installer) Status() Status {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.status.clone()
}

const (
	interval          = 30 * time.Second
	intervalUnwatched = 2 * time.Second
	// gather is how long changes are gathered before the files are looked at again.
	gather = 20 * time.Millisecond
)

// Run installs the plugin and keeps it installed until ctx ends. It leaves it installed: a node without an agent is to
// start no pod that must be captured. What goes wrong is logged, shown by Status and tried again.
func (i *Installer) Run(ctx context.Context) error {
	if i.Logger == nil {
		i.Logger = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{i.ConfDir, i.BinDir} {
		if err := removeUnfinished(dir); err != nil {
			i.Logger.Warn("what an earlier agent has left is still there", "error", err)
		}
	}
	every := i.Interval
	var changed <-chan struct{}
	w, err := newWatch()
	if err == nil {
		defer w.close()
		changed = w.changed
	} else {
		i.Logger.Warn("changes of the network configuration are found by looking, not at once", "error", err)
	}
	switch {
	case every > 0:
	case err != nil:
		every = intervalUnwatched
	default:
		every = interval
	}
	for {
		if w != nil {
			w.follow(i.ConfDir, i.BinDir)
		}
		again := i.sync(time.Now())
		if again == 0 || again > every {
			again = every
		}
		timer := time.NewTimer(again)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if !pause(ctx, gather) {
			return nil
		}
	}
}

// pause reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// pace slows down writes that somebody undoes as often as they are made. The first is made at once.
type pace struct {
	last time.Time
	wait time.Duration
}

const (
	firstWait = 50 * time.Millisecond
	// lastWait is short, since whoever undoes a write may have opened the way for pods without the plugin.
	lastWait = time.Second
	// calm is after how long without a write the next is made at once again.
	calm = time.Minute
)

// delay is how long the next write has to wait.
func (p *pace) delay(now time.Time) time.Duration {
	if now.Sub(p.last) >= calm {
		p.wait = 0
	}
	return max(0, p.wait-now.Sub(p.last))
}

func (p *pace) wrote(now time.Time) {
	p.last = now
	p.wait = min(max(2*p.wait, firstWait), lastWait)
}
