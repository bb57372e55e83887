package inspect

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/policy"
)

// Arrival is a connection as the agent of its destination would see it.
type Arrival struct {
	Pod  string `json:"pod"`  // uid of the destination's workload
	Mode string `json:"mode"` // hbone, local or tcp
	// Peer is who the source would prove to be; "" is nobody.
	Peer string `json:"peer,omitempty"`
	// Source is the address that the destination would see.
	Source netip.Addr `json:"source"`
	// Local is where the tunnel arrives; Authority is what it asks for. Not for tcp.
	Local     netip.Addr `json:"local,omitzero"`
	Authority string     `json:"authority,omitempty"`
	// Destination is where a connection without a tunnel goes, for tcp.
	Destination netip.AddrPort `json:"destination,omitzero"`
}

// Query is the arrival as the query of GET /why.
func (a Arrival) Query() url.Values {
	q := url.Values{"pod": {a.Pod}, "mode": {a.Mode}, "from": {a.Source.String()}}
	if a.Peer != "" {
		q.Set("peer", a.Peer)
	}
	if a.Mode == "tcp" {
		q.Set("to", a.Destination.String())
	} else {
		q.Set("local", a.Local.String())
		q.Set("authority", a.Authority)
	}
	return q
}

// ParseArrival is the inverse of [Arrival.Query]. The error is an
// [*InputError].
func ParseArrival(q url.Values) (Arrival, error) {
	a := Arrival{Pod: q.Get("pod"), Mode: q.Get("mode"), Peer: q.Get("peer"), Authority: q.Get("authority")}
	var problems []error
	parse := func(key string, read func(string) error) {
		if err := read(q.Get(key)); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	parse("from", func(s string) (err error) { a.Source, err = netip.ParseAddr(s); return err })
	switch a.Mode {
	case "hbone", "local":
		parse("local", func(s string) (err error) { a.Local, err = netip.ParseAddr(s); return err })
	case "tcp":
		parse("to", func(s string) (err error) { a.Destination, err = netip.ParseAddrPort(s); return err })
	default:
		problems = append(problems, fmt.Errorf("mode: %q is none of hbone, local, tcp", a.Mode))
	}
	if a.Peer != "" {
		parse("peer", func(s string) error { _, err := spiffeid.FromString(s); return err })
	}
	if err := errors.Join(problems...); err != nil {
		return Arrival{}, &InputError{Message: err.Error()}
	}
	return a, nil
}

// Inbound is what the destination's side does about an [Arrival].
type Inbound struct {
	// AnsweredBy is the node whose agent says so; Local, that it is the
	// destination's own. Error is why that one could not be asked, if it was to
	// be: then this is what another one concludes.
	AnsweredBy string `json:"answeredBy,omitempty"`
	Local      bool   `json:"local"`
	Error      string `json:"error,omitempty"`

	Identity string `json:"identity,omitempty"` // that the destination presents
	Captured bool   `json:"captured"`
	Capture  string `json:"capture,omitempty"`
	// Problem is what breaks the handshake, before policy is asked.
	Problem     string       `json:"problem,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`

	// Destination is where in the pod it is delivered.
	Destination netip.AddrPort `json:"destination,omitzero"`
	Allowed     bool           `json:"allowed"`
	// Policy is the one that decided, "namespace/name", "" if none alone did.
	Policy string `json:"policy,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Status is what a tunnel is answered: 200, 400, 401 or 503.
	Status int      `json:"status,omitempty"`
	DryRun []DryRun `json:"dryRun,omitempty"`
	// Note is about connections of other sources that would fare otherwise.
	Note string `json:"note,omitempty"`
}

// DryRun is what a policy that is not enforced would have done.
type DryRun struct {
	Policy  string `json:"policy"`
	Action  string `json:"action"`
	Matched bool   `json:"matched"`
	Reason  string `json:"reason"`
}

// agentPorts are those on which the agent listens in a pod. The proxy delivers
// nothing to them.
var agentPorts = map[uint16]bool{15001: true, 15006: true, 15008: true}

// Receive says what would become of an arrival at a pod.
func (a *Agent) Receive(arr Arrival) Inbound {
	info := a.info()
	w := a.Store.WorkloadByUID(arr.Pod)
	in := Inbound{AnsweredBy: info.Node}
	if w == nil {
		d := a.Store.Policies(nil).Check(policy.Connection{})
		in.Reason, in.Status, in.Capture = d.Reason, 503, "nothing is known of workload "+arr.Pod
		return in
	}
	party := a.party(w, netip.Addr{})
	in.Local = a.isLocal(w)
	in.Captured, in.Capture, in.Certificate = party.Captured, party.Capture, party.Certificate
	if !in.Captured {
		in.Destination = arr.Destination
		switch {
		case party.Problem != "":
			in.Capture, in.Reason, in.Status = party.Problem, party.Problem, 503
		case arr.Mode == "tcp":
			in.Allowed, in.Reason = true, "the destination is not captured, so no policy of the mesh applies to it"
		}
		return in
	}
	in.Identity = party.Identity
	if arr.Mode == "hbone" {
		in.Problem = party.Problem
		if in.Local && in.Problem == "" {
			in.Problem = foreign(info.TrustDomains, arr.Peer, "the source")
		}
	}
	if arr.Mode == "tcp" && a.pastTheAgent(&in, w.UID, arr.Destination) {
		return in
	}
	a.admit(&in, w, arr)
	return in
}

// pastTheAgent finds what the capture rules of a local pod make of plaintext: it
// may reach the application without the agent.
func (a *Agent) pastTheAgent(in *Inbound, uid string, dst netip.AddrPort) bool {
	for _, c := range a.captured() {
		switch {
		case c.UID != uid:
		case c.BypassInbound:
			in.Destination, in.Allowed = dst, true
			in.Reason = "plaintext reaches this pod without the agent (annotation ambient.istio.io/bypass-inbound-capture), so no policy applies to it"
			return true
		case slices.Contains(c.ProbePorts, dst.Port()):
			in.Note = fmt.Sprintf("kubelet's own probes of port %d are let in whatever policy says", dst.Port())
		}
	}
	return false
}

// admit asks what the proxy asks about an arrival, in its order: where in the
// pod it goes, whether that is the agent itself, and then the policies.
func (a *Agent) admit(in *Inbound, w *mesh.Workload, arr Arrival) {
	dst := arr.Destination
	if arr.Mode != "tcp" {
		d, err := a.Store.Inbound(w, arr.Local, arr.Authority)
		if err != nil {
			in.Reason, in.Status = err.Error(), 503
			if refused := new(mesh.InboundError); errors.As(err, &refused) {
				in.Status = refused.Status
			}
			return
		}
		dst = d.Dst
	}
	in.Destination = dst
	if agentPorts[dst.Port()] {
		in.Reason = fmt.Sprintf("destination port %d belongs to the agent itself", dst.Port())
		in.Status = 503
		return
	}
	var peer spiffeid.ID
	if arr.Peer != "" {
		peer, _ = spiffeid.FromString(arr.Peer) // ParseArrival and Explain have seen it
	}
	d := a.Store.Policies(w).Check(policy.Connection{Source: peer, SourceAddr: arr.Source, Destination: dst})
	in.Allowed, in.Policy, in.Reason = d.Allowed, d.Policy, d.Reason
	in.Status = 200
	if !d.Allowed {
		in.Status = 401
	}
	for _, dry := range d.DryRun {
		in.DryRun = append(in.DryRun, DryRun{Policy: dry.Policy, Action: dry.Action.String(), Matched: dry.Matched, Reason: dry.Reason})
	}
}

// foreign says that an identity is of none of the accepted trust domains.
func foreign(accepted []string, id, whose string) string {
	parsed, err := spiffeid.FromString(id)
	if err != nil || len(accepted) == 0 || slices.Contains(accepted, parsed.TrustDomain().Name()) {
		return ""
	}
	return fmt.Sprintf("%s is %s, and certificates of trust domain %s are not accepted here", whose, id, parsed.TrustDomain().Name())
}
