package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/cmd/adit/internal/reach"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
)

// where is what the commands that ask agents have in common: whom to ask, and
// how to say it.
type where struct {
	options reach.Options
	timeout time.Duration
	output  string
}

// whereHelp ends the help of these commands.
const whereHelp = `
Agents are asked through the API server (it takes the right to list pods and to
create pods/portforward in their namespace), found as kubectl finds a cluster:
--kubeconfig, KUBECONFIG, ~/.kube/config. Without any, as on a node or in an
agent's own container, the agent of this node is asked at 127.0.0.1:15000.
`

func (o *where) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "table", "`format`: table, or json")
	f.StringVar(&o.options.Kubeconfig, "kubeconfig", "", "the kubeconfig `file`")
	f.StringVar(&o.options.Context, "context", "", "the `context` of the kubeconfig")
	f.StringVarP(&o.options.Namespace, "namespace", "n", "adit-system", "the `namespace` that the agents run in")
	f.StringVar(&o.options.Node, "node", "", "ask the agent of this `node` only")
	f.StringSliceVar(&o.options.Admin, "admin", nil, "ask the agent at this `URL`, not a cluster; repeatable")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long an agent may take")
}

// find checks the flags and finds the agents. The caller calls done.
func (o *where) find(cmd *cobra.Command) (agents []*reach.Agent, done func(), err error) {
	if o.output != "table" && o.output != "json" {
		return nil, nil, &usageError{fmt.Errorf("-o %s is neither table nor json", o.output)}
	}
	if o.timeout <= 0 {
		return nil, nil, &usageError{fmt.Errorf("--timeout %s is no time", o.timeout)}
	}
	agents, err = reach.Find(cmd.Context(), o.options)
	if err != nil {
		return nil, nil, err
	}
	return agents, func() {
		for _, a := range agents {
			a.Close()
		}
	}, nil
}

// ask gets a path from all agents.
func ask[T any](ctx context.Context, o *where, agents []*reach.Agent, path string) []report.From[T] {
	answers := reach.Ask(ctx, agents, o.timeout, func(ctx context.Context, a *reach.Agent) (v T, err error) {
		err = a.Get(ctx, path, nil, &v)
		return v, err
	})
	from := make([]report.From[T], 0, len(answers))
	for _, a := range answers {
		from = append(from, report.From[T]{Node: a.Agent.Node, Agent: a.Agent.Name, Value: a.Value, Err: a.Err})
	}
	return from
}

// silence is an agent that did not answer, in JSON.
type silence struct {
	Node  string `json:"node,omitempty"`
	Agent string `json:"agent"`
	Error string `json:"error"`
}

func silences[T any](agents []report.From[T]) []silence {
	list := []silence{}
	for _, a := range agents {
		if a.Err != nil {
			list = append(list, silence{a.Node, a.Agent, a.Err.Error()})
		}
	}
	return list
}

// oneAnswered is an error if none did: then there is nothing to show for it.
func oneAnswered[T any](agents []report.From[T]) error {
	for _, a := range agents {
		if a.Err == nil {
			return nil
		}
	}
	if len(agents) == 1 {
		return fmt.Errorf("the agent %s does not answer", agents[0].Agent)
	}
	return fmt.Errorf("none of %d agents answers", len(agents))
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// terminal is the size of the terminal that w is; zero for anything else, which
// gets lines of any length.
func terminal(w io.Writer) (columns, lines int) {
	f, ok := w.(*os.File)
	if !ok {
		return envColumns(), 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return envColumns(), 0
	}
	return int(size.Col), int(size.Row)
}

// envColumns is the width that the user asks for where there is no terminal.
func envColumns() int {
	columns, err := strconv.Atoi(os.Getenv("COLUMNS"))
	if err != nil || columns < 0 {
		return 0
	}
	return columns
}
