package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/agent/mesh"
)

// Why writes an explanation. now is the clock by which certificates are judged.
func Why(w io.Writer, width int, now time.Time, e *inspect.Explanation) {
	verdict := string(e.Verdict)
	if e.Security != "" {
		verdict += ", " + string(e.Security)
	}
	paragraph(w, width, "", "  ", fmt.Sprintf("%s -> %s: %s", e.Src, e.Dst, verdict))
	paragraph(w, width, "  ", "  ", e.Because)
	p := printer{w, width, now}
	fmt.Fprintln(w)
	p.field("source", partyLine(e.Source))
	p.party(e.Source)
	p.field("destination", destinationLine(e))
	for i := range e.Legs {
		fmt.Fprintln(w)
		p.leg(&e.Legs[i], i)
	}
	for i, note := range e.Notes {
		if i == 0 {
			fmt.Fprintln(w)
		}
		p.field("note", note)
	}
}

type printer struct {
	w     io.Writer
	width int
	now   time.Time
}

const nameWidth = 13

func (p *printer) field(name, text string) { p.indented("", name, text) }

func (p *printer) indented(indent, name, text string) {
	if text == "" {
		return
	}
	paragraph(p.w, p.width, fmt.Sprintf("%s%-*s", indent, nameWidth, name), indent+strings.Repeat(" ", nameWidth), text)
}

func partyLine(p inspect.Party) string {
	line := p.Address.String()
	if p.Pod != "" {
		line = p.Pod + ", " + line
	}
	if p.Node != "" {
		line += ", on node " + p.Node
	}
	return line
}

func destinationLine(e *inspect.Explanation) string {
	line := e.Destination.String()
	if len(e.Legs) > 0 && e.Legs[0].Service != "" {
		line += fmt.Sprintf(", service %s, served by %s", e.Legs[0].Service, count(e.Legs[0].Endpoints, "pod"))
	}
	return line
}

// party writes what a source is and can prove.
func (p *printer) party(from inspect.Party) {
	p.field("", cmp.Or(from.Identity, "no identity"))
	capture := from.Capture
	if from.Captured {
		capture = "captured"
	}
	p.field("", capture)
	certificate := p.certificate(from.Certificate)
	if from.Certificate != nil && from.Problem == "" {
		certificate = "certificate " + certificate
	}
	p.field("", certificate)
	if from.Problem != "" && from.Problem != certificate {
		p.field("", "problem: "+from.Problem)
	}
}

func (p *printer) certificate(c *inspect.Certificate) string {
	if c == nil {
		return ""
	}
	if problem := c.Problem(p.now); problem != "" {
		return problem
	}
	return fmt.Sprintf("valid for %s, serial %s", age(c.NotAfter.Sub(p.now)), c.Serial)
}

func (p *printer) leg(l *inspect.Leg, i int) {
	from := ""
	if i > 0 {
		from = "from there, as " + cmp.Or(l.From.Identity, l.From.Pod) + ": "
	}
	p.field("route", from+routeLine(l))
	for j := range l.Hops {
		p.hop(&l.Hops[j], j+1)
	}
}

func routeLine(l *inspect.Leg) string {
	switch l.Route {
	case mesh.RouteRefuse.String():
		return "refused: " + l.Reason
	case mesh.RoutePassthrough.String():
		return "out of the mesh, as plain TCP"
	case inspect.RouteInside:
		return "inside the pod"
	case inspect.RouteUncaptured:
		if l.Endpoints > 0 {
			return "no agent at the source: kube-proxy chooses the endpoint" + shownOf(l)
		}
		return "no agent at the source: the network takes it there"
	}
	if len(l.Hops) > 0 && l.Hops[0].Waypoint {
		return "mesh, by way of a waypoint"
	}
	return "mesh" + shownOf(l)
}

func shownOf(l *inspect.Leg) string {
	if l.Endpoints <= 1 || len(l.Hops) == 0 {
		return ""
	}
	if l.Endpoints > len(l.Hops) {
		return fmt.Sprintf("; %d of %d endpoints, as drawn for one connection", len(l.Hops), l.Endpoints)
	}
	return "; in an order drawn for each connection"
}

func (p *printer) hop(h *inspect.Hop, number int) {
	const indent = "     "
	paragraph(p.w, p.width, fmt.Sprintf("%3d. ", number), indent, partyLine(h.To))
	p.indented(indent, "by", hopLine(h))
	if h.Mode == "hbone" {
		p.indented(indent, "who", "must prove to be "+strings.Join(h.Expect, " or "))
	}
	p.indented(indent, "problem", h.Problem)
	in := h.Inbound
	if in == nil {
		if h.Mode == "hbone" {
			p.indented(indent, "policy", "its own, which no agent knows")
		}
		return
	}
	if in.Captured && (in.Reason != "" || in.Policy != "") {
		p.indented(indent, "policy", verdictOf(in))
	} else {
		p.indented(indent, "policy", "none: "+in.Capture)
	}
	for _, dry := range in.DryRun {
		p.indented(indent, "", dry.Reason)
	}
	if h.Mode == "hbone" {
		certificate := p.certificate(in.Certificate)
		p.indented(indent, "certificate", certificate)
		if in.Problem != certificate {
			p.indented(indent, "problem", in.Problem)
		}
	}
	p.indented(indent, "note", in.Note)
	p.indented(indent, "told by", answerer(in))
}

// verdictOf is the reason of a decision, which mostly begins with its verdict.
func verdictOf(in *inspect.Inbound) string {
	switch {
	case strings.HasPrefix(in.Reason, "allowed "), strings.HasPrefix(in.Reason, "denied "):
		return in.Reason
	case in.Allowed:
		return "allowed: " + in.Reason
	}
	return "refused: " + in.Reason
}

func hopLine(h *inspect.Hop) string {
	switch h.Mode {
	case "hbone":
		return fmt.Sprintf("mTLS (HBONE) to %s, for %s", h.Dial, h.Authority)
	case "local":
		return "the agent itself, which has both pods"
	}
	return fmt.Sprintf("plain TCP to %s", h.Dial)
}

func answerer(in *inspect.Inbound) string {
	switch {
	case in.Local && in.Error == "":
		return "the agent of its own node, " + in.AnsweredBy
	case in.Error != "":
		return fmt.Sprintf("the agent of node %s, by what it knows: %s", in.AnsweredBy, in.Error)
	case slices.Contains([]string{"", "-"}, in.AnsweredBy):
		return "an agent of another node, by what it knows"
	}
	return fmt.Sprintf("the agent of node %s, by what it knows", in.AnsweredBy)
}
