package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/cmd/adit/internal/reach"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
)

// connectionsCmd is adit connections with its flags.
type connectionsCmd struct {
	where
	watch     bool
	interval  time.Duration
	rounds    int // of a watch; 0 = until it is stopped
	direction string
	names     []string
}

func newConnectionsCmd() *cobra.Command {
	var o connectionsCmd
	cmd := &cobra.Command{
		Use:     "connections [NAMESPACE[/POD] | IP]...",
		Aliases: []string{"conns"},
		Short:   "Show who talks to whom, as whom, and how it is protected",
		Long: `Show the open connections of captured pods.

  DIR       out: told by the agent of the source; in: by that of the destination.
            One between two captured pods has a line at either end.
  SECURITY  mTLS       in a tunnel; PEER has proved who it is
            same-node  handed over inside the agent, which knows both pods
            plaintext  the other end is not in the mesh: nothing is proved
            deciding, dialing: not there yet
  PEER      the identity of the other end, as namespace/service account
  SENT      bytes from the source to the destination; RECV, the other way

Names limit the list to connections with such an end.
` + whereHelp,
		Example: `  adit connections
  adit connections shop
  adit connections shop/client-7d9f8 --watch
  adit connections --direction in -o json | jq '.connections[] | select(.security == "plaintext")'`,
		Args: selectorArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return o.run(cmd)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVarP(&o.watch, "watch", "w", false, "look again and again, and show bytes a second")
	cmd.Flags().DurationVar(&o.interval, "interval", 2*time.Second, "how often --watch looks")
	cmd.Flags().IntVar(&o.rounds, "rounds", 0, "how many times --watch looks; 0 = until it is stopped")
	cmd.Flags().StringVar(&o.direction, "direction", "", "only `in` or out")
	return cmd
}

func (o *connectionsCmd) run(cmd *cobra.Command) error {
	switch o.direction {
	case "", "in", "out":
	default:
		return &usageError{fmt.Errorf("--direction %s is neither in nor out", o.direction)}
	}
	if o.watch && o.interval < 100*time.Millisecond {
		return &usageError{fmt.Errorf("--interval %s is too short; 100ms is the least", o.interval)}
	}
	if !o.watch {
		agents, done, err := o.find(cmd)
		if err != nil {
			return err
		}
		defer done()
		_, err = o.show(cmd.Context(), cmd.OutOrStdout(), agents, nil)
		return err
	}
	return o.follow(cmd)
}

// follow shows the connections until the context ends, which is no error. Agents
// that are away for a while are waited for; those that have come in the place of
// others are found.
func (o *connectionsCmd) follow(cmd *cobra.Command) error {
	agents, done, err := o.find(cmd)
	if err != nil {
		return err
	}
	defer func() { done() }()
	ctx := cmd.Context()
	var rates report.Rates
	tick := time.NewTicker(o.interval)
	defer tick.Stop()
	for round := 1; ; round++ {
		complete, err := o.show(ctx, cmd.OutOrStdout(), agents, &rates)
		if err != nil && (round == 1 || o.rounds == round) && ctx.Err() == nil {
			return err
		}
		if o.rounds == round {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if complete {
			continue
		}
		if others, otherDone, err := o.find(cmd); err == nil {
			done()
			agents, done = others, otherDone
		}
	}
}

// moving is a connection in the JSON of a watch.
type moving struct {
	inspect.Connection
	report.Rate
}

// show looks once, and reports whether all agents have answered. rates is nil
// without a watch.
func (o *connectionsCmd) show(ctx context.Context, out io.Writer, agents []*reach.Agent, rates *report.Rates) (complete bool, err error) {
	answers := ask[[]inspect.Connection](ctx, &o.where, agents, "/connections")
	if ctx.Err() != nil {
		return false, nil
	}
	now := time.Now()
	list := []inspect.Connection{}
	for i := range answers {
		for _, c := range answers[i].Value {
			if o.wants(&c) {
				list = append(list, c)
			}
		}
	}
	switch {
	case o.output == "json" && rates == nil:
		err := printJSON(out, struct {
			Connections []inspect.Connection `json:"connections"`
			Errors      []silence            `json:"errors"`
		}{list, silences(answers)})
		if err != nil {
			return false, err
		}
	case o.output == "json":
		// A line for each round, for programs that follow.
		speeds := rates.Look(now, list)
		moved := make([]moving, 0, len(list))
		for i := range list {
			moved = append(moved, moving{list[i], speeds.Of(&list[i])})
		}
		err := json.NewEncoder(out).Encode(struct {
			Time        time.Time `json:"time"`
			Connections []moving  `json:"connections"`
			Errors      []silence `json:"errors"`
		}{now, moved, silences(answers)})
		if err != nil {
			return false, err
		}
	default:
		o.print(out, now, list, answers, rates)
	}
	return len(silences(answers)) == 0, oneAnswered(answers)
}

// print writes one round for a person: over the last one on a terminal, below
// it elsewhere.
func (o *connectionsCmd) print(out io.Writer, now time.Time, list []inspect.Connection, answers []report.From[[]inspect.Connection], rates *report.Rates) {
	width, height := terminal(out)
	if rates == nil {
		if len(list) > 0 || oneAnswered(answers) == nil {
			report.Connections(out, width, 0, now, list, nil)
		}
		report.Silent(out, width, answers)
		return
	}
	const clear = "\x1b[H\x1b[2J"
	const frame = 4 // lines that are no connection
	most := 0
	if height > 0 {
		fmt.Fprint(out, clear)
		most = max(height-frame, 1)
	}
	fmt.Fprintf(out, "%s, every %s\n", now.Format(time.TimeOnly), o.interval)
	report.Connections(out, width, most, now, list, rates.Look(now, list))
	report.Silent(out, width, answers)
	if height == 0 {
		fmt.Fprintln(out)
	}
}

func (o *connectionsCmd) wants(c *inspect.Connection) bool {
	if o.direction != "" && c.Direction != o.direction+"bound" {
		return false
	}
	return selects(o.names, c.SourcePod, c.Source.Addr()) || selects(o.names, c.DestinationPod, c.Destination.Addr()) || selects(o.names, c.Service)
}
