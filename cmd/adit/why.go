package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/cmd/adit/internal/reach"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
)

func newWhyCmd() *cobra.Command {
	var o where
	var q request
	cmd := &cobra.Command{
		Use:   "why SRC DST[:PORT] | URL",
		Short: "Explain whether a connection would come about, or where a request would go, and why",
		Long: `Explain what would become of a connection of SRC to DST: by which route, to which
endpoints and in which order, who they must prove to be, in mutual TLS or in
plaintext, and which policy lets it in or refuses it. Nothing is connected: the
agents run the functions by which they decide about real connections, that of
the source's node about the way out, that of the destination's about the way in
and its certificate.

  SRC  a pod: NAMESPACE/NAME, also the name of a Deployment for one of its pods
       an IP address, of a pod or of anything else
  DST  a service or a pod: NAMESPACE/NAME, or service/NAMESPACE/NAME and
       pod/NAMESPACE/NAME where there are both
       a hostname: web, web.shop or web.shop.svc.cluster.local, as the source
       would write it
       an IP address; IPv6 with a port in brackets
  PORT may be left out where there is only one

With a URL instead, explain what the edge would do with a request: by which
Gateway's listener, with which certificate, by which route, rule and filters, to
which backends; and which other routes it takes the request from. The port is
that of the Gateway.

Not seen are NetworkPolicies, firewalls, what a waypoint decides, and whether
the application listens.

Exit codes: 0 it connects, 3 it is refused, or depends on the endpoint that is
drawn, or no rule is for the request; 1 nobody could be asked, 2 the question makes no sense.
` + whereHelp,
		Example: `  adit why shop/client shop/server:8080
  adit why shop/client-7d9f8 web.shop.svc.cluster.local:80
  adit why 192.0.2.7 shop/server:8080           # from outside of the mesh
  adit why shop/client 203.0.113.5:443 -o json
  adit why shop/intruder shop/server:8080 || echo as it should be
  adit why https://www.example.com/cart -H 'env: canary'
  adit why http://www.example.com/ -X POST --gateway shop/edge`,
		Args: whyArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return o.whyRequest(cmd, args[0], q)
			}
			return o.why(cmd, args[0], args[1])
		},
	}
	o.flags(cmd)
	q.flags(cmd)
	return cmd
}

// verdictError is an answer that scripts are to see in the exit code.
type verdictError struct{ verdict inspect.Verdict }

func (e *verdictError) Error() string {
	if e.verdict == inspect.Depends {
		return "the connection may be refused"
	}
	return "the connection would be refused"
}

func (o *where) why(cmd *cobra.Command, src, dst string) error {
	agents, done, err := o.find(cmd)
	if err != nil {
		return err
	}
	defer done()
	e, err := o.explain(cmd.Context(), agents, src, dst)
	if err != nil {
		if input := new(inspect.InputError); errors.As(err, &input) {
			return &usageError{err}
		}
		return err
	}
	out := cmd.OutOrStdout()
	if o.output == "json" {
		if err := printJSON(out, e); err != nil {
			return err
		}
	} else {
		width, _ := terminal(out)
		report.Why(out, width, time.Now(), e)
	}
	if e.Verdict != inspect.Connects {
		return &verdictError{e.Verdict}
	}
	return nil
}

// explain asks the source's agent about the way out, and the destinations' about
// the way in. Where the right one cannot be asked, another's conclusion stays.
func (o *where) explain(ctx context.Context, agents []*reach.Agent, src, dst string) (*inspect.Explanation, error) {
	question := url.Values{"src": {src}, "dst": {dst}}
	e, err := o.first(ctx, agents, question)
	if err != nil {
		return nil, err
	}
	o.learnNodes(ctx, agents)
	if node := e.Source.Node; node != "" && node != e.AnsweredBy && e.Source.Pod != "" {
		own, err := get[inspect.Explanation](ctx, o, at(agents, node), node, question)
		if err != nil {
			e.Notes = append(e.Notes, fmt.Sprintf("the agent of the source's node %s was not asked (%v); this is what the agent of node %s knows", node, err, e.AnsweredBy))
		} else {
			e = &own
		}
	}
	var hops []*inspect.Hop
	for i := range e.Legs {
		for j := range e.Legs[i].Hops {
			if h := &e.Legs[i].Hops[j]; h.Arrival != nil && h.Inbound != nil && !h.Inbound.Local && h.To.Node != "" {
				hops = append(hops, h)
			}
		}
	}
	// There are six at most.
	for _, h := range hops {
		in, err := get[inspect.Inbound](ctx, o, at(agents, h.To.Node), h.To.Node, h.Arrival.Query())
		if err != nil {
			h.Inbound.Error = err.Error()
			continue
		}
		h.Inbound = &in
	}
	e.Conclude()
	return e, nil
}

// first is the explanation of the first agent that gives one. All know the
// whole mesh, so the first that answers will do to find out whom to ask.
func (o *where) first(ctx context.Context, agents []*reach.Agent, question url.Values) (*inspect.Explanation, error) {
	var failures []error
	for _, a := range agents {
		e, err := get[inspect.Explanation](ctx, o, a, a.Node, question)
		if err == nil {
			return &e, nil
		}
		if input := new(inspect.InputError); errors.As(err, &input) {
			return nil, err
		}
		failures = append(failures, fmt.Errorf("%s: %w", a, err))
	}
	return nil, fmt.Errorf("no agent could be asked: %w", errors.Join(failures...))
}

func get[T any](ctx context.Context, o *where, a *reach.Agent, node string, query url.Values) (v T, err error) {
	if a == nil {
		return v, fmt.Errorf("there is no agent of node %s to ask", node)
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	err = a.Get(ctx, "/why", query, &v)
	return v, err
}

func at(agents []*reach.Agent, node string) *reach.Agent {
	for _, a := range agents {
		if a.Node == node {
			return a
		}
	}
	return nil
}

// learnNodes asks agents that were named by their ports where they are.
func (o *where) learnNodes(ctx context.Context, agents []*reach.Agent) {
	var unplaced []*reach.Agent
	for _, a := range agents {
		if a.Node == "" {
			unplaced = append(unplaced, a)
		}
	}
	for i, answer := range ask[inspect.Status](ctx, o, unplaced, "/status") {
		if answer.Err == nil {
			unplaced[i].Node = answer.Value.Node
		}
	}
}
