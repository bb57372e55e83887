package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// errOverflow is a connection that could not be had because there are too many.
var errOverflow = errors.New("all connections to the endpoint are busy")

// waiter is a request that waits until something becomes free.
type waiter struct{ woken chan struct{} }

// pollTime is how often a request that waits for an HTTP/2 stream looks by itself:
// x/net/http2 frees a stream a moment after its answer's end has been read.
const pollTime = 5 * time.Millisecond

// slotLocked counts one more connection, if there may be one. It is called with
// p.mu held, and holds it when it returns.
func (p *peer) slotLocked() (bool, error) {
	if p.open >= p.set.cfg.MaxConns {
		return false, nil
	}
	return true, p.countLocked(&p.open)
}

// countLocked counts one more in n, which is p.open or p.dials. It may give p.mu
// back meanwhile. The error is ErrClosed.
func (p *peer) countLocked(n *int) error {
	if !p.retired {
		*n++
		return nil
	}
	p.mu.Unlock()
	ok := p.set.recall(p, n)
	p.mu.Lock()
	if !ok {
		return ErrClosed
	}
	return nil
}

// releaseSlot is the reverse of slotLocked where no connection came of it.
func (p *peer) releaseSlot() {
	p.mu.Lock()
	p.releaseLocked()
}

// spokenForLocked says whether what is free is for those who waited longer.
func (p *peer) spokenForLocked() bool {
	return p.woken > 0 && len(p.idle)+p.set.cfg.MaxConns-p.open <= p.woken
}

// waitLocked waits until something becomes free, or for poll if that is not zero.
// It is called with p.mu held, and holds it when it returns. w is where the request
// stands in the queue, nil at first; it keeps its place when it comes again.
func (p *peer) waitLocked(ctx context.Context, w *waiter, limit <-chan time.Time, poll time.Duration) (*waiter, error) {
	switch {
	case w != nil:
		w.woken = make(chan struct{})
		p.queue = slices.Insert(p.queue, 0, w)
	case len(p.queue) >= p.set.cfg.MaxPending:
		p.set.totals.overflows.Add(1)
		return nil, fmt.Errorf("%w, and %d requests wait already", errOverflow, p.set.cfg.MaxPending)
	default:
		w = &waiter{woken: make(chan struct{})}
		p.queue = append(p.queue, w)
	}
	woken := w.woken
	p.mu.Unlock()

	var tick <-chan time.Time
	if poll > 0 {
		t := time.NewTimer(poll)
		defer t.Stop()
		tick = t.C
	}
	var err error
	select {
	case <-woken:
	case <-tick:
	case <-limit:
		p.set.totals.overflows.Add(1)
		err = fmt.Errorf("%w, and none became free in time", errOverflow)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	if i := slices.Index(p.queue, w); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		return w, err
	}
	p.woken--
	if err != nil {
		p.wakeLocked() // woken in vain: the next one shall have it
	}
	return w, err
}

// wakeLocked lets the first request that waits look again.
func (p *peer) wakeLocked() {
	if len(p.queue) == 0 {
		return
	}
	w := p.queue[0]
	p.queue = slices.Delete(p.queue, 0, 1)
	p.woken++
	close(w.woken)
}
