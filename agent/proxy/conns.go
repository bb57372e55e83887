package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
	"github.com/adit-mesh/adit/agent/telemetry"
)

// Why a live connection was cut. They are the errors of its access log line.
var (
	ErrPolicyChange  = errors.New("connection closed due to policy change")
	ErrDrained       = errors.New("connection closed due to connection drain")
	ErrClosed        = errors.New("connection closed due to shutdown")
	errHalfCloseIdle = errors.New("half-closed and idle")
	errLost          = errors.New("connection lost after a half-close")
	errJoined        = errors.New("a pod of the mesh has been given this address meanwhile, and is not connected to in plaintext")
	errClientGone    = errors.New("client reset the connection while its destination was dialled")
)

// Conns are the live connections of all local pods, from before they are
// decided until they are recorded.
type Conns struct {
	mu   sync.Mutex // guards the fields below
	last uint64
	live map[*conn]struct{}
}

// conn is one live connection. Cutting it means ending its context: whatever
// phase it is in, that phase watches the context.
type conn struct {
	id      uint64
	started time.Time
	pod     *servedPod // nil for the configured roles
	// kept says that a gateway keeps it for its next request: it is no reason to
	// go on running.
	kept bool

	ctx    context.Context // lives as long as the connection may
	cancel context.CancelCauseFunc
	watch  resetWatch     // while the destination of an outbound connection is dialled
	abort  sync.WaitGroup // the aborting by while

	// gate is what policy looks at again when it changes. nil for connections
	// that no policy of this side decides about.
	gate *gate

	mu    sync.Mutex // guards the fields below
	info  telemetry.Info
	phase Phase
	open  opened // zero before PhaseOpen
	seen  int64  // bytes at the latest sweep
	moved time.Time
}

// opened is what there is to know of a connection that is being copied.
type opened struct {
	rec   *telemetry.Record
	bytes func() (sent, received int64)
	legs  []*net.TCPConn
}

// gate is a policy decision that can be made again.
type gate struct {
	pod  *servedPod     // whose policies decide
	then *mesh.Workload // what it was when the connection came
	in   policy.Connection
}

// self is the pod's workload as it is known now, or was.
func (g *gate) self() *mesh.Workload {
	if w := g.pod.Workload(); w != nil {
		return w
	}
	return g.then
}

func (g *gate) check(s *mesh.Store) policy.Decision { return s.Policies(g.self()).Check(g.in) }

// Phase is how far a connection has got.
type Phase string

// The phases in which a connection can be seen.
const (
	PhaseDeciding Phase = "deciding"
	PhaseDialing  Phase = "dialing"
	PhaseOpen     Phase = "open"
)

func (cs *Conns) add(ctx context.Context, c *conn) {
	c.started = time.Now()
	c.phase = PhaseDeciding
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.live == nil {
		cs.live = make(map[*conn]struct{})
	}
	cs.last++
	c.id = cs.last
	cs.live[c] = struct{}{}
}

func (cs *Conns) remove(c *conn) {
	cs.mu.Lock()
	delete(cs.live, c)
	cs.mu.Unlock()
	c.cancel(nil)
}

// count is how many are somebody's who would lose by an end.
func (cs *Conns) count() int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	n := 0
	for c := range cs.live {
		if !c.kept {
			n++
		}
	}
	return n
}

func (cs *Conns) snapshot() []*conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	all := make([]*conn, 0, len(cs.live))
	for c := range cs.live {
		all = append(all, c)
	}
	return all
}

// recheck asks the policies again about every connection that they let in, and
// cuts those that they would no longer let in. It returns how many.
//
// A connection is added before its first check and policies are published
// before recheck is called, so that one of the two sees any change.
func (cs *Conns) recheck(s *mesh.Store) int {
	cut := 0
	sets := make(map[*mesh.Workload]policy.Set) // of one instant, and built once
	for _, c := range cs.snapshot() {
		if c.gate == nil {
			continue
		}
		self := c.gate.self()
		set, ok := sets[self]
		if !ok {
			set = s.Policies(self)
			sets[self] = set
		}
		if d := set.Check(c.gate.in); !d.Allowed {
			c.cancel(&deniedError{cause: ErrPolicyChange, decision: d})
			cut++
		}
	}
	return cut
}

func (c *conn) setInfo(info *telemetry.Info) {
	c.mu.Lock()
	c.info = *info
	c.mu.Unlock()
}

