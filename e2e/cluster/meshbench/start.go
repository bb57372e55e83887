package main

import (
	"context"
	"fmt"
	"time"
)

// start starts one pod at a time, enrolled and not in turn, with nothing else
// on the node. Each enrolled one is the first of its identity there, so its start
// includes a certificate.
func (b *bench) start(ctx context.Context) error {
	if b.cfg.rounds == 0 {
		return nil
	}
	if err := b.namespace(ctx, ours+"on", true, 1); err != nil {
		return err
	}
	if err := b.namespace(ctx, ours+"off", false, 1); err != nil {
		return err
	}
	node := b.cluster.Nodes()[0].Name()
	took := map[string][]float64{}
	since := time.Now()
	for round := -1; round < b.cfg.rounds; round++ { // the first is not counted
		both := []string{ours + "on", ours + "off"}
		if round%2 == 0 {
			both[0], both[1] = both[1], both[0]
		}
		for _, ns := range both {
			name := fmt.Sprintf("start-%d", round+1)
			_, d, err := b.startPod(ctx, ns, aPod(name, node, account(0)))
			if err != nil {
				return err
			}
			if err := b.deletePod(ctx, ns, name); err != nil {
				return err
			}
			if round >= 0 {
				took[ns] = append(took[ns], milliseconds(d))
			}
		}
		if round%5 == 4 {
			b.progress("%d of %d rounds", round+1, b.cfg.rounds)
		}
	}
	b.report.values("pod start without adit", "ms", took[ours+"off"])
	b.report.values("pod start", "ms", took[ours+"on"]).against("without adit", took[ours+"off"])
	asked, err := b.enrolments(b.cluster.Nodes()[0], ours+"on", since)
	if err != nil {
		return err
	}
	b.report.values("enrolment, one pod at a time, with a new certificate", "ms", asked)
	return nil
}
