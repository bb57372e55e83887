package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// A trial is one case on one path in one round.
type trial struct {
	ctx      context.Context
	client   *proc.Worker
	server   *proc.Worker
	path     *route
	warmUp   time.Duration
	duration time.Duration
	files    uint64 // the limit of open files in each process
	note     func(format string, args ...any)
}

// A reading is the state of everything at the begin or the end of what is measured.
type reading struct {
	client clientMark
	server counters
	a, b   proc.Usage
}

func (t *trial) read() (r reading, err error) {
	err = errors.Join(
		t.client.Call(t.ctx, "mark", nil, &r.client),
		t.server.Call(t.ctx, "mark", nil, &r.server))
	if err != nil {
		return r, err
	}
	r.a, r.b, err = t.path.usage(t.ctx)
	return r, err
}

// window runs loads: warm-up, measurement, orderly end, comparison of what was sent with what arrived.
func (t *trial) window(loads ...load) (begin, end reading, result loadResult, err error) {
	var before counters
	if err := t.server.Call(t.ctx, "settle", nil, &before); err != nil {
		return begin, end, result, err
	}
	if err := t.start(loads...); err != nil {
		return begin, end, result, err
	}
	if begin, end, err = t.record(); err != nil {
		t.client.Call(t.ctx, "stop", nil, nil)
		return begin, end, result, err
	}
	result, err = t.finish(before)
	return begin, end, result, err
}

func (t *trial) start(loads ...load) error {
	err := t.client.Call(t.ctx, "start", loadOrder{Target: t.path.entry, Loads: loads}, nil)
	if err != nil {
		t.client.Call(t.ctx, "stop", nil, nil)
	}
	return err
}

// record lets the load run for the warm-up and then for the duration, in which the client keeps its latencies.
func (t *trial) record() (begin, end reading, err error) {
	if err := sleep(t.ctx, t.warmUp); err != nil {
		return begin, end, err
	}
	if begin, err = t.read(); err != nil {
		return begin, end, err
	}
	if err := t.client.Call(t.ctx, "record", true, nil); err != nil {
		return begin, end, err
	}
	if err := sleep(t.ctx, t.duration); err != nil {
		return begin, end, err
	}
	if err := t.client.Call(t.ctx, "record", false, nil); err != nil {
		return begin, end, err
	}
	end, err = t.read()
	return begin, end, err
}

// finish stops the load and holds both ends' totals against each other, from before on.
func (t *trial) finish(before counters) (result loadResult, err error) {
	if err := t.client.Call(t.ctx, "stop", nil, &result); err != nil {
		t.server.Call(t.ctx, "settle", nil, nil)
		return result, err
	}
	var after counters
	if err := t.server.Call(t.ctx, "settle", nil, &after); err != nil {
		return result, err
	}
	if up := after.Received - before.Received; up != result.Sent {
		return result, fmt.Errorf("%d bytes sent upward, %d arrived", result.Sent, up)
	}
	if down := after.Sent - before.Sent; down != result.Received {
		return result, fmt.Errorf("%d bytes sent downward, %d arrived", down, result.Received)
	}
	return result, nil
}

func bulk(l load) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		begin, end, _, err := t.window(l)
		if err != nil {
			return nil, err
		}
		// The receiver counts, by its own clock.
		bytes, elapsed := end.server.Received-begin.server.Received, end.server.At-begin.server.At
		if l.Kind == kindDown {
			bytes, elapsed = end.client.Received-begin.client.Received, end.client.At-begin.client.At
		}
		if bytes == 0 {
			return nil, errors.New("no byte arrived")
		}
		agents := end.a.Plus(end.b).Minus(begin.a.Plus(begin.b))
		const mib, gib = 1 << 20, 1 << 30
		m := results{"": float64(bytes) * 8 / float64(elapsed)}
		if t.path.proxied() {
			m["cpu"] = agents.CPU.Seconds() * gib / float64(bytes)
			m["switches"] = float64(agents.Switches) * gib / float64(bytes)
		}
		if t.path.speaks() {
			m["allocs"] = float64(agents.Allocs) * mib / float64(bytes)
		}
		return m, nil
	}
}

func pingpong(l load) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		begin, end, result, err := t.window(l)
		if err != nil {
			return nil, err
		}
		return pingMetricsOf(begin, end, result)
	}
}

func pingMetricsOf(begin, end reading, result loadResult) (results, error) {
	if result.Ops == 0 {
		return nil, errors.New("no answer arrived")
	}
	return results{
		"":    float64(result.Ops) / time.Duration(end.client.At-begin.client.At).Seconds(),
		"p50": result.P50 / 1e3,
		"p99": result.P99 / 1e3,
	}, nil
}

func connect(cold bool) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		if err := t.path.setCold(t.ctx, cold); err != nil {
			return nil, err
		}
		begin, end, result, err := t.window(load{Kind: kindConnect, Count: 8})
		if err = errors.Join(err, t.path.setCold(t.ctx, false)); err != nil {
			return nil, err
		}
		conns := float64(end.client.Ops - begin.client.Ops)
		if conns == 0 {
			return nil, errors.New("no connection was made")
		}
		m := results{"": conns / time.Duration(end.client.At-begin.client.At).Seconds(), "p99": result.P99 / 1e3}
		if t.path.speaks() {
			m["allocs-a"] = float64(end.a.Allocs-begin.a.Allocs) / conns
			m["allocs-b"] = float64(end.b.Allocs-begin.b.Allocs) / conns
		}
		return m, nil
	}
}

