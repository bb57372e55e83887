package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent"
	"github.com/adit-mesh/adit/agent/kube"
)

func newAgentCmd() *cobra.Command {
	var path, node, pod string
	var check bool
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Run the node agent",
		Long: `Run the node agent: capture the local pods that the mesh file names or
Kubernetes enrols, carry their connections in mutual TLS, and apply policy to
what comes in.

It needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN, to enter the pods' network
namespaces and load rules there; the encapsulate and terminate roles need
nothing.

A first SIGINT or SIGTERM stops it softly: live connections may end within
drainTimeout, and until the last two seconds of that new ones are served, too,
since nobody else can. A second one stops it at once. Pods keep their capture
rules either way: without an agent they have no network, rather than one in
plaintext. A running pod leaves the mesh by losing its netns in the mesh file, or
its label istio.io/dataplane-mode in Kubernetes; when the agent's DaemonSet is
deleted, all of them do.

Exit codes: 0 stopped as asked, 1 trouble at run time, 2 configuration.`,
		Example: `  adit agent --config agent.yaml
  adit agent --config agent.yaml --check        # read it, say what is wrong, exit

The configuration, with its defaults:

` + strings.TrimSuffix(agent.ReferenceConfig, "\n"),
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" {
				return &usageError{errors.New("agent needs --config FILE; adit agent --help shows one")}
			}
			cfg, err := agent.LoadConfig(path)
			if err != nil {
				return err
			}
			if node != "" {
				cfg.NodeName = node
			}
			self, err := parsePod(pod)
			if err != nil {
				return err
			}
			if check {
				if err := agent.Check(cfg, newLogger(cmd.ErrOrStderr(), cfg.Log.Format, slog.LevelWarn)); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", path)
				return err
			}
			return runAgent(cmd, cfg, self)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "the configuration `file`")
	cmd.Flags().StringVar(&node, "node-name", "", "this node's `name`, instead of nodeName in the configuration")
	cmd.Flags().StringVar(&pod, "pod", "", "the agent's own pod, as `NAMESPACE/NAME`; by it the agent knows whether it is being removed or only restarted")
	cmd.Flags().BoolVar(&check, "check", false, "only check the configuration and the mesh file it names")
	return cmd
}

// parsePod reads NAMESPACE/NAME; "" is no pod.
func parsePod(s string) (kube.PodRef, error) {
	if s == "" {
		return kube.PodRef{}, nil
	}
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return kube.PodRef{}, &usageError{fmt.Errorf("--pod %q: want NAMESPACE/NAME", s)}
	}
	return kube.PodRef{Namespace: namespace, Name: name}, nil
}

func runAgent(cmd *cobra.Command, cfg agent.Config, self kube.PodRef) error {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return err // LoadConfig has seen it
	}
	a, err := agent.New(cfg, agent.Options{
		Logger:    newLogger(cmd.ErrOrStderr(), cfg.Log.Format, level),
		Level:     level,
		AccessLog: os.Stdout,
		Version:   version,
		Self:      self,
	})
	if err != nil {
		return err
	}
	if cfg.Ingress != nil {
		spareCollector()
	}
	return a.Run(cmd.Context())
}

func newLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
