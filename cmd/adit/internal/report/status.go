package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/agent/inspect"
)

// From is what one agent told, or why it told nothing.
type From[T any] struct {
	Node  string // "" if it is not known
	Agent string
	Value T
	Err   error
}

// title is by what an agent is called.
func (f From[T]) title() string { return cmp.Or(f.Node, f.Agent) }

// Status writes how the agents are.
func Status(w io.Writer, width int, agents []From[inspect.Status]) {
	var rows [][]string
	for _, a := range agents {
		if a.Err != nil {
			rows = append(rows, []string{a.title(), "", "no", "", "", "", "", "no answer: " + a.Err.Error()})
			continue
		}
		s := a.Value
		ready := "no"
		if s.Ready {
			ready = "yes"
		}
		valid := 0
		for _, c := range s.Certificates {
			if c.Problem(s.Now) == "" {
				valid++
			}
		}
		rows = append(rows, []string{
			a.title(), s.Version, ready, fmt.Sprintf("%d/%d", s.Pods.Serving, s.Pods.Enrolled), fmt.Sprintf("%d/%d", valid, len(s.Certificates)),
			fmt.Sprint(s.Pods.Connections), since(s.Now, s.Started), world(s),
		})
	}
	table(w, width, []column{
		{title: "NODE", min: 12}, {title: "VERSION", min: 8}, {title: "READY"}, {title: "PODS"}, {title: "CERTS"},
		{title: "OPEN", right: true}, {title: "UP", right: true}, {title: "WORLD", min: 12, prose: true},
	}, rows)
	notReady(w, width, agents)
	failing(w, width, agents)
	unenrolled(w, width, agents)
	certificates(w, width, agents)
	unseen(w, width, agents)
}

// world says how current an agent's view is.
func world(s inspect.Status) string {
	what := cmp.Or(s.World.Source, "unknown")
	if what == "file" && s.World.Location != "" {
		what += " " + s.World.Location
	}
	switch {
	case s.World.Error != "":
		what += ", unreadable: " + s.World.Error
		if contact := since(s.Now, s.World.Contact); contact != "" {
			what += "; last heard of " + contact + " ago"
		}
	case !s.World.Synced:
		what += ", not read yet"
	default:
		if changed := since(s.Now, s.World.Changed); changed != "" {
			what += ", changed " + changed + " ago"
		} else if contact := since(s.Now, s.World.Contact); contact != "" {
			what += ", heard of " + contact + " ago"
		}
	}
	return what
}

func section(w io.Writer, title string) { fmt.Fprintf(w, "\n%s\n", title) }

func notReady(w io.Writer, width int, agents []From[inspect.Status]) {
	for _, a := range agents {
		if a.Err != nil || a.Value.Ready && len(a.Value.Readiness) == 0 {
			continue
		}
		state := "is not ready"
		if a.Value.Ready {
			state = "is ready; there is trouble"
		}
		section(w, a.title()+" "+state)
		for _, line := range a.Value.Readiness {
			paragraph(w, width, "  ", "    ", line)
		}
	}
}

func failing(w io.Writer, width int, agents []From[inspect.Status]) {
	var rows [][]string
	for _, a := range agents {
		for _, p := range a.Value.Failing {
			rows = append(rows, []string{p.Namespace + "/" + p.Name, a.title(), p.State, since(a.Value.Now, p.Since), p.Error})
		}
	}
	if len(rows) == 0 {
		return
	}
	section(w, "Enrolled and not served")
	table(w, width, []column{{title: "POD", min: 20}, {title: "NODE", min: 10, optional: 2}, {title: "STATE"}, {title: "FOR", right: true, optional: 1},
		{title: "WHY", min: 12, prose: true}}, rows)
}

// unenrolled groups the pods by why they are not: there may be many, for few
// reasons.
func unenrolled(w io.Writer, width int, agents []From[inspect.Status]) {
	byReason := make(map[string][]string)
	for _, a := range agents {
		for _, u := range a.Value.Unenrolled {
			byReason[u.Reason] = append(byReason[u.Reason], u.Namespace+"/"+u.Name)
		}
	}
	if len(byReason) == 0 {
		return
	}
	reasons := slices.SortedFunc(maps.Keys(byReason), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(byReason[b]), len(byReason[a])), cmp.Compare(a, b))
	})
	const examples = 2
	var rows [][]string
	for _, reason := range reasons {
		pods := byReason[reason]
		slices.Sort(pods)
		shown := strings.Join(pods[:min(len(pods), examples)], ", ")
		if len(pods) > examples {
			shown += ", …"
		}
		rows = append(rows, []string{fmt.Sprint(len(pods)), shown, reason})
	}
	section(w, "Not enrolled (adit pods --all lists them)")
	table(w, width, []column{{title: "PODS", right: true}, {title: "SUCH AS", min: 24}, {title: "WHY", min: 12, prose: true}}, rows)
}

func certificates(w io.Writer, width int, agents []From[inspect.Status]) {
	var names identities
	for _, a := range agents {
		for _, c := range a.Value.Certificates {
			names.add(c.Identity)
		}
	}
	var rows [][]string
	valid, next := 0, ""
	var left time.Duration
	for _, a := range agents {
		now := a.Value.Now
		for _, c := range a.Value.Certificates {
			problem := c.Problem(now)
			if problem == "" {
				if remains := c.NotAfter.Sub(now); valid == 0 || remains < left {
					left, next = remains, names.short(c.Identity)+" on "+a.title()
				}
				valid++
				if problem = c.LastError; problem == "" {
					continue
				}
			}
			validFor := "-"
			if remains := c.NotAfter.Sub(now); c.Serial != "" && remains > 0 {
				validFor = age(remains)
			}
			again := "now"
			if !c.NextAttempt.IsZero() {
				again = "in " + age(c.NextAttempt.Sub(now))
			}
			rows = append(rows, []string{names.short(c.Identity), a.title(), validFor, again, problem})
		}
	}
	if valid > 0 {
		section(w, "Certificates")
		verb := "are"
		if valid == 1 {
			verb = "is"
		}
		paragraph(w, width, "", "", fmt.Sprintf("%d %s valid; the first to expire, unless it is renewed, is that of %s in %s.", valid, verb, next, age(left)))
	}
	if len(rows) == 0 {
		return
	}
	section(w, "Certificates in trouble")
	table(w, width, []column{{title: "IDENTITY", min: 20}, {title: "NODE", min: 10, optional: 2}, {title: "VALID"}, {title: "AGAIN", optional: 1},
		{title: "WHY", min: 12, prose: true}}, rows)
}

// unseen are the kinds of objects that some agent cannot read.
func unseen(w io.Writer, width int, agents []From[inspect.Status]) {
	type missing struct{ kind, reason string }
	nodes := make(map[missing][]string)
	for _, a := range agents {
		for _, k := range a.Value.World.Kinds {
			if !k.Seen {
				m := missing{k.Name, k.Reason}
				nodes[m] = append(nodes[m], a.title())
			}
		}
	}
	if len(nodes) == 0 {
		return
	}
	var rows [][]string
	for m, on := range nodes {
		where := strings.Join(on, ", ")
		if len(on) > 2 {
			where = count(len(on), "node")
		}
		rows = append(rows, []string{m.kind, where, m.reason})
	}
	slices.SortFunc(rows, slices.Compare)
	section(w, "Kinds that are not seen")
	table(w, width, []column{{title: "KIND"}, {title: "ON", min: 8}, {title: "WHY", min: 12, prose: true}}, rows)
}
