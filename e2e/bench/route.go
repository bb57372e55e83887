package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// Addresses of the parts. All of 127.0.0.0/8 is the loopback; one address each makes a packet capture readable.
const (
	addrA      = "127.0.0.2:0"
	addrB      = "127.0.0.3:0"
	addrServer = "127.0.0.4:0"
)

// A route is a path with its processes running.
type route struct {
	name  string
	entry string        // where the client connects
	a, b  *proc.Worker  // nil where the path has no such agent of ours
	peer  *proc.Program // an external program instead
}

// openRoute starts the agents of a path toward target: a pair, or one that plays the side single. close must be called.
func (f *fleet) openRoute(ctx context.Context, path, single, target string) (*route, error) {
	r := &route{name: path, entry: target}
	for _, p := range f.peers {
		if p.Name == path {
			return f.openPeer(ctx, p, target)
		}
	}
	if path == pathDirect {
		return r, nil
	}
	order := agentOrder{Path: path, Side: single, Listen: addrA, CADir: filepath.Join(f.dir, "ca")}
	var err error
	if order.Target, err = netip.ParseAddrPort(target); err != nil {
		return nil, err
	}
	if single == "" {
		order.Side, order.Listen = sideB, addrB
		if r.b, err = f.startAgent(ctx, order, &order.Next); err != nil {
			return nil, err
		}
		order.Side, order.Listen = sideA, addrA
	}
	if r.a, err = f.startAgent(ctx, order, &r.entry); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// startAgent starts half a path and stores where it listens in addr: a string or a netip.AddrPort.
func (f *fleet) startAgent(ctx context.Context, order agentOrder, addr any) (*proc.Worker, error) {
	p, err := f.start(roleAgent, fmt.Sprintf("%s agent, side %s", order.Path, order.Side))
	if err != nil {
		return nil, err
	}
	if err := p.Call(ctx, "serve", order, addr); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (r *route) agents() []*proc.Worker {
	var agents []*proc.Worker
	for _, p := range []*proc.Worker{r.a, r.b} {
		if p != nil {
			agents = append(agents, p)
		}
	}
	return agents
}

func (r *route) close() {
	for _, p := range r.agents() {
		p.Stop()
	}
	if r.peer != nil {
		r.peer.Stop()
	}
}

// proxied reports whether there is anything between client and server.
func (r *route) proxied() bool { return r.speaks() || r.peer != nil }

// speaks reports whether there are agents that can be asked for allocations and goroutines.
func (r *route) speaks() bool { return r.a != nil }

// usage of either agent. An external peer's is a's: the bench cannot tell its halves apart.
func (r *route) usage(ctx context.Context) (a, b proc.Usage, err error) {
	if r.peer != nil {
		a, _ = proc.GroupUsage(r.peer.PID())
		return a, b, nil
	}
	if r.a != nil {
		err = r.a.Call(ctx, "usage", nil, &a)
	}
	if r.b != nil {
		err = errors.Join(err, r.b.Call(ctx, "usage", nil, &b))
	}
	return a, b, err
}

// resident is the RSS of either agent in bytes.
func (r *route) resident() (a, b int64, err error) {
	if r.peer != nil {
		_, a = proc.GroupUsage(r.peer.PID())
		return a, 0, nil
	}
	if r.a != nil {
		a, err = proc.RSS(r.a.PID())
	}
	if r.b != nil && err == nil {
		b, err = proc.RSS(r.b.PID())
	}
	return a, b, err
}

// release has the agents give back what is garbage.
func (r *route) release(ctx context.Context) error {
	var err error
	for _, p := range r.agents() {
		err = errors.Join(err, p.Call(ctx, "release", nil, nil))
	}
	return err
}

func (r *route) setCold(ctx context.Context, on bool) error {
	if r.a == nil {
		return nil
	}
	return r.a.Call(ctx, "cold", on, nil)
}
