package main

import (
	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
)

func newStatusCmd() *cobra.Command {
	var o where
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the agents are",
		Long: `Show the agent of each node: its version, whether it is ready, how many of its
pods it serves, its certificates, and where it learns of the mesh. Below that
comes what is wrong, if anything is: what agents wait for, pods that are to be
captured and are not, certificates that cannot be renewed, kinds of objects that
cannot be read. Pods that are not enrolled are grouped by why.

  READY  as for Kubernetes: nothing is waited for
  PODS   served, of those enrolled
  CERTS  valid, of the identities that pods use
  OPEN   connections
  WORLD  where workloads, services and policies come from

An agent that does not answer is a line that says why. Exit codes: 0 if any
answers, 1 if none does.
` + whereHelp,
		Example: `  adit status
  adit status --node node-a
  adit status --context staging -o json
  adit status gateways
  kubectl -n adit-system exec ds/adit-agent -- /adit status`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.status(cmd) },
	}
	o.flags(cmd)
	cmd.AddCommand(newGatewaysCmd())
	return cmd
}

// agentStatus is one agent in the JSON of adit status.
type agentStatus struct {
	Node   string          `json:"node,omitempty"`
	Agent  string          `json:"agent"`
	Error  string          `json:"error,omitempty"`
	Status *inspect.Status `json:"status,omitempty"`
}

func (o *where) status(cmd *cobra.Command) error {
	agents, done, err := o.find(cmd)
	if err != nil {
		return err
	}
	defer done()
	answers := ask[inspect.Status](cmd.Context(), o, agents, "/status")
	list := []agentStatus{}
	for i := range answers {
		a := &answers[i]
		if a.Err != nil {
			list = append(list, agentStatus{Node: a.Node, Agent: a.Agent, Error: a.Err.Error()})
			continue
		}
		if a.Node == "" {
			a.Node = a.Value.Node
		}
		list = append(list, agentStatus{Node: a.Node, Agent: a.Agent, Status: &a.Value})
	}
	out := cmd.OutOrStdout()
	if o.output == "json" {
		if err := printJSON(out, struct {
			Agents []agentStatus `json:"agents"`
		}{list}); err != nil {
			return err
		}
	} else {
		width, _ := terminal(out)
		report.Status(out, width, answers)
	}
	return oneAnswered(answers)
}
