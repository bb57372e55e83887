package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/e2e/bench"
	"github.com/adit-mesh/adit/e2e/bench/edge"
)

func newBenchCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the data path beside other ways to do the same",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newBenchTunnelCmd(), newBenchIngressCmd(), newBenchWorkerCmd())
	return cmd
}

func newBenchTunnelCmd() *cobra.Command {
	var (
		cfg    bench.Config
		peers  []string
		format string
		list   bool
	)
	cmd := &cobra.Command{
		Use:   "tunnel",
		Short: "Measure two agents' data path against plain proxies, raw TLS and x/net/http2",
		Long: `Measure load client -> agent A -> tunnel -> agent B -> load server, a process
each, on the loopback of a network namespace made for the run (without root: on
the machine's). Every case runs in every round on every path:

  direct    no proxy
  splice    a pair of TCP proxies that join sockets by splice(2)
  copy      a pair of TCP proxies that copy
  tls       a raw TLS 1.3 tunnel pair, one connection per stream
  nethttp2  CONNECT streams of golang.org/x/net/http2, tuned
  adit      CONNECT streams of this program: "ours" in every ratio
  agent     the same with policy and metrics, as an agent runs it

Ratios are medians over rounds of ours against a rival in the same round;
larger is better in every row. The table ends with the targets that the data
path is held to. A missed target is no error: the exit status tells only
whether the run could be made. Progress goes to stderr.

An external program joins the run by --peer NAME=COMMAND. COMMAND is run by
/bin/sh, with {listen} replaced by the address on which it must take TCP
connections, {forward} by the address to which it must bring them, and {tunnel}
by a free address for the leg between its two halves; {listen.host} and
{listen.port} are the parts of one, and so for each. It must pass on
half-closes; a shell that starts two programs and waits is fine. It is measured
once it brings a connection through, and ended with SIGTERM, then SIGKILL.`,
		Example: `  adit bench tunnel
  adit bench tunnel --cases 'bulk-*,connect-warm' --rounds 5 --duration 2s
  adit bench tunnel --format json >bench.json
  adit bench tunnel --peer 'socat=socat TCP-LISTEN:{listen.port},bind={listen.host},fork TCP:{forward}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				return bench.WriteCases(cmd.OutOrStdout())
			}
			if err := checkBenchFlags(&cfg, peers, format); err != nil {
				return &usageError{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			cfg.Progress = cmd.ErrOrStderr()
			report, err := bench.Run(ctx, cfg)
			if err != nil {
				return err
			}
			if format == "json" {
				return report.WriteJSON(cmd.OutOrStdout())
			}
			return report.WriteTable(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Rounds, "rounds", 3, "how often every case runs on every path")
	f.DurationVar(&cfg.Duration, "duration", 300*time.Millisecond, "how long each measurement lasts; a warm-up of a third precedes it")
	f.StringSliceVar(&cfg.Cases, "cases", nil, "only cases whose names match one of these globs")
	f.StringSliceVar(&cfg.Paths, "paths", nil, "only these of the built-in paths; without adit there are no ratios")
	f.StringArrayVar(&peers, "peer", nil, "NAME=COMMAND of an external program to measure too; may be repeated")
	f.StringVar(&format, "format", "table", "table or json")
	f.BoolVar(&list, "list", false, "list the cases and exit")
	f.BoolVar(&cfg.LetSleep, "let-sleep", false, "let idle processors sleep in the latency cases, which then measure mostly how they wake")
	f.BoolVar(&cfg.NoNamespace, "no-namespace", false, "use the machine's own loopback")
	return cmd
}

func checkBenchFlags(cfg *bench.Config, peers []string, format string) error {
	if format != "table" && format != "json" {
		return fmt.Errorf("--format %q: want table or json", format)
	}
	if cfg.Rounds < 1 {
		return errors.New("--rounds: want 1 or more")
	}
	if cfg.Duration < 10*time.Millisecond {
		return errors.New("--duration: want 10ms or more; shorter ones measure nothing")
	}
	for _, s := range peers {
		p, err := bench.ParsePeer(s)
		if err != nil {
			return fmt.Errorf("--peer: %w", err)
		}
		cfg.Peers = append(cfg.Peers, p)
	}
	return cfg.Check()
}

// newBenchWorkerCmd is a process of a running bench.
func newBenchWorkerCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "worker ROLE",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.HasPrefix(args[0], edge.RolePrefix) {
				return edge.Worker(args[0], cmd.InOrStdin(), cmd.OutOrStdout())
			}
			return bench.Worker(args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
