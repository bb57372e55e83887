package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/agent/inspect"
)

// Pods writes a line for each pod. all includes those that are not enrolled. now
// is the clock by which certificates are judged.
func Pods(w io.Writer, width int, now time.Time, agents []From[[]inspect.Pod], all bool) {
	var names identities
	var pods []inspect.Pod
	left := 0
	for _, a := range agents {
		for _, p := range a.Value {
			if !p.Enrolled && !all {
				left++
				continue
			}
			p.Node = cmp.Or(p.Node, a.title())
			names.add(p.Identity)
			pods = append(pods, p)
		}
	}
	slices.SortStableFunc(pods, func(a, b inspect.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	var rows [][]string
	for _, p := range pods {
		rows = append(rows, podRow(p, now, &names))
	}
	if len(rows) > 0 {
		table(w, width, []column{
			{title: "POD", min: 20}, {title: "STATE"}, {title: "IDENTITY", min: 14}, {title: "CERT"}, {title: "OPEN", right: true},
			{title: "ADDRESS", optional: 2}, {title: "NODE", min: 10, optional: 1}, {title: "WHY", min: 3, prose: true},
		}, rows)
	} else if answered(agents) {
		fmt.Fprintln(w, "No pod is enrolled. Label a namespace: kubectl label namespace NAME istio.io/dataplane-mode=ambient")
	}
	if left > 0 {
		verb := "are"
		if left == 1 {
			verb = "is"
		}
		fmt.Fprintf(w, "\n%s %s not enrolled; adit pods --all says why.\n", count(left, "pod"), verb)
	}
	Silent(w, width, agents)
}

func podRow(p inspect.Pod, now time.Time, names *identities) []string {
	var addresses []string
	for _, a := range p.Addresses {
		addresses = append(addresses, a.String())
	}
	row := []string{
		p.Namespace + "/" + p.Name, p.State, names.short(p.Identity), "", fmt.Sprint(p.Connections),
		strings.Join(addresses, ","), p.Node, p.Error,
	}
	if !p.Enrolled {
		row[1], row[2], row[4], row[7] = "not enrolled", "", "", p.Reason
		return row
	}
	switch c := p.Certificate; {
	case c == nil:
		row[3] = "none"
	case c.Problem(now) != "":
		row[3] = "none"
		row[7] = strings.TrimPrefix(row[7]+"; "+c.Problem(now), "; ")
	default:
		row[3] = age(c.NotAfter.Sub(now))
		if c.LastError != "" {
			row[7] = strings.TrimPrefix(row[7]+"; renewal: "+c.LastError, "; ")
		}
	}
	return row
}

func answered[T any](agents []From[T]) bool {
	return slices.ContainsFunc(agents, func(a From[T]) bool { return a.Err == nil })
}

// Silent names the agents that did not answer, so that what they might have
// told is missed.
func Silent[T any](w io.Writer, width int, agents []From[T]) {
	first := true
	for _, a := range agents {
		if a.Err == nil {
			continue
		}
		if first {
			fmt.Fprintln(w)
			first = false
		}
		paragraph(w, width, "", "  ", fmt.Sprintf("%s: no answer: %v", a.title(), a.Err))
	}
}
