package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/agent"
	"github.com/adit-mesh/adit/ingress"
)

// Gateways writes what each pod of the edge serves.
func Gateways(w io.Writer, width int, pods []From[agent.EdgeStatus]) {
	var rows [][]string
	for _, p := range pods {
		if p.Err == nil {
			rows = append(rows, gatewayRows(p)...)
		}
	}
	pod := column{title: "POD", min: 10}
	if len(pods) == 1 {
		pod.optional = 1
	}
	if len(rows) > 0 {
		table(w, width, []column{
			pod, {title: "GATEWAY", min: 12}, {title: "LISTENER", min: 8}, {title: "HOST", min: 8}, {title: "PORT", right: true},
			{title: "BIND", min: 8, optional: 2}, {title: "HTTP3"}, {title: "RULES", right: true}, {title: "STATE", min: 12, prose: true},
		}, rows)
	}
	notGood(w, width, pods)
	for _, p := range pods {
		if p.Err != nil || len(p.Value.Problems) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s could not read all of %s:\n", p.title(), p.Value.Source)
		for _, problem := range p.Value.Problems {
			paragraph(w, width, "  ", "    ", problem)
		}
	}
	Silent(w, width, pods)
}

// notGood writes the conditions that somebody has to mend, once each.
func notGood(w io.Writer, width int, pods []From[agent.EdgeStatus]) {
	seen := make(map[agent.EdgeCondition]bool)
	for _, p := range pods {
		for _, c := range p.Value.Conditions {
			if seen[c] {
				continue
			}
			if len(seen) == 0 {
				fmt.Fprintln(w, "\nNot as it should be:")
			}
			seen[c] = true
			paragraph(w, width, "  ", "    ", c.String())
		}
	}
}

func gatewayRows(p From[agent.EdgeStatus]) [][]string {
	var rows [][]string
	ports := slices.Clone(p.Value.Served.Ports)
	slices.SortFunc(ports, func(a, b ingress.DumpPort) int {
		if c := strings.Compare(a.Gateway, b.Gateway); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	for _, port := range ports {
		for _, l := range port.Listeners {
			state := []string{port.State}
			for _, c := range l.Certificates {
				if left := c.NotAfter.Sub(p.Value.Now); left <= 0 {
					state = append(state, "certificate expired")
				} else {
					state = append(state, "certificate for "+age(left))
				}
			}
			rows = append(rows, []string{
				p.title(), port.Gateway, l.Name, l.Hostname, fmt.Sprintf("%d/%s", port.Port, l.Protocol), port.Bind, port.HTTP3,
				fmt.Sprint(len(l.Routes) + len(l.Streams)), strings.Join(state, ", "),
			})
		}
	}
	if rows == nil {
		rows = [][]string{{p.title(), "", "", "", "", "", "", "", "serves no Gateway"}}
	}
	return rows
}

// Route writes what would become of a request.
func Route(w io.Writer, width int, a *ingress.Answer) {
	if a.Problem != "" {
		paragraph(w, width, "", "", a.Problem)
	}
	for i, at := range a.Ports {
		if i > 0 || a.Problem != "" {
			fmt.Fprintln(w)
		}
		p := routePrinter{w, width}
		p.port(at)
	}
}

// routePrinter writes lines that begin with what they are about.
type routePrinter struct {
	w     io.Writer
	width int
}

func (p *routePrinter) line(what, format string, args ...any) {
	const column = 13
	paragraph(p.w, p.width, fmt.Sprintf("%-*s", column, what), strings.Repeat(" ", column), fmt.Sprintf(format, args...))
}

func (p *routePrinter) port(a ingress.PortAnswer) {
	p.line("Gateway", "%s, port %d, at %s on the pod", a.Gateway, a.Port, a.Bind)
	if a.Socket != "" {
		p.line("Socket", "not open: %s", a.Socket)
	}
	if a.TLS != nil {
		p.tls(a.TLS)
	}
	p.stream(a.Stream)
	if a.AltSvc != "" {
		p.line("HTTP/3", "alt-svc: %s", a.AltSvc)
	}
	if l := a.Listener; l != nil {
		p.line("Listener", "%s %s, for %s", l.Owner, l.Name, anyHost(l.Hostname))
	}
	if a.Status != 0 {
		p.line("Answer", "%d: %s", a.Status, a.Reason)
	}
	if a.Rule != nil {
		p.rule(a.Rule)
	}
	for _, o := range a.Others {
		what := fmt.Sprintf("%s, rule %d: %s, host %s", o.Route, o.Rule, o.Match, anyHost(o.Host))
		switch {
		case o.Never != "":
			p.line("Shadowed", "%s; %s takes every request from it", what, o.Never)
		case o.Matches:
			p.line("Comes after", "%s", what)
		default:
			p.line("Not for it", "%s; %s", what, strings.Join(o.Failed, "; "))
		}
	}
}

func (p *routePrinter) tls(t *ingress.TLSAnswer) {
	p.line("TLS", "%s", t.Outcome)
	if c := t.Certificate; c != nil {
		who := strings.Join(c.Names, ", ")
		if c.Subject != "" {
			who = fmt.Sprintf("%s (%s)", c.Subject, who)
		}
		problem := ""
		if c.Problem != "" {
			problem = "; " + c.Problem
		}
		p.line("Certificate", "%s, until %s%s", who, c.NotAfter.UTC().Format("2006-01-02 15:04"), problem)
	}
	if t.Clients != "" {
		p.line("Clients", "%s", t.Clients)
	}
	p.stream(t.Stream)
}

// stream is the route of a connection that is carried as it is; nil is none.
func (p *routePrinter) stream(s *ingress.StreamAnswer) {
	if s != nil {
		p.line("Route", "%s", s.Route)
		p.backends(s.Backends)
	}
}

func (p *routePrinter) rule(r *ingress.RuleAnswer) {
	name := ""
	if r.Name != "" {
		name = " (" + r.Name + ")"
	}
	p.line("Route", "%s, rule %d%s", r.Route, r.Rule, name)
	p.line("Match", "%s, host %s", r.Match, anyHost(r.Host))
	for _, f := range r.Filters {
		p.line("Filter", "%s", f)
	}
	if r.Timeouts != "" {
		p.line("Timeouts", "%s", r.Timeouts)
	}
	if r.Retry != "" {
		p.line("Retry", "%s", r.Retry)
	}
	p.backends(r.Backends)
}

func (p *routePrinter) backends(list []ingress.BackendAnswer) {
	total := int32(0)
	for _, b := range list {
		total += b.Weight
	}
	for _, b := range list {
		where := strings.Join(b.Endpoints, ", ")
		if b.Problem != "" {
			where = b.Problem
		}
		if b.TLS {
			where += " (TLS)"
		}
		share := ""
		if total > 0 && len(list) > 1 {
			share = fmt.Sprintf(" %d%%", 100*int(b.Weight)/int(total))
		}
		p.line("Backend", "%s%s: %s", b.Cluster, share, where)
		for _, f := range b.Filters {
			p.line("", "%s", f)
		}
	}
}

func anyHost(h string) string {
	if h == "" {
		return "any"
	}
	return h
}
