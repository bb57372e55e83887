package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent/inspect"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
)

func newPodsCmd() *cobra.Command {
	var o where
	var all bool
	cmd := &cobra.Command{
		Use:   "pods [NAMESPACE[/POD]]...",
		Short: "Show the pods in the mesh, and why others are not",
		Long: `Show the pods that the agents capture: whether each is served, the identity that
it proves, for how long its certificate is valid, and its open connections. With
--all also those that are not enrolled, and why.

  STATE  enrolling   about to be captured
         serving     captured; the agent carries its connections
         retrying    could not be captured; WHY says what is in the way
         draining    leaving the mesh; open connections may end
  CERT   the time until the certificate expires; none if there is none
  OPEN   connections

Names limit the list to namespaces or to single pods.
` + whereHelp,
		Example: `  adit pods
  adit pods shop
  adit pods shop/client-7d9f8 --all
  adit pods --all -o json`,
		Args: selectorArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return o.pods(cmd, args, all) },
	}
	o.flags(cmd)
	cmd.Flags().BoolVarP(&all, "all", "A", false, "also the pods that are not enrolled")
	return cmd
}

func (o *where) pods(cmd *cobra.Command, args []string, all bool) error {
	agents, done, err := o.find(cmd)
	if err != nil {
		return err
	}
	defer done()
	answers := ask[[]inspect.Pod](cmd.Context(), o, agents, "/pods")
	listed := []inspect.Pod{}
	for i := range answers {
		kept := answers[i].Value[:0]
		for _, p := range answers[i].Value {
			if selects(args, p.Namespace+"/"+p.Name, p.Addresses...) {
				kept = append(kept, p)
			}
		}
		answers[i].Value = kept
		for _, p := range kept {
			if all || p.Enrolled {
				listed = append(listed, p)
			}
		}
	}
	out := cmd.OutOrStdout()
	if o.output == "json" {
		if err := printJSON(out, struct {
			Pods   []inspect.Pod `json:"pods"`
			Errors []silence     `json:"errors"`
		}{listed, silences(answers)}); err != nil {
			return err
		}
	} else {
		width, _ := terminal(out)
		report.Pods(out, width, time.Now(), answers, all)
	}
	return oneAnswered(answers)
}

// selectorArgs takes namespaces, pods and addresses.
func selectorArgs(cmd *cobra.Command, args []string) error {
	for _, arg := range args {
		if strings.Count(arg, "/") > 1 || arg == "" || strings.HasPrefix(arg, "/") {
			return &usageError{fmt.Errorf("%q is neither NAMESPACE, NAMESPACE/POD nor an IP address; see %s --help", arg, cmd.CommandPath())}
		}
	}
	return nil
}

// selects reports whether any selector names a pod, its namespace or one of its
// addresses. No selector selects everything.
func selects(selectors []string, pod string, addresses ...netip.Addr) bool {
	for _, s := range selectors {
		if pod == s || strings.HasPrefix(pod, strings.TrimSuffix(s, "/")+"/") {
			return true
		}
		for _, a := range addresses {
			if a.IsValid() && a.String() == s {
				return true
			}
		}
	}
	return len(selectors) == 0
}