func mixed(t *trial) (results, error) {
	begin, end, result, err := t.window(
		load{Kind: kindUp, Count: 4}, load{Kind: kindDown, Count: 4}, load{Kind: kindPing, Count: 64, Size: 64})
	if err != nil {
		return nil, err
	}
	m, err := pingMetricsOf(begin, end, result)
	if err != nil {
		return nil, err
	}
	up := float64(end.server.Received-begin.server.Received) / float64(end.server.At-begin.server.At)
	down := float64(end.client.Received-begin.client.Received) / float64(end.client.At-begin.client.At)
	m["bulk"] = (up + down) * 8
	return m, nil
}

// stalled measures small messages alone, then beside streams that have filled every buffer on their way.
func stalled(kind string) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		// Whatever becomes of the path, the next one finds client and server idle.
		defer t.server.Call(context.WithoutCancel(t.ctx), "settle", nil, nil)
		defer t.server.Call(context.WithoutCancel(t.ctx), "abandon", nil, nil)
		defer t.client.Call(context.WithoutCancel(t.ctx), "stop", nil, nil)
		if err := t.start(load{Kind: kindPing, Count: 8, Size: 64}); err != nil {
			return nil, err
		}
		begin, end, err := t.record()
		if err != nil {
			return nil, err
		}
		alone := rate(begin, end)
		if err := t.start(load{Kind: kind, Count: 64}); err != nil {
			return nil, err
		}
		if err := t.full(); err != nil {
			return nil, err
		}
		begin, end, err = t.record()
		if err != nil {
			return nil, err
		}
		a, b, err := t.path.resident()
		if err != nil {
			return nil, err
		}
		var result loadResult
		if err := t.client.Call(t.ctx, "stop", nil, &result); err != nil {
			t.note("%s: small messages stopped: %v", t.path.name, err)
		}
		receiver := b
		if kind == kindStallDown {
			receiver = a
		}
		m := results{"": 0, "rss": float64(receiver) / (1 << 20)}
		// A message now and then is no path that is alive.
		if kept := rate(begin, end) / alone; kept >= 0.01 && result.Ops > 0 {
			m[""], m["p99"] = kept, result.P99/1e3
		}
		return m, nil
	}
}

const (
	fillStep  = 500 * time.Millisecond // two without a chunk from any stream: the buffers are full
	fillLimit = 20 * time.Second
)

// full waits until the stalled streams have filled every buffer on their way, which a slow or busy machine takes seconds for.
// Streams that never stop merely make the figure worse, and a note says so.
func (t *trial) full() error {
	moved := func() (n int64, err error) {
		var client clientMark
		var server counters
		err = errors.Join(t.client.Call(t.ctx, "mark", nil, &client), t.server.Call(t.ctx, "mark", nil, &server))
		return client.Sent + server.Sent, err
	}
	before, err := moved()
	if err != nil {
		return err
	}
	for quiet, begun := 0, time.Now(); quiet < 2; {
		if time.Since(begun) > fillLimit {
			t.note("%s: stalled streams still moved after %v", t.path.name, fillLimit)
			return nil
		}
		if err := sleep(t.ctx, fillStep); err != nil {
			return err
		}
		now, err := moved()
		if err != nil {
			return err
		}
		quiet++
		if now != before {
			before, quiet = now, 0
		}
	}
	return nil
}

func rate(begin, end reading) float64 {
	return float64(end.client.Ops-begin.client.Ops) / time.Duration(end.client.At-begin.client.At).Seconds()
}

// idle opens connections, lets each carry a message, and sees what they cost when quiet.
func idle(count int) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		// A process of a path may need two descriptors for each connection.
		if allowed := int(t.files-256) / 2; count > allowed {
			t.note("%d instead of %d idle connections: the limit of open files is %d", allowed, count, t.files)
			count = allowed
		}
		defer t.server.Call(context.WithoutCancel(t.ctx), "settle", nil, nil)
		// What the first connections make for all later ones is no cost of a connection.
		if err := t.start(load{Kind: kindIdle, Count: 16, Size: 1024}); err != nil {
			return nil, err
		}
		beforeA, beforeB, err := t.quiet()
		if err != nil {
			t.client.Call(context.WithoutCancel(t.ctx), "stop", nil, nil)
			return nil, err
		}
		defer t.client.Call(context.WithoutCancel(t.ctx), "stop", nil, nil)
		if err := t.client.Call(t.ctx, "start", loadOrder{Target: t.path.entry, Loads: []load{{Kind: kindIdle, Count: count, Size: 1024}}}, nil); err != nil {
			return nil, err
		}
		afterA, afterB, err := t.quiet()
		if err != nil {
			return nil, err
		}
		n := float64(count)
		m := results{
			"rss-a":   float64(afterA.rss-beforeA.rss) / n / (1 << 10),
			"total-a": float64(afterA.rss) / (1 << 20),
		}
		if t.path.speaks() { // an external program's halves are one sum
			m["rss-b"] = float64(afterB.rss-beforeB.rss) / n / (1 << 10)
			m["total-b"] = float64(afterB.rss) / (1 << 20)
		}
		if t.path.speaks() {
			m["goroutines-a"] = float64(afterA.Goroutines-beforeA.Goroutines) / n
			m["goroutines-b"] = float64(afterB.Goroutines-beforeB.Goroutines) / n
		}
		return m, nil
	}
}

// footprint is what an agent holds.
type footprint struct {
	proc.Usage
	rss int64
}

// quiet lets the agents settle and give back what is garbage, and reads what they hold.
func (t *trial) quiet() (a, b footprint, err error) {
	if err := sleep(t.ctx, 500*time.Millisecond); err != nil {
		return a, b, err
	}
	if err := t.path.release(t.ctx); err != nil {
		return a, b, err
	}
	if a.Usage, b.Usage, err = t.path.usage(t.ctx); err != nil {
		return a, b, err
	}
	a.rss, b.rss, err = t.path.resident()
	return a, b, err
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