func (c *conn) setPhase(p Phase) {
	c.mu.Lock()
	c.phase = p
	c.mu.Unlock()
}

func (c *conn) setOpen(rec *telemetry.Record, bytes func() (sent, received int64), legs ...*net.TCPConn) {
	c.mu.Lock()
	c.phase, c.open, c.moved = PhaseOpen, opened{rec, bytes, legs}, time.Now()
	c.mu.Unlock()
}

// lostAfter is how long whoever reads a connection has to notice its error,
// which only one can take.
const lostAfter = 2 * sweepInterval

// sweep reports the bytes so far to telemetry, and cuts the connections that
// have ended in one direction and been silent for idle in the other: their peer
// is gone, or has forgotten them.
func (cs *Conns) sweep(now time.Time, idle time.Duration) {
	for _, c := range cs.snapshot() {
		c.sweep(now, idle)
	}
}

func (c *conn) sweep(now time.Time, idle time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != PhaseOpen {
		return
	}
	sent, received := c.open.bytes()
	if total := sent + received; total != c.seen {
		c.seen, c.moved = total, now
		c.open.rec.Progress(sent, received)
		return
	}
	for _, leg := range c.open.legs {
		switch tcpState(leg) {
		case tcpClose:
			// Nobody reads a direction that has ended, so its reset may have
			// gone unnoticed. Or both directions have ended and their bytes
			// are still on the way to a slow reader: then there is no error.
			if now.Sub(c.moved) >= lostAfter && socketError(leg) != nil {
				c.cancel(errLost)
				return
			}
		case tcpCloseWait, tcpFinWait1, tcpFinWait2:
			if now.Sub(c.moved) >= idle {
				c.cancel(fmt.Errorf("%w for %s", errHalfCloseIdle, idle))
				return
			}
		}
	}
}

// while runs copy and calls abort if the connection is cut before copy has
// returned. Both are over when while returns; the cause of the cut, if there
// was one, comes back.
func (c *conn) while(copy, abort func()) error {
	c.abort.Add(1)
	stop := context.AfterFunc(c.ctx, func() {
		defer c.abort.Done()
		abort()
	})
	copy()
	if stop() {
		c.abort.Done()
		return nil
	}
	c.abort.Wait()
	return context.Cause(c.ctx)
}

// ConnInfo describes one live connection for an operator.
type ConnInfo struct {
	ID          uint64         `json:"id"`
	Pod         string         `json:"pod,omitempty"` // uid of the local workload
	Direction   string         `json:"direction"`     // inbound | outbound
	Mode        string         `json:"mode"`
	Phase       Phase          `json:"phase"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	HBONE       string         `json:"hbone,omitempty"`
	SourceID    string         `json:"sourceIdentity,omitempty"`
	DestID      string         `json:"destinationIdentity,omitempty"`
	Service     string         `json:"service,omitempty"`
	Opened      time.Time      `json:"opened"`
	Sent        int64          `json:"bytesSent"`
	Received    int64          `json:"bytesReceived"`
}

// List describes the live connections, oldest first.
func (cs *Conns) List() []ConnInfo {
	all := cs.snapshot()
	infos := make([]ConnInfo, 0, len(all))
	for _, c := range all {
		infos = append(infos, c.describe())
	}
	slices.SortFunc(infos, func(a, b ConnInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

func (c *conn) describe() ConnInfo {
	c.mu.Lock()
	info, phase, bytes := c.info, c.phase, c.open.bytes
	c.mu.Unlock()
	ci := ConnInfo{
		ID: c.id, Direction: "outbound", Mode: info.Mode, Phase: phase,
		Source: info.SourceAddr, Destination: info.DestinationAddr, Opened: c.started,
	}
	if c.pod != nil {
		ci.Pod = c.pod.uid
	}
	if info.Reporter == telemetry.Destination {
		ci.Direction = "inbound"
	}
	if info.HBONEAddr.IsValid() {
		ci.HBONE = info.HBONEAddr.String()
	}
	if !info.SourceID.IsZero() {
		ci.SourceID = info.SourceID.String()
	}
	if !info.DestinationID.IsZero() {
		ci.DestID = info.DestinationID.String()
	}
	if info.Service != nil {
		ci.Service = info.Service.Key().String()
	}
	if bytes != nil {
		ci.Sent, ci.Received = bytes()
	}
	return ci
}
