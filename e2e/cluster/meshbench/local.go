package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// accounts is the number of identities of a node's pods.
const accounts = 25

// local fills one node with pods, real ones and then some that are network
// namespaces only, and empties it.
func (b *bench) local(ctx context.Context) error {
	if b.cfg.pods == 0 {
		return nil
	}
	node := b.cluster.Nodes()[0]
	a, err := b.agent(ctx, node)
	if err != nil {
		return err
	}
	empty, err := a.heap(ctx)
	if err != nil {
		return err
	}
	before, err := usageOf(a.pid)
	if err != nil {
		return err
	}
	had, err := a.status(ctx)
	if err != nil {
		return err
	}
	const ns = ours + "many"
	if err := b.namespace(ctx, ns, true, accounts); err != nil {
		return err
	}
	since := time.Now()
	var done atomic.Int32
	err = each(ctx, b.cfg.pods, 10, func(ctx context.Context, i int) error {
		if _, _, err := b.startPod(ctx, ns, aPod(fmt.Sprintf("pod-%d", i), node.Name(), account(i%accounts))); err != nil {
			return err
		}
		if n := done.Add(1); n%20 == 0 {
			b.progress("%d of %d pods", n, b.cfg.pods)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := b.serving(ctx, a, had.Pods.Serving+b.cfg.pods); err != nil {
		return err
	}
	after, err := usageOf(a.pid)
	if err != nil {
		return err
	}
	asked, err := b.enrolments(node, ns, since)
	if err != nil {
		return err
	}
	b.report.values(fmt.Sprintf("enrolment, %d pods, 10 at once", b.cfg.pods), "ms", asked)
	b.report.value("CPU of the agent for one pod's enrolment", "ms", milliseconds(after.cpu-before.cpu)/float64(b.cfg.pods))
	what := fmt.Sprintf("%d pods", b.cfg.pods)
	full, err := b.idle(ctx, node, what)
	if err != nil {
		return err
	}
	b.report.value("heap for one local pod", "KiB", (float64(full.heap)-float64(empty))/float64(b.cfg.pods)/1024)
	if err := b.authority(what); err != nil {
		return err
	}
	if b.cfg.made > 0 {
		if err := b.crowd(ctx, a, had.Pods.Serving+b.cfg.pods); err != nil {
			return err
		}
	}
	return b.clear(ctx, ns)
}
