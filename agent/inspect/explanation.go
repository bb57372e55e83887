package inspect

import (
	"net/netip"
	"slices"

	"github.com/adit-mesh/adit/agent/mesh"
)

// Explanation is what would become of a connection. GET /why?src=&dst= is one.
type Explanation struct {
	// Src and Dst are the question as it was asked.
	Src string `json:"src"`
	Dst string `json:"dst"`
	// Verdict, Security and Because sum up the rest; see [Explanation.Conclude].
	Verdict  Verdict  `json:"verdict"`
	Security Security `json:"security,omitempty"`
	Because  string   `json:"because"`
	// AnsweredBy is the node whose agent explains.
	AnsweredBy  string         `json:"answeredBy,omitempty"`
	Source      Party          `json:"source"`
	Destination netip.AddrPort `json:"destination"` // as the source would dial it
	// Legs are the connections that carry it one after another: one, or two
	// with a waypoint between.
	Legs []Leg `json:"legs"`
	// Notes are how the question was taken, and what else there is to know.
	Notes []string `json:"notes,omitempty"`
}

// Verdict is whether a connection would come about.
type Verdict string

// The verdicts. Depends is for endpoints that would answer differently, and for
// a source that is not settled yet.
const (
	Connects Verdict = "connects"
	Refused  Verdict = "refused"
	Depends  Verdict = "depends"
)

// Party is one end of a leg.
type Party struct {
	Pod      string     `json:"pod,omitempty"` // "namespace/name", "" = nothing is known
	UID      string     `json:"uid,omitempty"` // of its workload
	Address  netip.Addr `json:"address,omitzero"`
	Node     string     `json:"node,omitempty"`
	Identity string     `json:"identity,omitempty"`
	// Captured: an agent carries its connections. Capture says why, or why not.
	Captured bool   `json:"captured"`
	Capture  string `json:"capture,omitempty"`
	// Problem is what keeps it from connecting as it should.
	Problem string `json:"problem,omitempty"`
	// Certificate is known to the agent of the party's node only.
	Certificate *Certificate `json:"certificate,omitempty"`
}

// Routes beside those of [mesh.RouteKind].
const (
	// RouteUncaptured: no agent sees the connection leave its source.
	RouteUncaptured = "uncaptured"
	// RouteInside: it does not leave the pod.
	RouteInside = "inside"
)

// Leg is one decision about where to go, and who is there.
type Leg struct {
	From Party `json:"from"`
	// Route is "mesh", "passthrough", "refuse", or one of the words above.
	Route string `json:"route"`
	// Reason is why, for "refuse".
	Reason string `json:"reason,omitempty"`
	// Service is the one that was addressed, "namespace/hostname"; Endpoints
	// counts the pods that serve it.
	Service   string `json:"service,omitempty"`
	Endpoints int    `json:"endpoints,omitempty"`
	// Hops are the candidates, in the order in which they would be dialled: the
	// next when one fails before the first byte. Another connection may draw
	// others.
	Hops []Hop `json:"hops,omitempty"`
}

// Hop is one candidate of a Leg.
type Hop struct {
	To Party `json:"to"`
	// Mode is as in the access log: hbone, local (inside the agent), tcp to a
	// workload that is not in the mesh, or passthrough to something unknown.
	Mode string `json:"mode"`
	// Dial is where the TCP connection goes.
	Dial netip.AddrPort `json:"dial"`
	// Authority is what the tunnel asks for, and Expect of whom it takes the
	// answer, for hbone.
	Authority string   `json:"authority,omitempty"`
	Expect    []string `json:"expect,omitempty"`
	Waypoint  bool     `json:"waypoint,omitempty"`
	// Problem is what the source's side finds wrong with it.
	Problem string `json:"problem,omitempty"`
	// Arrival is the question to the agent of the other end, and Inbound the
	// answer. nil where no agent is.
	Arrival *Arrival `json:"arrival,omitempty"`
	Inbound *Inbound `json:"inbound,omitempty"`
}

// Conclude sets Verdict, Security and Because by the rest of the explanation.
// Explain has called it; call it again once a better-informed Inbound has been
// put in.
//
// It tells the errors for which the proxy tries another endpoint from those
// that are an answer: a refusal by policy is one.
func (e *Explanation) Conclude() {
	e.Verdict, e.Security, e.Because = Refused, "", "there is no route"
	for i := range e.Legs {
		verdict, security, because := e.Legs[i].conclude()
		if i == 0 || security == Plaintext {
			e.Security = security
		}
		e.Verdict, e.Because = verdict, because
		if verdict != Connects {
			break
		}
	}
	if e.Verdict == Refused {
		e.Security = ""
	}
}

func (l *Leg) conclude() (Verdict, Security, string) {
	switch l.Route {
	case mesh.RouteRefuse.String():
		return Refused, "", l.Reason
	case RouteInside:
		return Connects, "", "it stays inside the pod, where nothing decides about it"
	}
	if l.From.Problem != "" && l.Route != RouteUncaptured && !l.From.Captured {
		return Depends, "", l.From.Problem
	}
	var connects, refuses, passed int
	security := Security("")
	because, refusal := "", ""
	for i := range l.Hops {
		h := &l.Hops[i]
		problem, final := h.problem(l.From)
		switch {
		case problem == "":
			if connects++; connects == 1 {
				security, because = securityOf(h.Mode), h.because(l)
			}
			continue
		case final || l.Route == RouteUncaptured: // nobody tries another for it
			refuses++
		default:
			passed++
		}
		if refusal == "" {
			refusal = problem
		}
	}
	switch {
	case connects == 0 && len(l.Hops) > 0:
		return Refused, "", refusal
	case refuses > 0:
		return Depends, security, "it depends on the endpoint: " + refusal
	case passed > 0:
		return Connects, security, because + ", after an endpoint is passed over: " + refusal
	}
	return Connects, security, because
}

// problem is what keeps a connection from using this hop, "" if nothing does.
// final: no other endpoint would be tried.
func (h *Hop) problem(from Party) (why string, final bool) {
	if h.Mode == "hbone" {
		if from.Problem != "" {
			return from.Problem, true
		}
		if h.Problem != "" {
			return h.Problem, false
		}
	}
	in := h.Inbound
	switch {
	case in == nil:
		return "", false
	case h.Mode == "hbone" && !in.Captured:
		return "nobody takes HBONE at " + h.Dial.String() + ": " + in.Capture, false
	case h.Mode == "hbone" && in.Identity != "" && !slices.Contains(h.Expect, in.Identity):
		return "the peer would prove to be " + in.Identity + ", which is not who is expected", false
	case h.Mode == "hbone" && in.Problem != "":
		return "the peer's side: " + in.Problem, false
	case !in.Allowed:
		return in.Reason, in.Status < 500
	}
	return "", false
}

// because words why a hop connects.
func (h *Hop) because(l *Leg) string {
	switch {
	case h.Inbound != nil && h.Inbound.Captured:
		return h.Inbound.Reason
	case h.Waypoint:
		return "the waypoint decides"
	case h.Mode == "hbone":
		return "the peer speaks HBONE itself, and decides itself"
	case l.Route == mesh.RoutePassthrough.String():
		return "nothing is known of the destination, so it is dialled as it is; no policy of the mesh applies to it"
	case l.Route == RouteUncaptured:
		return "no agent is at either end"
	}
	return "the destination is not in the mesh, so no policy of the mesh applies to it"
}
