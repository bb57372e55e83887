package report

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/agent/proxy"
)

// Rate is how many bytes a second a connection moved lately.
type Rate struct {
	Sent     float64 `json:"sentPerSecond"`
	Received float64 `json:"receivedPerSecond"`
}

// Rates tell how fast connections move by two looks at them.
type Rates struct {
	at   time.Time
	seen map[connKey]inspect.Connection
}

// connKey tells the connections of all agents apart; an agent that was restarted
// counts from 1 again.
type connKey struct {
	node   string
	id     uint64
	opened int64
}

func keyOf(c *inspect.Connection) connKey { return connKey{c.Node, c.ID, c.Opened.UnixNano()} }

// Look notes the counters at an instant and returns the rates since the last
// look. A connection that is new counts from its beginning.
func (r *Rates) Look(now time.Time, connections []inspect.Connection) Speeds {
	rates := make(Speeds, len(connections))
	seen := make(map[connKey]inspect.Connection, len(connections))
	for i := range connections {
		c := &connections[i]
		key := keyOf(c)
		seen[key] = *c
		if r.at.IsZero() {
			continue
		}
		before := r.seen[key]
		if seconds := now.Sub(r.at).Seconds(); seconds > 0 {
			rates[key] = Rate{Sent: float64(c.Sent-before.Sent) / seconds, Received: float64(c.Received-before.Received) / seconds}
		}
	}
	r.at, r.seen = now, seen
	return rates
}

// Speeds are the rates of connections at one look.
type Speeds map[connKey]Rate

// Of is the rate of one connection.
func (s Speeds) Of(c *inspect.Connection) Rate { return s[keyOf(c)] }

// Connections writes a line for each connection, at most most of them, 0 for
// all. rates is nil without a watch.
func Connections(w io.Writer, width, most int, now time.Time, connections []inspect.Connection, rates Speeds) {
	if len(connections) == 0 {
		fmt.Fprintln(w, "No connection is open.")
		return
	}
	connections = slices.Clone(connections)
	slices.SortStableFunc(connections, func(a, b inspect.Connection) int {
		return cmp.Or(cmp.Compare(sourceOf(&a), sourceOf(&b)), cmp.Compare(destinationOf(&a), destinationOf(&b)),
			a.Opened.Compare(b.Opened), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	var names identities
	for _, c := range connections {
		names.add(c.SourceID)
		names.add(c.DestID)
	}
	columns := []column{
		{title: "SOURCE", min: 14}, {title: "DESTINATION", min: 16}, {title: "DIR"}, {title: "SECURITY"}, {title: "PEER", min: 11},
		{title: "SENT", right: true}, {title: "RECV", right: true}, {title: "AGE", right: true}, {title: "NODE", min: 8, optional: 4},
	}
	if rates != nil {
		// Who looks twice wants to see what moves.
		columns[5].optional, columns[6].optional, columns[7].optional = 1, 1, 3
		columns = slices.Insert(columns, 7, column{title: "SENT/S", right: true}, column{title: "RECV/S", right: true})
	}
	shown := len(connections)
	if most > 0 {
		shown = min(shown, most)
	}
	var rows [][]string
	for i := range connections[:shown] {
		c := &connections[i]
		row := connectionRow(c, now, &names)
		if rates != nil {
			r := rates.Of(c)
			row = slices.Insert(row, 7, size(int64(r.Sent)), size(int64(r.Received)))
		}
		rows = append(rows, row)
	}
	table(w, width, columns, rows)
	if more := len(connections) - shown; more > 0 {
		fmt.Fprintf(w, "… and %d more; name a namespace or a pod to see fewer\n", more)
	}
}

func connectionRow(c *inspect.Connection, now time.Time, names *identities) []string {
	direction, peer := "out", c.DestID
	if c.Direction == "inbound" {
		direction, peer = "in", c.SourceID
	}
	security := string(c.Security)
	if c.Phase != proxy.PhaseOpen {
		security, peer = string(c.Phase), ""
	}
	return []string{
		sourceOf(c), destinationOf(c), direction, security, names.short(peer),
		size(c.Sent), size(c.Received), since(now, c.Opened), c.Node,
	}
}

func sourceOf(c *inspect.Connection) string { return cmp.Or(c.SourcePod, c.Source.Addr().String()) }

// destinationOf is the pod, or the service while no pod has been reached, with
// the port that the source has dialled.
func destinationOf(c *inspect.Connection) string {
	port := c.Destination.Port()
	switch {
	case c.DestinationPod != "":
		return fmt.Sprintf("%s:%d", c.DestinationPod, port)
	case c.Service != "":
		return fmt.Sprintf("%s:%d", shortService(c.Service), port)
	}
	return c.Destination.String()
}

// shortService is namespace/name for namespace/name.namespace.svc and so on.
func shortService(key string) string {
	namespace, hostname, _ := strings.Cut(key, "/")
	if name, rest, ok := strings.Cut(hostname, "."); ok && strings.HasPrefix(rest, namespace+".svc.") {
		return namespace + "/" + name
	}
	return key
}
