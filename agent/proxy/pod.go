package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
)

// Pod is one local pod, as the proxy needs it.
type Pod struct {
	// UID is that of its workload.
	UID string
	// Workload returns what is known of the pod now, nil before anything is.
	Workload func() *mesh.Workload
	// Outbound and Inbound accept captured connections; their LocalAddr is the
	// original destination. HBONE accepts peers on port 15008. The proxy closes
	// all three.
	Outbound, Inbound, HBONE net.Listener
	// Dial connects from the pod to the network.
	Dial func(ctx context.Context, dst netip.AddrPort) (*net.TCPConn, error)
	// DialApp connects to the pod's application, from the address src.
	DialApp func(ctx context.Context, src netip.Addr, dst netip.AddrPort) (*net.TCPConn, error)
}

// servedPod is a Pod being served.
type servedPod struct {
	Pod
	uid      string
	instance uint64          // no two servings share tunnels, even of one uid
	hard     context.Context // ends when the pod's connections must
	cut      context.CancelCauseFunc
	inflight inflight
	// leaving and entering have a place for each accepted connection that is not
	// open yet: those from the pod, and plaintext ones to it. Streams of tunnels
	// have a limit of their own.
	leaving, entering places
}

// maxOpening is how many accepted connections of one pod and direction may not
// be open yet. Whoever has that many, by dials that nobody answers, waits: the
// next ones stay in the backlog of the kernel, for the descriptors of the agent
// are everybody's.
const maxOpening = 1024

// places is a counting semaphore.
type places chan struct{}

func (p places) free() { <-p }

// backlogGrace is how long connections that the kernel had already accepted
// when the pod's context ended are still taken.
const backlogGrace = 50 * time.Millisecond

// ServePod serves pod until ctx ends. Then it stops accepting, tells peers by
// GOAWAY, lets live connections end for Config.DrainTimeout, cuts the rest, and
// returns when all is over. If [ErrClosed] is the cause of ctx's end, there is
// no drain; a [DrainWithin] shortens it. An error means that the pod could not be served, or that a listener
// broke.
func (p *Proxy) ServePod(ctx context.Context, pod Pod) error {
	defer func() {
		pod.Outbound.Close()
		pod.Inbound.Close()
		pod.HBONE.Close()
	}()
	sp, err := p.enlist(pod)
	if err != nil {
		return err
	}
	defer p.delist(sp)

	self, err := p.workload(ctx, sp)
	if err != nil {
		return err
	}
	server := hbone.NewServer(hbone.ServerConfig{
		TLS:     p.ids.ServerTLS(self.Identity()),
		Handler: func(ctx context.Context, s *hbone.Stream) { p.serveHBONE(ctx, sp, s) },
		Logger:  p.log,
		OnHandshake: p.onHandshake(telemetry.Info{
			Reporter: telemetry.Destination, Mode: "hbone", DestinationAddr: addrPort(pod.HBONE.Addr()),
			Destination: self, DestinationID: self.Identity(),
		}),
	})

	failed := make(chan error, 3)
	var loops sync.WaitGroup
	loops.Go(func() { failed <- p.acceptLoop(ctx, sp, pod.Outbound, sp.leaving, p.serveOutbound) })
	loops.Go(func() { failed <- p.acceptLoop(ctx, sp, pod.Inbound, sp.entering, p.serveInbound) })
	loops.Go(func() {
		if err := server.Serve(pod.HBONE); !errors.Is(err, hbone.ErrServerClosed) {
			failed <- fmt.Errorf("accept on %s: %w", pod.HBONE.Addr(), err)
		}
	})

	select {
	case <-ctx.Done():
	case err = <-failed:
		if ctx.Err() != nil {
			err = nil // an accept loop that saw the end before we did
		}
	}
	p.drain(ctx, sp, server, &loops)
	return err
}

func (p *Proxy) enlist(pod Pod) (*servedPod, error) {
	sp := p.newServing()
	sp.Pod, sp.uid = pod, pod.UID
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pods[pod.UID] != nil {
		return nil, fmt.Errorf("pod %s is served already", pod.UID)
	}
	p.pods[pod.UID] = sp
	return sp, nil
}

// newServing makes a serving that belongs to no pod yet.
func (p *Proxy) newServing() *servedPod {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instance++
	sp := &servedPod{instance: p.instance, leaving: make(places, p.maxOpening), entering: make(places, p.maxOpening)}
	sp.hard, sp.cut = context.WithCancelCause(context.Background())
	return sp
}

func (p *Proxy) delist(sp *servedPod) {
	p.mu.Lock()
	delete(p.pods, sp.uid)
	p.mu.Unlock()
	sp.cut(ErrClosed)
	// The tunnels' sockets live in the pod's network namespace.
	p.pool.Evict(func(key any) bool {
		k, ok := key.(tunnelKey)
		return ok && k.instance == sp.instance
	})
}

// drain ends the serving of sp: softly until DrainTimeout, then at once.
func (p *Proxy) drain(ended context.Context, sp *servedPod, server *hbone.Server, loops *sync.WaitGroup) {
	time.Sleep(backlogGrace)
	sp.Outbound.Close()
	sp.Inbound.Close()
	p.drainServer(ended, sp, server)
	loops.Wait()
}

// drainServer ends a server and all connections of sp, those that server does
// not know included.
func (p *Proxy) drainServer(ended context.Context, sp *servedPod, server *hbone.Server) {
	ctx, cancel := context.WithTimeout(sp.hard, p.drainTimeout(ended))
	defer cancel()
	// Both have the same time, one after the other would have twice as much.
	var waiting sync.WaitGroup
	waiting.Go(func() { _ = server.Shutdown(ctx) })
	p.drainUntil(ctx, sp)
	waiting.Wait()
}

func (p *Proxy) drainTimeout(ended context.Context) time.Duration {
	cause := context.Cause(ended)
	if errors.Is(cause, ErrClosed) {
		return 0
	}
	if within := DrainWithin(0); errors.As(cause, &within) {
		return min(time.Duration(within), p.cfg.DrainTimeout)
	}
	return p.cfg.DrainTimeout
}

// DrainWithin is the cause of a context's end that leaves live connections less
// time than Config.DrainTimeout: their pod's network is about to go.
type DrainWithin time.Duration

func (d DrainWithin) Error() string { return "drain within " + time.Duration(d).String() }

// drainConnections is drainServer without a server.
func (p *Proxy) drainConnections(ended context.Context, sp *servedPod) {
	ctx, cancel := context.WithTimeout(sp.hard, p.drainTimeout(ended))
	defer cancel()
	p.drainUntil(ctx, sp)
}

// drainUntil waits for the connections of sp, and cuts those that outlive ctx.
func (p *Proxy) drainUntil(ctx context.Context, sp *servedPod) {
	if err := sp.inflight.wait(ctx); err == nil {
		sp.inflight.close()
		// One may have come in between, from the backlog or an open tunnel.
		if sp.inflight.wait(ctx) == nil {
			return
		}
	}
	sp.inflight.close()
	p.log.Info("closing connections that outlived the drain",
		"pod", sp.uid, "connections", sp.inflight.count())
	sp.cut(ErrDrained)
	_ = sp.inflight.wait(context.Background()) // every phase watches sp.hard
}
