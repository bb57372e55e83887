package edge

import (
	"context"
	"fmt"
	"time"
)

// A trial is one case on one path in one round.
type trial struct {
	ctx      context.Context
	fleet    *fleet
	proxy    *proxy
	bench    benchCase
	duration time.Duration
	note     func(format string, args ...any)
}

// gauge measures which share of its processor the proxy uses from after until after+d from now.
func (t *trial) gauge(after, d time.Duration) func() float64 {
	share := make(chan float64, 1)
	go func() {
		time.Sleep(after)
		begun, before := time.Now(), t.proxy.cpu()
		time.Sleep(d)
		elapsed, used := time.Since(begun), t.proxy.cpu()-before
		share <- used.Seconds() / elapsed.Seconds()
	}()
	return func() float64 { return <-share }
}

// warmUp is how long a load runs before it is measured: connections are made and caches filled.
func (t *trial) warmUp(conns int) time.Duration {
	return max(t.duration/3, time.Duration(conns)*2*time.Millisecond)
}

// requests measures small requests.
func requests(conns, streams int) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		sleepAgain, err := t.fleet.keepAwake(t.ctx)
		if err != nil {
			return nil, err
		}
		defer sleepAgain()
		warm := t.warmUp(conns)
		if t.bench.proto == protoH1 { // wrk has no warm-up of its own
			if _, err := t.fleet.wrk(t.ctx, t.proxy.addr(protoH1), conns, time.Second); err != nil {
				return nil, err
			}
			warm = 0
		}
		busy := t.gauge(warm+t.duration/5, t.duration*3/5)
		var l load
		switch t.bench.proto {
		case protoH1:
			l, err = t.fleet.wrk(t.ctx, t.proxy.addr(protoH1), conns, t.duration)
		case protoH3:
			var r h3Result
			err = t.fleet.client.Call(t.ctx, "h3", h3Order{Addr: t.proxy.https, Conns: conns, Warm: warm, Duration: t.duration}, &r)
			l = load{rate: float64(r.Ops) / r.Elapsed.Seconds(), p50: r.P50, p99: r.P99, failed: r.Failed}
		default:
			l, err = t.fleet.h2load(t.ctx, t.bench.proto, t.proxy.https, conns, streams, warm, t.duration)
		}
		share := busy()
		if err != nil {
			return nil, err
		}
		if l.failed > 0 {
			t.note("%s: %s: %d requests failed", t.bench.name, t.proxy.name, l.failed)
		}
		m := results{"": l.rate, "p50": l.p50, "p99": l.p99}
		if t.proxy.prog != nil {
			m["busy"], m["cpu"] = share*100, share/l.rate*1e6
		}
		return m, nil
	}
}

// handshakes measures how many a second.
func handshakes(resume, hybrid bool) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		var r handshakeResult
		before := t.proxy.cpu()
		o := handshakeOrder{Addr: t.proxy.https, Resume: resume, Hybrid: hybrid, Workers: 8, Duration: t.duration}
		err := t.fleet.client.Call(t.ctx, "handshakes", o, &r)
		if err != nil {
			return nil, err
		}
		used := t.proxy.cpu() - before
		return results{"": float64(r.Count) / r.Elapsed.Seconds(), "cpu": float64(used.Microseconds()) / float64(r.Count)}, nil
	}
}

// bulk moves one large body.
func bulk(up bool) func(*trial) (results, error) {
	return func(t *trial) (results, error) {
		var r bulkResult
		before := t.proxy.cpu()
		o := bulkOrder{Proto: t.bench.proto, Addr: t.proxy.addr(t.bench.proto), Up: up, Size: bulkSize}
		if err := t.fleet.client.Call(t.ctx, "bulk", o, &r); err != nil {
			return nil, err
		}
		m := results{"": bulkSize / (1 << 20) / r.Elapsed.Seconds()}
		if t.proxy.prog != nil {
			m["cpu"] = float64((t.proxy.cpu() - before).Microseconds()) / 1e3
		}
		return m, nil
	}
}

// idle measures resident memory before and after many connections are opened that then rest.
func idle(t *trial) (results, error) {
	addr := t.proxy.addr(t.bench.proto)
	defer t.fleet.client.Call(context.WithoutCancel(t.ctx), "drop", nil, nil)
	// What the first connections make for all later ones is no cost of a connection.
	if err := t.fleet.client.Call(t.ctx, "idle", idleOrder{Proto: t.bench.proto, Addr: addr, Count: 16}, nil); err != nil {
		return nil, err
	}
	if err := sleep(t.ctx, time.Second); err != nil {
		return nil, err
	}
	before := t.proxy.rss()
	if err := t.fleet.client.Call(t.ctx, "idle", idleOrder{Proto: t.bench.proto, Addr: addr, Count: idleCount}, nil); err != nil {
		return nil, err
	}
	if err := sleep(t.ctx, 3*time.Second); err != nil {
		return nil, err
	}
	after := t.proxy.rss()
	if after <= before {
		return nil, fmt.Errorf("resident memory went from %d to %d bytes", before, after)
	}
	return results{"": float64(after-before) / idleCount / (1 << 10), "base": float64(before) / (1 << 20)}, nil
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
