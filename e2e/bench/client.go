package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// Kinds of load.
const (
	kindUp        = "up"         // bulk from client to server
	kindDown      = "down"       // bulk from server to client
	kindPing      = "ping"       // request and answer of Size bytes, one at a time per connection
	kindConnect   = "connect"    // connect, one byte each way, close; Count of them at a time
	kindIdle      = "idle"       // one ping of Size bytes, then silence
	kindStallUp   = "stall-up"   // bulk up, and the server does not read
	kindStallDown = "stall-down" // bulk down, and the client does not read
)

// A load is what one group of connections does.
type load struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	Size  int    `json:"size,omitempty"`
}

// loadOrder starts loads toward a path; more loads may follow, until all are stopped together.
type loadOrder struct {
	Target string `json:"target"`
	Loads  []load `json:"loads"`
}

// loadClient is the near end of every path.
type loadClient struct {
	run *loadRun // what is under way; only the control loop touches it
}

func newLoadClient() *loadClient { return new(loadClient) }

// loadRun is everything between two stops.
type loadRun struct {
	stopping  atomic.Bool
	recording atomic.Int64 // number of the record being made, 0 for none; each replaces the one before
	workers   sync.WaitGroup

	received atomic.Int64 // bytes of kindDown
	sent     atomic.Int64 // bytes of kindUp and kindStallUp
	ops      atomic.Int64 // pings and connects

	// Connections that stop has to end, because no worker does. Only the control loop touches these.
	stalled, idle, pinging []*net.TCPConn

	mu        sync.Mutex
	records   int64    // made so far
	latencies []uint32 // nanoseconds, of operations that ended in the last record
	errs      []error  // the first few
}

// loadResult is what a stopped run reports.
type loadResult struct {
	Ops      int64   `json:"ops"`      // pings and connects that ended in the last record
	Received int64   `json:"received"` // since the start of the run
	Sent     int64   `json:"sent"`
	P50      float64 `json:"p50"` // nanoseconds, of those that ended in the last record
	P99      float64 `json:"p99"`
}

// clientMark is a reading while a run is under way.
type clientMark struct {
	counters
	Ops int64 `json:"ops"` // since the start of the run
}

func (c *loadClient) handle(do string, arg json.RawMessage) (any, error) {
	switch do {
	case "start":
		order, err := proc.DecodeArg[loadOrder](arg)
		if err != nil {
			return nil, err
		}
		return nil, c.start(order)
	case "record":
		on, err := proc.DecodeArg[bool](arg)
		if err != nil {
			return nil, err
		}
		return nil, c.run.record(on)
	case "mark":
		return c.run.mark()
	case "stop":
		return c.stop()
	case "free":
		addrs, err := proc.DecodeArg[[]string](arg)
		if err != nil {
			return nil, err
		}
		return proc.FreePorts(addrs)
	case "check":
		order, err := proc.DecodeArg[checkOrder](arg)
		if err != nil {
			return nil, err
		}
		return nil, check(order)
	}
	return proc.HandleCommon(do)
}

var errNoRun = errors.New("no load is under way")

func (r *loadRun) mark() (clientMark, error) {
	if r == nil {
		return clientMark{}, errNoRun
	}
	return clientMark{
		counters: counters{At: monotonic(), Received: r.received.Load(), Sent: r.sent.Load()},
		Ops:      r.ops.Load(),
	}, nil
}

func (r *loadRun) record(on bool) error {
	if r == nil {
		return errNoRun
	}
	if !on {
		r.recording.Store(0)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records++
	r.recording.Store(r.records)
	return nil
}

// start opens every connection of the order and sets it to work. On an error the caller stops the run.
func (c *loadClient) start(order loadOrder) error {
	if c.run == nil {
		c.run = new(loadRun)
	}
	for _, l := range order.Loads {
		if err := c.startLoad(order.Target, l); err != nil {
			return fmt.Errorf("%d × %s: %w", l.Count, l.Kind, err)
		}
	}
	return nil
}

func (c *loadClient) startLoad(target string, l load) error {
	run := c.run
	if l.Kind == kindConnect {
		for range l.Count {
			run.workers.Go(func() { run.connectLoop(target) })
		}
		return nil
	}
	conns, err := openAll(target, l)
	if err != nil {
		return err
	}
	for _, conn := range conns {
		switch l.Kind {
		case kindUp:
			run.workers.Go(func() { run.up(conn) })
		case kindDown:
			run.workers.Go(func() { run.down(conn) })
		case kindPing:
			run.pinging = append(run.pinging, conn)
			run.workers.Go(func() { run.pingLoop(conn, l.Size) })
		case kindIdle:
			run.idle = append(run.idle, conn)
		case kindStallUp:
			run.stalled = append(run.stalled, conn)
			run.workers.Go(func() { writePattern(conn, &run.sent, run.stopping.Load) })
		case kindStallDown:
			run.stalled = append(run.stalled, conn)
		default:
			return fmt.Errorf("unknown kind of load %q", l.Kind)
		}
	}
	return nil
}

// stop ends the run in order and waits for every connection's end to come back.
func (c *loadClient) stop() (loadResult, error) {
	run := c.run
	if run == nil {
		return loadResult{}, errNoRun
	}
	c.run = nil
	run.stopping.Store(true)
	for _, conn := range run.stalled {
		conn.SetLinger(0) // nobody reads what is under way: a reset, not an end
		conn.Close()
	}
	for _, conn := range run.idle {
		conn.Close()
	}
	for _, conn := range run.pinging {
		conn.SetDeadline(time.Now().Add(pingPatience)) // one on a dead path would wait for ever
	}
	done := make(chan struct{})
	go func() { run.workers.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * settleTimeout):
		return loadResult{}, errors.New("connections did not end in time")
	}
	slices.Sort(run.latencies)
	return loadResult{
		Ops: int64(len(run.latencies)), Received: run.received.Load(), Sent: run.sent.Load(),
		P50: orZero(stats.Percentile(run.latencies, 0.50)), P99: orZero(stats.Percentile(run.latencies, 0.99)),
	}, errors.Join(run.errs...)
}

// orZero keeps NaN out of JSON, which has none.
func orZero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}

// pingPatience is how long an answer may take once the run is over.
const pingPatience = 2 * time.Second

func (r *loadRun) fail(err error) {
	if err == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.errs) < 4 {
		r.errs = append(r.errs, err)
	}
}

func (r *loadRun) up(conn *net.TCPConn) {
	defer conn.Close()
	if err := writePattern(conn, &r.sent, r.stopping.Load); err != nil {
		r.fail(err)
		return
	}
	r.fail(finish(conn))
}

func (r *loadRun) down(conn *net.TCPConn) {
	defer conn.Close()
	r.workers.Go(func() { endWhen(conn, &r.stopping) })
	r.fail(readPattern(conn, &r.received))
}

// endWhen half-closes conn once stopping is set.
func endWhen(conn *net.TCPConn, stopping *atomic.Bool) {
	for !stopping.Load() {
		time.Sleep(5 * time.Millisecond)
	}
	conn.CloseWrite()
}

// finish ends our direction and waits for the end of the other, which must bring no bytes.
func finish(conn *net.TCPConn) error {
	if err := conn.CloseWrite(); err != nil {
		return fmt.Errorf("half-close: %w", err)
	}
	conn.SetReadDeadline(time.Now().Add(settleTimeout))
	if err := readWhole(conn, 0); err != nil {
		return fmt.Errorf("after the half-close: %w", err)
	}
	return nil
}
