package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// A fleet is every process of a run.
type fleet struct {
	nursery *proc.Nursery
	command []string
	dir     string // temporary: the root of the TLS paths
	peers   []Peer

	client, server, waker *proc.Worker
	target                string // where the server listens
}

// openFleet starts load client, load server and, if awake is set, the waker. close must be called.
// Where a network namespace was wanted and cannot be had, lone says why.
func openFleet(ctx context.Context, cfg Config) (f *fleet, lone error, err error) {
	dir, err := os.MkdirTemp("", "adit-bench-")
	if err != nil {
		return nil, nil, err
	}
	n, lone := proc.NewNursery(!cfg.NoNamespace)
	f = &fleet{nursery: n, command: cfg.Command, dir: dir, peers: cfg.Peers}
	if err := f.startAll(ctx, !cfg.LetSleep); err != nil {
		f.close()
		return nil, nil, err
	}
	return f, lone, nil
}

func (f *fleet) startAll(ctx context.Context, awake bool) (err error) {
	if f.server, err = f.start(roleServer, "load server"); err != nil {
		return err
	}
	if err := f.server.Call(ctx, "listen", addrServer, &f.target); err != nil {
		return err
	}
	if f.client, err = f.start(roleClient, "load client"); err != nil {
		return err
	}
	if awake {
		f.waker, err = f.start(roleAwake, "waker")
	}
	return err
}

func (f *fleet) start(role, name string) (*proc.Worker, error) {
	return proc.StartWorker(f.nursery, f.command, role, name)
}

// keepAwake keeps the processors awake until the returned function is called.
func (f *fleet) keepAwake(ctx context.Context) (sleepAgain func(), err error) {
	if f.waker == nil {
		return func() {}, nil
	}
	if err := f.waker.Call(ctx, "start", nil, nil); err != nil {
		return nil, err
	}
	return func() { f.waker.Call(context.WithoutCancel(ctx), "stop", nil, nil) }, nil
}

// checkSize is what a path carries each way, compared byte by byte, before it is measured.
const checkSize = 8 << 20

// check proves that a route is a faithful one.
func (f *fleet) check(ctx context.Context, r *route) error {
	if err := f.client.Call(ctx, "check", checkOrder{Target: r.entry, Size: checkSize}, nil); err != nil {
		return fmt.Errorf("path %s is not faithful, so its speed means nothing: %w", r.name, err)
	}
	return nil
}

func (f *fleet) close() {
	for _, p := range []*proc.Worker{f.client, f.server, f.waker} {
		if p != nil {
			p.Stop()
		}
	}
	f.nursery.Close()
	os.RemoveAll(f.dir)
}

// cpu is what the bench and its processes, ended ones included, have consumed: what else the machine did was others' work.
func (f *fleet) cpu(ctx context.Context, routes []*route) time.Duration {
	total := proc.RusageCPU(unix.RUSAGE_SELF) + proc.RusageCPU(unix.RUSAGE_CHILDREN)
	for _, p := range []*proc.Worker{f.client, f.server, f.waker} {
		var u proc.Usage
		if p != nil && p.Call(ctx, "usage", nil, &u) == nil {
			total += u.CPU
		}
	}
	for _, r := range routes {
		if a, b, err := r.usage(ctx); err == nil {
			total += a.CPU + b.CPU
		}
	}
	return total
}
