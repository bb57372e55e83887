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
		if p.Err != nil {
			rows = append(rows, []string{p.title(), "", "", "", "", "", "", "", "no answer: " + p.Err.Error()})
			continue
		}
		rows = append(rows, gatewayRows(p)...)
	}
	table(w, width, []column{
		{title: "POD", min: 10, optional: 1}, {title: "GATEWAY", min: 12}, {title: "LISTENER", min: 8}, {title: "HOST", min: 8}, {title: "PORT", right: true},
		{title: "BIND", min: 8, optional: 2}, {title: "HTTP3"}, {title: "RULES", right: true}, {title: "STATE", min: 12, prose: true},
	}, rows)
	notGood(w, pods)
	for _, p := range pods {
		if p.Err != nil || len(p.Value.Problems) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s could not read all of %s:\n", p.title(), p.Value.Source)
		for _, problem := range p.Value.Problems {
			fmt.Fprintf(w, "  %s\n", problem)
		}
	}
}

// notGood writes the conditions that somebody has to mend, once each.
func notGood(w io.Writer, pods []From[agent.EdgeStatus]) {
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
			fmt.Fprintf(w, "  %s\n", c)
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
func Route(w io.Writer, a *ingress.Answer) {
	if a.Problem != "" {
		fmt.Fprintln(w, a.Problem)
	}
	for i, p := range a.Ports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		routeAt(w, p)
	}
}

func routeAt(w io.Writer, p ingress.PortAnswer) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(w, "%-12s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("Gateway", "%s, port %d, at %s on the pod", p.Gateway, p.Port, p.Bind)
	if p.Socket != "" {
		line("Socket", "not open: %s", p.Socket)
	}
	if p.TLS != nil {
		line("TLS", "%s", p.TLS.Outcome)
		if c := p.TLS.Certificate; c != nil {
			problem := ""
			if c.Problem != "" {
				problem = "; " + c.Problem
			}
			line("Certificate", "%s (%s), until %s%s", c.Subject, strings.Join(c.Names, ", "), c.NotAfter.UTC().Format("2006-01-02 15:04"), problem)
		}
		if p.TLS.Clients != "" {
			line("Clients", "%s", p.TLS.Clients)
		}
		if s := p.TLS.Stream; s != nil {
			line("Route", "%s", s.Route)
			backends(w, s.Backends)
		}
	}
	if p.AltSvc != "" {
		line("HTTP/3", "alt-svc: %s", p.AltSvc)
	}
	if l := p.Listener; l != nil {
		line("Listener", "%s %s, for %s", l.Owner, l.Name, anyHost(l.Hostname))
	}
	if p.Status != 0 {
		line("Answer", "%d: %s", p.Status, p.Reason)
	}
	if r := p.Rule; r != nil {
		name := ""
		if r.Name != "" {
			name = " (" + r.Name + ")"
		}
		line("Route", "%s, rule %d%s", r.Route, r.Rule, name)
		line("Match", "%s, host %s", r.Match, anyHost(r.Host))
		for _, f := range r.Filters {
			line("Filter", "%s", f)
		}
		if r.Timeouts != "" {
			line("Timeouts", "%s", r.Timeouts)
		}
		if r.Retry != "" {
			line("Retry", "%s", r.Retry)
		}
		backends(w, r.Backends)
	}
	for _, o := range p.Others {
		what := fmt.Sprintf("%s, rule %d: %s, host %s", o.Route, o.Rule, o.Match, anyHost(o.Host))
		switch {
		case o.Never != "":
			line("Shadowed", "%s; %s takes every request from it", what, o.Never)
		case o.Matches:
			line("Comes after", "%s", what)
		default:
			line("Not for it", "%s; %s", what, strings.Join(o.Failed, "; "))
		}
	}
}

func backends(w io.Writer, list []ingress.BackendAnswer) {
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
		fmt.Fprintf(w, "%-12s %s%s: %s\n", "Backend", b.Cluster, share, where)
		for _, f := range b.Filters {
			fmt.Fprintf(w, "%-12s   %s\n", "", f)
		}
	}
}

func anyHost(h string) string {
	if h == "" {
		return "any"
	}
	return h
}
