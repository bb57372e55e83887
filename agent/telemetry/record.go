package telemetry

import (
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/hbone"
)

// Reporter says at which end of a connection this agent is.
type Reporter uint8

const (
	Source Reporter = iota
	Destination
)

func (r Reporter) String() string {
	if r == Destination {
		return "destination"
	}
	return "source"
}

func (r Reporter) direction() string {
	if r == Destination {
		return "inbound"
	}
	return "outbound"
}

// Flag is Istio's response flag: why a connection ended as it did.
type Flag string

// The response flags of ztunnel. Any other is counted as FlagNone and logged
// as it is.
const (
	FlagNone          Flag = "-"
	FlagDeny          Flag = "DENY"                 // policy
	FlagConnect       Flag = "CONNECT"              // the upstream could not be reached
	FlagTLSFailure    Flag = "TLS_FAILURE"          // handshake or peer verification
	FlagH2Failure     Flag = "H2_HANDSHAKE_FAILURE" // preface or SETTINGS
	FlagNetworkPolicy Flag = "NETWORK_POLICY"       // connect to the HBONE port timed out
	FlagIdentityError Flag = "IDENTITY_ERROR"       // no certificate to present
	FlagCertRevoked   Flag = "CERT_REVOKED"
)

var flags = [...]Flag{FlagNone, FlagDeny, FlagConnect, FlagTLSFailure, FlagH2Failure,
	FlagNetworkPolicy, FlagIdentityError, FlagCertRevoked}

func (f Flag) index() int {
	for i, g := range flags {
		if f == g {
			return i
		}
	}
	return 0
}

// Info is what is known of a connection. What is not known stays zero.
type Info struct {
	Reporter            Reporter
	Source, Destination *mesh.Workload
	// SourceID and DestinationID are known for certain: from a verified
	// SVID, or because the agent holds the pod behind the socket.
	SourceID, DestinationID spiffeid.ID
	// Service is the one that the source addressed.
	Service *mesh.Service
	// SourceAddr and DestinationAddr are as the application sees them.
	SourceAddr, DestinationAddr netip.AddrPort
	// HBONEAddr is where the tunnel goes; zero without one.
	HBONEAddr netip.AddrPort
	// Authority is the :authority of the CONNECT request. "" means
	// DestinationAddr.
	Authority string
	MutualTLS bool
	// SourceBaggage is the peer's word about the source. It counts only if
	// Source is nil.
	SourceBaggage *hbone.Baggage
	// Mode is "hbone", "tcp", "local" or "passthrough".
	Mode string
}

// Record is one open connection. Its methods may be called concurrently.
type Record struct {
	t     *Telemetry
	start time.Time

	mu             sync.Mutex // guards the fields below
	info           Info
	series         *series
	mode           int
	sent, received int64
	closed         bool
}

// Open counts a connection as opened. It must be closed.
func (t *Telemetry) Open(info Info) *Record {
	r := &Record{t: t, start: time.Now(), info: info, mode: modeIndex(info.Mode)}
	r.series = t.table.open(&r.info, r.start)
	t.active.add(info.Reporter, r.mode, 1)
	return r
}

// Update says that the connection goes on as another one: a retry chose
// another endpoint. For the metrics it ends, as not connected, and a new one
// opens; the log has one line, of the new one.
func (r *Record) Update(info Info) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.t.active.add(r.info.Reporter, r.mode, -1)
	r.info, r.mode = info, modeIndex(info.Mode)
	r.t.active.add(r.info.Reporter, r.mode, 1)
	r.series = r.t.table.move(r.series, &r.info, time.Now())
}

// Progress moves the byte counters of a connection that is still open to its
// totals so far: sent goes from the source to the destination, received the
// other way. Totals that went backwards are ignored.
func (r *Record) Progress(sent, received int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.count(sent, received)
	}
}

// count needs r.mu held.
func (r *Record) count(sent, received int64) {
	if d := sent - r.sent; d > 0 {
		r.series.received.Add(uint64(d)) // Istio's view, see the package comment
		r.sent = sent
	}
	if d := received - r.received; d > 0 {
		r.series.sent.Add(uint64(d))
		r.received = received
	}
}

// Close counts the connection as closed, whatever err is, and writes its line.
// The totals are those of Progress. err is why it did not end well, flag what
// Istio calls that. Further calls do nothing.
func (r *Record) Close(sent, received int64, err error, flag Flag) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	now := time.Now()
	r.count(sent, received)
	r.series.closed[flag.index()].Add(1)
	r.t.table.release(r.series, now)
	r.t.active.add(r.info.Reporter, r.mode, -1)
	r.t.writeLine(line{
		info: &r.info, time: now, duration: now.Sub(r.start),
		sent: r.sent, received: r.received, err: err, flag: flag,
	})
}

// FailQuietly is Fail without the line: for failures that come in floods.
func (t *Telemetry) FailQuietly(info Info, flag Flag) {
	t.table.fail(&info, flag, time.Now())
}

// Fail counts a connection that was never opened, and writes its line.
func (t *Telemetry) Fail(info Info, err error, flag Flag) {
	now := time.Now()
	t.table.fail(&info, flag, now)
	t.writeLine(line{info: &info, time: now, err: err, flag: flag})
}
