package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/e2e/bench/edge"
)

func newBenchIngressCmd() *cobra.Command {
	var (
		cfg    edge.Config
		asJSON bool
		list   bool
	)
	cmd := &cobra.Command{
		Use:   "ingress",
		Short: "Measure adit ingress beside Caddy, nginx and HAProxy",
		Long: `Measure adit ingress (a process of this program, with its access log off) beside
Caddy, nginx and HAProxy as Debian packages them, with wrk, h2load and a client
for HTTP/3: load client -> proxy -> backend on the loopback of a network
namespace made for the run (without root: on the machine's). The proxy has one
processor for itself, client and backend share another. Every case runs in every
round on every proxy.

Ratios are medians over rounds of ours against a rival in the same round; larger
is better in every row. A missed target is no error: the exit status tells only
whether the run could be made. Progress goes to stderr.`,
		Example: `  adit bench ingress
  adit bench ingress --only 'h2-*,tls-*' --rounds 5 --duration 2s
  adit bench ingress --json >bench.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				return edge.WriteCases(cmd.OutOrStdout())
			}
			if err := checkBenchIngressFlags(&cfg); err != nil {
				return &usageError{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			cfg.Progress = cmd.ErrOrStderr()
			report, err := edge.Run(ctx, cfg)
			if err != nil {
				return err
			}
			if asJSON {
				return report.WriteJSON(cmd.OutOrStdout())
			}
			return report.WriteTable(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Rounds, "rounds", 3, "how often every case runs on every proxy")
	f.DurationVar(&cfg.Duration, "duration", time.Second, "how long each measurement lasts, after a warm-up")
	f.StringSliceVar(&cfg.Cases, "only", nil, "only cases whose names match one of these globs")
	f.StringSliceVar(&cfg.Paths, "paths", nil, "only these of adit, caddy, nginx, haproxy and direct; without adit there are no ratios")
	f.BoolVar(&asJSON, "json", false, "write JSON instead of a table")
	f.BoolVar(&list, "list", false, "list the cases and exit")
	f.BoolVar(&cfg.NoNamespace, "no-namespace", false, "use the machine's own loopback")
	f.BoolVar(&cfg.Prefer, "prefer", false, "let all that is measured run before other programs, on a machine that is not quiet; takes CAP_SYS_NICE")
	return cmd
}

func checkBenchIngressFlags(cfg *edge.Config) error {
	if cfg.Rounds < 1 {
		return errors.New("--rounds: want 1 or more")
	}
	if cfg.Duration < 100*time.Millisecond {
		return fmt.Errorf("--duration %s: want 100ms or more; shorter ones measure nothing", cfg.Duration)
	}
	return cfg.Check()
}
