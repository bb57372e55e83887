package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// A footprint is an agent that has nothing to do.
type footprint struct{ rss, heap uint64 }

// nothing is what agents need that have no pods.
func (b *bench) nothing(ctx context.Context) error {
	if _, err := b.idle(ctx, b.cluster.Nodes()[0], "0 pods"); err != nil {
		return err
	}
	return b.authority("0 pods")
}

// idle watches an agent that has nothing to do, and reports what it uses.
func (b *bench) idle(ctx context.Context, node *cluster.Node, what string) (f footprint, err error) {
	a, err := b.agent(ctx, node)
	if err != nil {
		return f, err
	}
	if err := sleep(ctx, min(b.cfg.idle, 10*time.Second)); err != nil { // until what came before is done
		return f, err
	}
	before, err := usageOf(a.pid)
	if err != nil {
		return f, err
	}
	b.progress("idle agent, %s: %s", what, b.cfg.idle)
	if err := sleep(ctx, b.cfg.idle); err != nil {
		return f, err
	}
	after, err := usageOf(a.pid)
	if err != nil {
		return f, err
	}
	f.rss = after.rss
	if f.heap, err = a.heap(ctx); err != nil {
		return f, err
	}
	b.report.value("idle agent, "+what+": CPU", "% of one", 100*float64(after.cpu-before.cpu)/float64(b.cfg.idle))
	b.report.value("idle agent, "+what+": resident", "MiB", mebibytes(f.rss))
	b.report.value("idle agent, "+what+": heap after collection", "MiB", mebibytes(f.heap))
	b.report.value("agent, "+what+": resident at most so far", "MiB", mebibytes(after.peak))
	return f, nil
}

// authority reports what the CA needs, by the larger of its replicas.
func (b *bench) authority(what string) error {
	var most usage
	for _, node := range b.cluster.Nodes() {
		for _, pid := range b.find(node, "/adit", "ca", "") {
			u, err := usageOf(pid)
			if err != nil {
				return err
			}
			most.rss, most.peak, most.cpu = max(most.rss, u.rss), max(most.peak, u.peak), max(most.cpu, u.cpu)
		}
	}
	if most.rss == 0 {
		return errors.New("no CA is found among the processes of the nodes")
	}
	b.report.value("CA, "+what+": resident", "MiB", mebibytes(most.rss))
	b.report.value("CA, "+what+": resident at most so far", "MiB", mebibytes(most.peak))
	return nil
}

// serving waits until an agent has captured so many pods.
func (b *bench) serving(ctx context.Context, a *agent, want int) error {
	return poll(ctx, patience, func() error {
		s, err := a.status(ctx)
		if err == nil && (s.Pods.Serving != want || s.Pods.Enrolled != want) {
			err = fmt.Errorf("agent of %s has captured %d of %d pods, want %d", a.node.Name(), s.Pods.Serving, s.Pods.Enrolled, want)
		}
		if err != nil {
			return errors.Join(err, sleep(ctx, 200*time.Millisecond))
		}
		return nil
	})
}
