package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// group is the goroutines of one layer of the agent. A part that breaks stops
// the agent.
type group struct {
	stop context.CancelCauseFunc
	wg   sync.WaitGroup

	mu   sync.Mutex // guards errs
	errs []error
}

func newGroup(stop context.CancelCauseFunc) *group { return &group{stop: stop} }

func (g *group) run(name string, f func() error) {
	g.wg.Go(func() {
		err := f()
		if err == nil || errors.Is(err, context.Canceled) {
			return
		}
		err = fmt.Errorf("%s: %w", name, err)
		g.mu.Lock()
		g.errs = append(g.errs, err)
		g.mu.Unlock()
		g.stop(err)
	})
}

func (g *group) wait() { g.wg.Wait() }

func (g *group) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return errors.Join(g.errs...)
}
