package hbone

import (
	"context"
	"testing"
	"time"
)

func timeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// quiet waits until nothing is left of the streams that r has had: on the
// tunnels that live on, all room and all that the pool and the server remember
// of streams is back, and so is the process's window budget.
func (r *rig) quiet(t testing.TB) {
	t.Helper()
	var conns []*conn
	r.server.mu.Lock()
	for c := range r.server.conns {
		conns = append(conns, c)
	}
	r.server.mu.Unlock()
	conns = append(conns, r.pool.conns(nil)...)
	for _, c := range conns {
		eventually(t, "a tunnel has forgotten its streams", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.streams) == 0 && c.working == 0
		})
		eventually(t, "a tunnel's writer has all its room and nothing in its lines", func() bool {
			c.w.mu.Lock()
			defer c.w.mu.Unlock()
			return !c.w.busy && c.w.room == highWater && len(c.w.prio) == 0 && c.w.bulk.n == 0 &&
				len(c.w.waiters) == 0 && len(c.w.starved) == 0
		})
	}
	eventually(t, "the window budget is whole again", func() bool { return windowBudget.left.Load() == fullBudget })
}

// fullBudget is what all streams of the process may grow by.
var fullBudget = windowBudget.left.Load()

// credits is what c's peer has left it to send on the tunnel, and what c has
// left its peer, once c is quiet.
func (c *conn) credits() (out, in int64) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.credit, c.in.window + c.in.owed
}

func (c *conn) sendCredit() int64 {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.credit
}
