package main

import (
	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
)

func newGatewaysCmd() *cobra.Command {
	var o where
	cmd := &cobra.Command{
		Use:   "gateways",
		Short: "Show what the edge serves",
		Long: `Show the Gateways that each pod of the edge serves: a line for each listener, with
its address on the pod, whether the socket is open, whether HTTP/3 is served
beside it, how long its certificate is valid, and how many rules are attached.
Below that comes what is wrong, if anything is.

  BIND    where the pod listens; in Kubernetes a Service leads there from PORT
  HTTP3   serving, off, or why not; none where there is no HTTPS
  RULES   of routes attached to the listener

Exit codes: 0 if any pod of the edge answers, 1 if none does.
` + whereHelp,
		Example: `  adit status gateways
  adit status gateways -o json
  kubectl -n adit-system exec deploy/adit-ingress -- /adit status gateways`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.gateways(cmd) },
	}
	o.flags(cmd)
	return cmd
}

// edgeStatus is one pod of the edge in the JSON of adit status gateways.
type edgeStatus struct {
	Agent  string            `json:"agent"`
	Error  string            `json:"error,omitempty"`
	Status *agent.EdgeStatus `json:"status,omitempty"`
}

func (o *where) gateways(cmd *cobra.Command) error {
	o.options.Edge = true
	agents, done, err := o.find(cmd)
	if err != nil {
		return err
	}
	defer done()
	all := ask[agent.EdgeStatus](cmd.Context(), o, agents, "/gateways")
	// Agents without an ingress are not of the edge, unless nobody is.
	answers := all[:0:0]
	for _, a := range all {
		if a.Err == nil {
			answers = append(answers, a)
		}
	}
	if len(answers) == 0 {
		answers = all
	}
	list := []edgeStatus{}
	for i := range answers {
		if a := &answers[i]; a.Err != nil {
			list = append(list, edgeStatus{Agent: a.Agent, Error: a.Err.Error()})
		} else {
			list = append(list, edgeStatus{Agent: a.Agent, Status: &a.Value})
		}
	}
	out := cmd.OutOrStdout()
	if o.output == "json" {
		if err := printJSON(out, struct {
			Agents []edgeStatus `json:"agents"`
		}{list}); err != nil {
			return err
		}
	} else {
		width, _ := terminal(out)
		report.Gateways(out, width, answers)
	}
	return oneAnswered(answers)
}
